"""A real PostgreSQL on a free port: Debian's package, started by the fixture; each test has a schema of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from .redis import free_port

START_TIMEOUT = 60.0
"""Seconds."""

OPTIONS = ("fsync=off", "synchronous_commit=on", "max_connections=200", "shared_buffers=32MB", "jit=off")
"""A test's server need not survive a loss of power."""


@cache
def postgres_binaries() -> Path | None:
    """The folder of initdb and postgres, the newest; None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    name = shutil.which("initdb")
    return None if name is None else Path(name).parent


class PostgresServer:
    """A server that keeps what it was told over its own death.

    Args:
        directory: For its files; it belongs to the server's user.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def new_schema(self) -> str:
        """The DSN of a schema of its own, empty."""
        name = f"test_{next(self._numbers)}"
        with self.connected() as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]
        return f"{self.url}?options=-csearch_path%3D{name}"

    @contextmanager
    def connected(self, dsn: str | None = None) -> Generator[psycopg.Connection]:
        with psycopg.connect(dsn or self.url, autocommit=True) as connection:
            yield connection

    def make(self) -> None:
        """Make its files."""
        self._run(
            "initdb", "--no-sync", "--auth=trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D", "data"
        ).wait()

    def start(self) -> None:
        words = ("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.directory), "-D", "data")
        options = [word for option in OPTIONS for word in ("-c", option)]
        self._process = self._run("postgres", *words, *options)
        end = time.monotonic() + START_TIMEOUT
        while True:
            assert self._process.poll() is None, "postgres ended at once"
            assert time.monotonic() < end, "postgres does not answer"
            try:
                with self.connected():
                    return
            except psycopg.OperationalError:
                time.sleep(0.02)

    def _run(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        binaries = postgres_binaries()
        assert binaries is not None, "no postgres: install PostgreSQL"
        user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        output = open(self.directory / "log", "ab")
        with output:
            return subprocess.Popen(
                [binaries / program, *words], cwd=self.directory, stdout=output, stderr=output, user=user
            )

    def kill(self) -> None:
        """End it at once, as a crash would: it recovers when it is started again."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Hangs while the context is open: its processes answer nobody."""
        assert self._process is not None
        listed = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        pids = [self._process.pid, *map(int, listed.stdout.split())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


@contextmanager
def running_postgres() -> Generator[PostgresServer]:
    """A server while the context is open, in a folder that its user may enter, other than pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="definable-postgres-"))
    try:
        if os.getuid() == 0:
            os.chown(directory, pwd.getpwnam("postgres").pw_uid, -1)
        server = PostgresServer(directory)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def has_postgres() -> None:
    """Skips where there is no PostgreSQL, but for the gate."""
    if postgres_binaries() is None and "CI" not in os.environ:
        pytest.skip("no postgres: install PostgreSQL (on Debian the package `postgresql`)")


@pytest.fixture(scope="session")
def shared_postgres(has_postgres: None) -> Iterator[PostgresServer]:
    """A server that no test stops."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres(shared_postgres: PostgresServer) -> str:
    """The DSN of an empty schema there."""
    return shared_postgres.new_schema()


@pytest.fixture
def own_postgres(has_postgres: None) -> Iterator[PostgresServer]:
    """A server that this test may kill."""
    with running_postgres() as server:
        yield server


PGBOUNCER = """[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
"""


@pytest.fixture
def pooled_postgres(shared_postgres: PostgresServer) -> Iterator[str]:
    """The DSN of an empty database behind PgBouncer, which gives every transaction another connection."""
    binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip("no pgbouncer: install PgBouncer (on Debian the package `pgbouncer`)")
    port, database = free_port(), f"pooled_{uuid4().hex}"
    with shared_postgres.connected() as connection:
        connection.execute(f"CREATE DATABASE {database}")  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="definable-pgbouncer-") as name:
        directory = Path(name)
        (directory / "users").write_text('"postgres" ""\n')
        (directory / "ini").write_text(PGBOUNCER.format(server=shared_postgres.port, port=port, directory=directory))
        user = "postgres" if os.getuid() == 0 else None
        if user is not None:
            directory.chmod(0o755)
        with subprocess.Popen([binary, directory / "ini"], stderr=subprocess.DEVNULL, user=user) as process:
            dsn = f"postgresql://postgres@127.0.0.1:{port}/{database}"
            end = time.monotonic() + START_TIMEOUT
            try:
                while True:
                    try:
                        psycopg.connect(dsn).close()
                        break
                    except psycopg.OperationalError:
                        assert time.monotonic() < end, "pgbouncer does not answer"
                        time.sleep(0.02)
                yield dsn
            finally:
                process.terminate()
