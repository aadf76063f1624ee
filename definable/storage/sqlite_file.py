"""One SQLite file, used from async code: every transaction is one function call in a worker thread.

```python
file = SQLiteFile("agent.db", ["CREATE TABLE IF NOT EXISTS note (text TEXT)"])
async with file.open():
    await file.write(lambda connection: connection.execute("INSERT INTO note VALUES (?)", ("hi",)))
```

A transaction begins, works and ends within one call in one thread, under one lock. So a caller that is cancelled leaves
a whole transaction or none, and event loops in several threads (`Agent.run` brings its own) take turns on the one
connection, which exists while the file is held open (`open`), or else for one transaction.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, StorageError

from .file_lock import FileIdentity, Inode, connected, create_private, disconnected

logger: logging.Logger = logger_named(__name__)

Result = TypeVar("Result")

Work: TypeAlias = Callable[[sqlite3.Connection], Result]
"""What one transaction does; runs in a worker thread and returns plain values, no cursors."""

Synchronous: TypeAlias = Literal["NORMAL", "FULL"]
"""Both survive the death of the process; `"FULL"` flushes every commit to disk, so that the last ones survive a loss of
power as well (https://www.sqlite.org/pragma.html#pragma_synchronous)."""

BUSY_TIMEOUT = 5.0
"""Seconds."""

CLOSE_TIMEOUT = 5.0
"""Seconds that closing may hold up a shutdown; a thread that needs longer closes the file behind it."""

_PREPARE_PAUSE = 0.01
"""Seconds between two tries to prepare a file that others prepare as well."""

_PRIMARY = 0xFF
"""An extended result code holds its primary code in the low byte (https://www.sqlite.org/rescode.html)."""

_MEANINGS = {
    sqlite3.SQLITE_BUSY: "it stayed locked, something else keeps a transaction open on it",
    sqlite3.SQLITE_LOCKED: "it stayed locked, something else keeps a transaction open on it",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database, or it is encrypted",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore a backup, or try `sqlite3 FILE .recover`",
    sqlite3.SQLITE_READONLY: "it cannot be written: see the permissions of the file and of its directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: see that it is a file, and the permissions of its directory",
    sqlite3.SQLITE_PERM: "access is denied: see the permissions of the file and of its directory",
    sqlite3.SQLITE_IOERR: "the disk failed, or the file system does not support what SQLite needs",
}


class _Lease:
    """One `open` of the file."""

    def __init__(self) -> None:
        self.ended = False


class SQLiteFile:
    """One SQLite database file in WAL mode, shared by any number of tasks, event loops, threads and processes.

    Works with and without `open`: without it each transaction opens and closes the file, which takes several times as
    long.

    Args:
        path: The file; it and its directory are made when they do not exist. Relative to the working directory at
            construction.
        schema: Statements that a new connection begins with, `CREATE ... IF NOT EXISTS`. Other parts may keep their
            tables in the same file.
        synchronous: What a commit waits for.
        busy_timeout: Seconds to wait for another process that writes.
        pinned: Whether it must be the same file for as long as it is held open: one that was deleted, moved, replaced
            or emptied meanwhile is refused, rather than written to as long as its descriptor lasts.

    Raises:
        ConfigurationError: The path names no file on disk, or a value is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: Sequence[str] = (),
        *,
        synchronous: Synchronous = "NORMAL",
        busy_timeout: float = BUSY_TIMEOUT,
        pinned: bool = False,
    ) -> None:
        if synchronous not in ("NORMAL", "FULL"):
            raise ConfigurationError(f"synchronous={synchronous!r}: 'NORMAL' or 'FULL'")
        if not (math.isfinite(busy_timeout) and busy_timeout >= 0):
            raise ConfigurationError(f"busy_timeout={busy_timeout!r}: seconds, 0 or more")
        self.path: Path = _checked_path(path)
        self._prepare = (
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {synchronous}",
            "PRAGMA foreign_keys = ON",
            *schema,
        )
        self._busy_timeout = busy_timeout
        self._lock = threading.Lock()  # taken in worker threads alone: an event loop never waits for it
        self._connection: sqlite3.Connection | None = None
        self._pinned = pinned
        self._identity: FileIdentity | None = None
        """Of the file that is held open."""
        self._connected_to: Inode | None = None
        self._damage: str | None = None
        """What was logged last of it."""
        self._leases: set[_Lease] = set()

    @property
    def failure(self) -> StorageError | None:
        """Why a pinned file that is open cannot be used; None while it is in order."""
        identity = self._identity if self._pinned else None
        damage = None if identity is None else identity.damage()
        return None if damage is None else self._damaged(damage)

    def __repr__(self) -> str:
        return f"SQLiteFile({os.fspath(self.path)!r})"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Hold the file open while the context is; may be entered any number of times, from any event loop.

        Raises:
            StorageError: The file cannot be opened, or is no SQLite database.
        """
        lease = _Lease()
        try:
            await self._in_thread(lambda: self._begin(lease))
            yield
        finally:
            # Shielded, or a cancelled service would leave the file open.
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                limiter = anyio.CapacityLimiter(1)  # its own: a transaction that hangs must not keep it from starting
                await to_thread.run_sync(self._end, lease, abandon_on_cancel=True, limiter=limiter)

    async def read(self, work: Work[Result]) -> Result:
        """Do a transaction that only reads: all its statements see the same state of the file.

        Raises:
            StorageError: SQLite failed.
        """
        return await self._in_thread(lambda: self._transact("BEGIN", work))

    async def write(self, work: Work[Result]) -> Result:
        """Do a transaction that writes: all of it is kept when `work` returns, and nothing of it when it raises.

        A caller that is cancelled waits until the transaction ends, which takes `busy_timeout` when another process
        does not let go of the file.

        Raises:
            StorageError: SQLite failed; nothing was kept.
        """
        return await self._in_thread(lambda: self._transact("BEGIN IMMEDIATE", work))

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        return await to_thread.run_sync(function, limiter=_limiter(self))

    # --- in worker threads

    def _begin(self, lease: _Lease) -> None:
        with self._lock:
            if not lease.ended:  # asyncio's own cancellation leaves before the thread is done
                with self._connected():
                    self._leases.add(lease)

    def _end(self, lease: _Lease) -> None:
        with self._lock:
            lease.ended = True
            self._leases.discard(lease)
            self._close_unless_leased()

    def _transact(self, begin: str, work: Work[Result]) -> Result:
        with self._lock, self._connected() as connection:
            connection.execute(begin)
            try:
                result = work(connection)
                self._check_identity()  # as late as can be: what is written into a file without a name is lost
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    def _check_identity(self) -> None:
        """Refuse to go on with a file that is no longer there. The connection stays: a file may be moved back."""
        if not self._pinned or self._identity is None:
            return
        damage = self._identity.damage()
        if damage is None and self._damage is not None:
            logger.warning("SQLite file %s is back in its place: it is used again", self.path)
        elif damage is not None and damage != self._damage:
            logger.error("%s", self._damaged(damage))
        self._damage = damage
        if damage is not None:
            raise self._damaged(damage)

    def _damaged(self, damage: str) -> StorageError:
        return StorageError(
            f"SQLite file {self.path}: {damage} while it was in use; nothing is read from it or written to it until it "
            "is back in its place, or the service is started again with the file that is there"
        )

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection, None, None]:
        """The connection. One on which SQLite failed is not used again: the next may find the file in order."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except sqlite3.Error as error:
            self._close()
            raise storage_error(self.path, error) from error
        finally:
            self._close_unless_leased()

    def _connect(self) -> sqlite3.Connection:
        self._check_identity()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            create_private(self.path)
        except OSError as error:
            raise StorageError(f"SQLite file {self.path}: its directory cannot be made ({error})") from error
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare_connection(connection)
            self._identity = FileIdentity.of(self.path)
        except OSError as error:
            connection.close()
            raise StorageError(f"SQLite file {self.path}: it was deleted while it was being opened") from error
        except BaseException:
            connection.close()
            raise
        self._connected_to = self._identity.database
        connected(self._connected_to)
        return connection

    def _prepare_connection(self, connection: sqlite3.Connection) -> None:
        """Two processes that turn a new file to WAL at once are in each other's way, and SQLite does not wait then."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                for statement in self._prepare:
                    connection.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(_PREPARE_PAUSE)

    def _close_unless_leased(self) -> None:
        if not self._leases:
            self._close()
            self._identity = self._damage = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if self._identity is not None:  # the next connection may make the log anew
            self._identity = replace(self._identity, log=None)
        if connection is not None:
            connection.close()
        if self._connected_to is not None:
            disconnected(self._connected_to)
            self._connected_to = None


_limiters: RunVar[WeakKeyDictionary[SQLiteFile, anyio.CapacityLimiter]] = RunVar("definable_sqlite_limiters")


def _limiter(file: SQLiteFile) -> anyio.CapacityLimiter:
    """One worker thread a file and event loop; its queue is the order in which transactions are made."""
    limiters = _limiters.get(None)
    if limiters is None:
        _limiters.set(limiters := WeakKeyDictionary())
    if (limiter := limiters.get(file)) is None:
        limiter = limiters[file] = anyio.CapacityLimiter(1)
    return limiter


def _checked_path(path: str | os.PathLike[str]) -> Path:
    name = os.fspath(path)
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ConfigurationError(f"{name!r}: the path of a file on disk is needed, not SQLite's memory or a URI")
    return Path(name).expanduser().absolute()


def is_busy(error: sqlite3.Error) -> bool:
    """Whether the lock of another connection was in the way."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    """The error of our tree that says what happened to which file, and what to do."""
    meaning = _MEANINGS.get(_primary_code(error))
    return StorageError(f"SQLite file {path}: {meaning} ({error})" if meaning else f"SQLite file {path}: {error}")


def _primary_code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)  # the module's own errors have none
    return code & _PRIMARY


def to_sqlite(text: str) -> str | bytes:
    """The text; as bytes where it holds half of a surrogate pair, which SQLite's UTF-8 lacks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def from_sqlite(kept: str | bytes) -> str:
    """The text of what `to_sqlite` made of it."""
    return kept if isinstance(kept, str) else kept.decode("utf-8", "surrogatepass")
