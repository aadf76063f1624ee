"""One PostgreSQL database, used from async code: every transaction is one function call in a worker thread.

psycopg's own asynchronous interface works on asyncio alone; its synchronous one, in threads of ours, works on both.
A transaction begins, works and ends within one call under one lock, as in `SQLiteFile`, and the connection exists while
the database is held open (`open`), or else for one transaction. A connection that failed is replaced at the next call,
after a pause that grows.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from definable.concurrency.backoff import Backoff
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, MissingExtra, StorageError

from .service_name import ServerAway

if TYPE_CHECKING:
    from psycopg import Connection

logger: logging.Logger = logger_named(__name__)

Result = TypeVar("Result")

Work: TypeAlias = "Callable[[Connection[tuple[Any, ...]]], Result]"
"""What one transaction does; runs in a worker thread and returns plain values, no cursors."""

DEFAULT_TIMEOUT = 5.0
"""Seconds."""

SCHEMA_VERSION = 1
"""Of all tables of this library in a database."""

SCHEMA_LOCK = 0x646566696E61626C
"""The key of the advisory lock that is held while tables are made: `definabl` in ASCII."""

RECONNECT_BACKOFF = Backoff(initial=0.02, maximum=1.0, jitter=0.5, stable_after=1.0)
"""Between two tries to connect."""

MAX_REPEATS = 5
"""Tries of a transaction that the server undoes because of another one."""

BOUNDS = """SELECT set_config('statement_timeout', %(milliseconds)s, true),
set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true)"""

UNDONE = ("40001", "40P01")
"""SQLSTATE of transactions that are to be made again: serialization failure, deadlock
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

STALE = ("25006", "57P01", "57P02", "57P03")
"""SQLSTATE of answers that another connection may not give: the server is read-only (another is the primary now), is
being stopped or is not ready."""

REFUSED = ("22", "54")
"""Classes of SQLSTATE that the same data will get again: it cannot be represented, or is too large."""


class PostgresAway(ServerAway):
    """PostgreSQL cannot be reached, or does not answer: whether it did what it was asked to is not known."""


class PostgresRefusal(StorageError):
    """PostgreSQL has refused data and will refuse it again."""


class PostgresDatabase:
    """A database, shared by any number of tasks, event loops, threads and processes.

    Args:
        dsn: A URI or keywords and values (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING).
        user: What the database is for; for errors.
        schema: Statements that make what is needed, `CREATE ... IF NOT EXISTS`.
        timeout: Seconds for a transaction, and to connect, beyond which the connection is given up.

    Raises:
        ConfigurationError: The DSN is none, or the time is out of its range.
        MissingExtra: psycopg is not installed.
    """

    def __init__(self, dsn: str, user: str, schema: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> None:
        if find_spec("psycopg") is None:
            raise MissingExtra(f"{user} needs psycopg: pip install definable[postgres]")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(f"timeout={timeout!r}: seconds, greater than 0")
        self._dsn, self._user = dsn, user
        self._shown = _checked(dsn)
        self._schema = schema
        self.timeout: float = timeout
        self.failure: StorageError | None = None
        """Why the last call failed to reach it; None when it did."""
        self._lock = threading.Lock()  # taken in worker threads alone: an event loop never waits for it
        self._connection: Connection[tuple[Any, ...]] | None = None
        self._is_prepared = False
        self._leases: set[object] = set()
        self._failures = 0
        self._connected_at = self._next_try = 0.0
        """Seconds of the monotonic clock."""

    def __str__(self) -> str:
        return f"PostgreSQL at {self._shown}"

    def another(self, schema: Sequence[str], *, timeout: float) -> PostgresDatabase:
        """The same database over a connection of its own, for who must not wait for the transactions of others.

        Args:
            schema: As of the class.
            timeout: As of the class.
        """
        return PostgresDatabase(self._dsn, self._user, schema, timeout=timeout)

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        return self._shown

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Hold a connection while the context is open; may be entered any number of times, from any event loop.

        Raises:
            StorageError: It cannot be made.
        """
        lease = object()
        self._leases.add(lease)
        try:
            await self.transact(lambda connection: None)
            yield
        finally:
            self._leases.discard(lease)
            with anyio.move_on_after(self.timeout, shield=True):  # or a cancelled service would leave it open
                await to_thread.run_sync(self._end, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))

    async def transact(self, work: Work[Result]) -> Result:
        """Make a transaction: all of it is kept when `work` returns, and nothing when it raises.

        A caller that is cancelled waits until the transaction ends, for at most `timeout` seconds.

        Raises:
            PostgresAway: There is no connection, or it was lost: whether the transaction was kept is not known.
            PostgresRefusal: What was sent will be refused again.
            StorageError: The server has refused; nothing was kept.
        """
        return await to_thread.run_sync(self._transact, work, limiter=_limiter(self))

    async def insist(self, work: Work[Result]) -> Result:
        """As `transact`, again while the database is away; for transactions that may be made twice.

        Raises:
            PostgresAway: It stayed away for `timeout` seconds.
            StorageError: The server has refused.
        """
        deadline = anyio.current_time() + self.timeout
        while True:
            try:
                return await self.transact(work)
            except PostgresAway:
                if anyio.current_time() >= deadline:
                    raise
                await self.pause()

    async def pause(self) -> None:
        """Wait until a lost connection is tried again."""
        await anyio.sleep(max(self._next_try - time.monotonic(), 0.0))

    def connect(self) -> Connection[tuple[Any, ...]]:
        """A connection of its own, in a worker thread; for who listens.

        Raises:
            psycopg.Error: It cannot be made.
        """
        connection = _connection_class().connect(self._dsn, connect_timeout=math.ceil(self.timeout), autocommit=True)
        try:
            bound(connection, self.timeout)
            [(server,)] = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchall()
            if server != connection.info.backend_pid:
                # A pooler: the next transaction may be another server process's, which does not know what this one has
                # prepared (https://www.psycopg.org/psycopg3/docs/advanced/prepare.html).
                connection.prepare_threshold = None
            bound(connection, math.inf)
        except BaseException:
            connection.close()
            raise
        return connection

    # --- in worker threads

    def _transact(self, work: Work[Result]) -> Result:
        import psycopg

        with self._lock:
            try:
                for repeats in range(MAX_REPEATS):
                    try:
                        return self._transact_once(work)
                    except psycopg.Error as error:
                        if error.sqlstate not in UNDONE or repeats == MAX_REPEATS - 1:
                            raise
                raise AssertionError
            except psycopg.Error as error:
                raise self._failed(error) from error
            finally:
                if not self._leases:
                    self._close()

    def _transact_once(self, work: Work[Result]) -> Result:
        if self._connection is None:
            self._connect()
        connection = self._connection
        assert connection is not None
        bound(connection, self.timeout)
        try:
            # Statements whose rows nobody has asked for yet wait for those that follow: one round trip for all of them.
            with connection.pipeline():
                connection.execute("BEGIN")
                # Beyond it the server lets go of what it has locked for somebody whom it no longer hears. `true`: for
                # this transaction alone, since a pooler may give the next one another connection.
                connection.execute(BOUNDS, {"milliseconds": str(math.ceil(self.timeout * 1000))})
                if not self._is_prepared:
                    self._prepare(connection)
                result = work(connection)
                connection.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                connection.rollback()
            raise
        self._is_prepared = True
        if self.failure is not None and self._leases:
            logger.warning("%s: connected again", self)
        self.failure = None
        return result

    def _connect(self) -> None:
        if time.monotonic() < self._next_try:
            raise self.failure or PostgresAway(f"{self}: not connected")
        self._connection = self.connect()
        self._connected_at = time.monotonic()

    def _prepare(self, connection: Connection[tuple[Any, ...]]) -> None:
        """Make the tables that are missing."""
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        connection.execute("CREATE TABLE IF NOT EXISTS definable_schema (version integer NOT NULL)")
        row = connection.execute("SELECT version FROM definable_schema").fetchone()
        if row is None:
            connection.execute("INSERT INTO definable_schema VALUES (%s)", (SCHEMA_VERSION,))
        elif row[0] > SCHEMA_VERSION:
            raise StorageError(f"{self}: its tables are of a later version of definable ({row[0]} > {SCHEMA_VERSION})")
        for statement in self._schema:
            connection.execute(statement)  # type: ignore[arg-type]

    def _failed(self, error: Any) -> StorageError:
        """The error of our tree; a connection that is of no more use is let go of."""
        reason = " ".join(str(error).split()) or type(error).__name__
        connection, sqlstate = self._connection, error.sqlstate or ""
        if connection is not None and not connection.closed and sqlstate and sqlstate not in STALE:
            if sqlstate.startswith(REFUSED):
                return PostgresRefusal(f"{self}: {reason}")
            return StorageError(f"{self}: {reason}")
        ran_for = time.monotonic() - self._connected_at if connection is not None else 0.0
        self._close()
        self._failures = RECONNECT_BACKOFF.failures_after(self._failures, ran_for)
        self._next_try = time.monotonic() + RECONNECT_BACKOFF.delay(self._failures)
        if self.failure is None and self._leases:
            logger.warning("%s: %s", self, reason)
        self.failure = PostgresAway(f"{self}: {reason}")
        return self.failure

    def _end(self) -> None:
        with self._lock:
            if not self._leases:
                self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_limiters: RunVar[WeakKeyDictionary[PostgresDatabase, anyio.CapacityLimiter]] = RunVar("definable_postgres_limiters")


def _limiter(database: PostgresDatabase) -> anyio.CapacityLimiter:
    """One worker thread a database and event loop; its queue is the order in which transactions are made."""
    limiters = _limiters.get(None)
    if limiters is None:
        _limiters.set(limiters := WeakKeyDictionary())
    if (limiter := limiters.get(database)) is None:
        limiter = limiters[database] = anyio.CapacityLimiter(1)
    return limiter


def _connection_class() -> Any:
    from psycopg import Connection  # an extra, and heavy

    class BoundedConnection(Connection[tuple[Any, ...]]):
        """Waits for answers no longer than until its deadline: a server that hangs would hold the thread for ever."""

        deadline = math.inf

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            left = max(self.deadline - time.monotonic(), 0.0)
            if left == math.inf:
                return super().wait(gen, interval=interval, timeout=timeout)
            try:
                return super().wait(gen, interval=interval, timeout=left)
            finally:
                if time.monotonic() >= self.deadline:  # an answer may still be on its way
                    self.pgconn.finish()

    return BoundedConnection


def bound(connection: Any, seconds: float) -> None:
    """Give up the connection when what is asked from now on takes longer."""
    connection.deadline = time.monotonic() + seconds


def _checked(dsn: str) -> str:
    """What may be shown of a DSN."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        found = conninfo_to_dict(dsn)
    except psycopg.Error:  # it would quote what may be part of a password
        raise ConfigurationError(
            "a PostgreSQL DSN is postgresql://[user:password@]host[:port]/database, or keywords and values as "
            "`host=... dbname=...`; in a URI, percent-encode what is special in a password"
        ) from None
    host = str(found.get("host") or "localhost")
    place = host if host.startswith("/") else f"{host}:{found.get('port') or 5432}"
    return f"{place}/{found.get('dbname') or found.get('user') or ''}"
