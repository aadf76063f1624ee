"""examples/replicas.py: three replicas, one Redis, one command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback.redis import RedisServer, redis_binary

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

EXAMPLE = Path(__file__).parents[3] / "examples" / "replicas.py"

LIMIT = 30.0
"""Seconds."""


class Watched:
    """The example, and what it has said."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(line.strip())

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def pids(self) -> dict[str, int]:
        return {name: int(pid) for name, pid in self._found(r"(\w+) is process (\d+)")}

    def handled(self) -> list[tuple[int, str, int]]:
        found = self._found(r"(\w+) handled order (\d+) \(attempt (\d+)\)")
        return [(int(order), name, int(attempt)) for name, order, attempt in found]

    def _found(self, pattern: str) -> list[tuple[str, ...]]:
        return [match.groups() for line in self.said if (match := re.fullmatch(pattern, line))]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        return status

    def end(self) -> None:
        for pid in [*self.pids().values(), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self._reader.join(LIMIT)


@pytest.fixture
def example(redis: RedisServer) -> Iterator[Watched]:
    watched = Watched(os.environ | {"REDIS_URL": redis.url})
    try:
        yield watched
    finally:
        watched.end()


def test_the_work_goes_on_when_a_replica_is_killed(example: Watched) -> None:
    example.wait_for(lambda: len({name for _, name, _ in example.handled()}) > 1)
    first = dict(example.pids())
    victim = example.handled()[-1][1]
    os.kill(first[victim], signal.SIGKILL)
    example.wait_for(lambda: example.pids()[victim] != first[victim])
    before = len(example.handled())
    example.wait_for(lambda: len(example.handled()) > before + 4)
    assert example.stop() == 0
    orders = Counter(order for order, _, _ in example.handled())
    assert sorted(orders) == list(range(min(orders), max(orders) + 1))
    repeated = {order for order, count in orders.items() if count > 1}
    # At least once: what the victim had done and not yet acknowledged comes again, as another attempt.
    assert {name for order, name, attempt in example.handled() if order in repeated and attempt == 1} <= {victim}


def test_it_starts_a_redis_of_its_own(has_redis: None, tmp_path: Path) -> None:
    binary = redis_binary()
    assert binary is not None
    (tmp_path / "redis-server").symlink_to(binary)
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    example = Watched(environment | {"PATH": f"{tmp_path}:{environment['PATH']}", "TMPDIR": str(tmp_path)})
    try:
        example.wait_for(example.handled)
        assert example.stop() == 0
    finally:
        example.end()


def test_without_a_redis_it_says_what_to_install(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "apt install redis-server" in done.stderr
