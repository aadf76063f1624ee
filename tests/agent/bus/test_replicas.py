"""Three replicas whose clocks are 3 s apart, a cron job each second, one server: every tick fires once.

`DEFINABLE_KILLS=20` restarts replicas that often instead of three times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from loopback.redis import RedisServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

RESTARTS = int(os.environ.get("DEFINABLE_KILLS", "3"))

REPLICAS = (("asyncio", "-3"), ("trio", "0"), ("asyncio", "3"))

STOP_TIMEOUT = 20.0
"""Seconds."""


@contextmanager
def replica(url: str, log: Path, backend: str, skew: str) -> Generator[subprocess.Popen[str], None, None]:
    script = str(Path(__file__).with_name("replica.py"))
    command = [sys.executable, script, url, str(log), backend, skew]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(60 + 4 * RESTARTS)
@pytest.mark.parametrize("server", ["redis", "postgres"])
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_every_tick_fires_once_over_replicas_that_restart(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, by: signal.Signals
) -> None:
    found: RedisServer | str = request.getfixturevalue(server)
    url, log = found if isinstance(found, str) else found.url, tmp_path / "log"
    with ExitStack() as stack:
        running = [stack.enter_context(replica(url, log, *options)) for options in REPLICAS]
        began = time.time()
        for restart in range(RESTARTS):
            time.sleep(random.uniform(0.5, 1.5))
            which = restart % len(REPLICAS)
            running[which].send_signal(by)
            assert running[which].wait(STOP_TIMEOUT) == (0 if by is signal.SIGTERM else -9)
            running[which] = stack.enter_context(replica(url, log, *REPLICAS[which]))
        time.sleep(5 if by is signal.SIGTERM else 7)  # the last that a kill has left is taken over in the meantime
        ended = time.time()
        for process in running:
            process.terminate()
        for process in running:
            assert process.wait(STOP_TIMEOUT) == 0

    ticks: dict[int, list[tuple[str, int]]] = defaultdict(list)
    replicas: set[str] = set()
    for line in log.read_text().splitlines():
        tick, id, attempt, skew = line.split()
        ticks[int(tick)].append((id, int(attempt)))
        replicas.add(skew)
    wanted = range(int(began) + 1, int(ended) - 3)
    repeated = sum(len(handled) - 1 for handled in ticks.values())
    sys.stdout.write(f"{RESTARTS} restarts: {len(ticks)} ticks, {repeated} of them handled again\n")
    assert [tick for tick in wanted if tick not in ticks] == []
    assert len(replicas) > 1
    for tick, handled in ticks.items():
        assert len({id for id, _ in handled}) == 1, f"{tick} was fired by several"
        assert len({attempt for _, attempt in handled}) == len(handled)
    if by is signal.SIGTERM:
        assert repeated == 0
