"""A full disk, a locked file, no descriptors, a stop that is stuck: the service says so, goes on, and loses nothing.

The disk is full by RLIMIT_FSIZE, which needs no rights and no file system of its own.
"""

from __future__ import annotations

import itertools
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from watched_process import WatchedProcess

TESTS = Path(__file__).parent.parent

LIMIT = 20.0
"""Seconds that anything may take to recover."""

STUCK_MARGIN = 5.0
"""Seconds beyond its grace that a process may live."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")


class Cramped:
    """A service, and what it promised.

    Args:
        process: Its process.
        directory: Where it keeps its files.
    """

    def __init__(self, process: WatchedProcess, directory: Path) -> None:
        self.process = process
        self.url = process.wait_for(r"http +(http://\S+)")
        self.promised: set[str] = set()
        self._directory = directory
        self._client = httpx2.Client(base_url=self.url, timeout=10, trust_env=False, verify=False)
        self._numbers = itertools.count()

    def accept(self, padding: int = 0) -> int:
        """Have it accept a delivery; the status of its answer."""
        id = f"d{next(self._numbers)}"
        status = self._client.post("/accept", json={"id": id, "padding": "x" * padding}).status_code
        if status == 202:
            self.promised.add(id)
        return status

    def limit(self, resource: str, value: int | None) -> None:
        assert self._client.post("/limit", json={"resource": resource, "value": value}).status_code == 200

    def run(self) -> int:
        return self._client.post("/run", json={"input": "hi", "session_id": "s"}).status_code

    @property
    def health(self) -> int:
        return self._client.get("/health").status_code

    def cpu_share(self, seconds: float) -> float:
        """How much of one processor it uses."""
        process = psutil.Process(self.process.process.pid)
        process.cpu_percent()
        return process.cpu_percent(seconds) / 100

    def stop(self) -> None:
        """Stop it cleanly; everything that it promised must be done then."""
        self._client.close()
        self.process.process.send_signal(signal.SIGTERM)
        assert self.process.exit_status() == 0, self.process.text
        assert "stopped cleanly" in self.process.text
        done = {path.name for path in (self._directory / "done").iterdir()}
        assert self.promised <= done

    def close(self) -> None:
        self._client.close()


@pytest.fixture(params=["asyncio", "trio"])
def cramped(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Cramped, None, None]:
    with service(request.param, tmp_path, 20) as process, closing(Cramped(process, tmp_path)) as served:
        yield served


@contextmanager
def service(backend: str, directory: Path, grace: float) -> Generator[WatchedProcess, None, None]:
    script = str(TESTS / "chaos" / "cramped_service.py")
    with WatchedProcess([script, backend, str(directory), str(grace)], directory) as process:
        yield process


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_disk_refuses_work_and_is_over_when_there_is_room(cramped: Cramped) -> None:
    assert cramped.accept() == 202
    cramped.limit("RLIMIT_FSIZE", 300_000)
    statuses = [cramped.accept(padding=50_000) for _ in range(30)]
    assert set(statuses) == {202, 503}  # what fits is taken still
    assert cramped.health in (200, 503)
    cramped.limit("RLIMIT_FSIZE", None)
    eventually(lambda: cramped.accept() == 202)
    eventually(lambda: cramped.run() == 200)
    eventually(lambda: cramped.health == 200)
    cramped.stop()


def test_a_locked_file_makes_work_wait_or_refuses_it(cramped: Cramped, tmp_path: Path) -> None:
    assert cramped.accept() == 202
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None, timeout=LIMIT)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ExitStack() as waiting:
            clients = [
                waiting.enter_context(httpx2.Client(base_url=cramped.url, trust_env=False, verify=False))
                for _ in range(3)
            ]
            for client in clients:
                with pytest.raises(httpx2.TimeoutException):
                    client.post("/accept", json={"id": "nobody"}, timeout=0.3)
            assert cramped.run() == 200  # it needs the other file
            assert cramped.health in (200, 503)
            other.execute("ROLLBACK")
    eventually(lambda: cramped.accept() == 202)
    eventually(lambda: cramped.health == 200)
    cramped.stop()


def test_without_descriptors_it_serves_again_when_some_are_free(cramped: Cramped) -> None:
    assert cramped.accept() == 202
    cramped.limit("RLIMIT_NOFILE", 40)
    port = int(cramped.url.rsplit(":", 1)[1])
    with ExitStack() as crowd:
        for _ in range(60):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        # Over a new connection: the one that it has may have given way, as the longest idle.
        with httpx2.Client(base_url=cramped.url, trust_env=False, verify=False, timeout=LIMIT) as another:
            assert another.get("/health").status_code in (200, 503)
        assert cramped.cpu_share(0.5) < 0.8  # a full table is no reason to spin
    cramped.limit("RLIMIT_NOFILE", None)
    with httpx2.Client(base_url=cramped.url, trust_env=False, verify=False, timeout=LIMIT) as another:
        assert another.get("/health").status_code == 200
    eventually(lambda: cramped.accept() == 202)
    cramped.stop()


def test_a_stop_that_is_stuck_ends_within_its_bound(tmp_path: Path) -> None:
    grace = 0.5
    with ExitStack() as stack:
        processes = []
        for backend in ("asyncio", "trio"):
            (tmp_path / backend).mkdir()
            process = stack.enter_context(service(backend, tmp_path / backend, grace))
            url = process.wait_for(r"http +(http://\S+)")
            with pytest.raises(httpx2.TimeoutException):
                httpx2.post(f"{url}/swallow", json={}, timeout=0.5)
            process.process.send_signal(signal.SIGTERM)
            processes.append(process)
        began = time.monotonic()
        for process in processes:
            assert process.exit_status() == 128 + signal.SIGTERM, process.text
        assert time.monotonic() - began < grace + STUCK_MARGIN + 3
