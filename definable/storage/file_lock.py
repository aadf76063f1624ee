"""The file beneath an `SQLiteFile`: whether it is still the one that was opened, exclusive locks on it, and notices.

An open file can be written after its name was taken from it, and what is written is lost when it is closed. So
`FileIdentity` compares device and inode number (Windows has both; there a file in use cannot be taken away).

POSIX drops all `fcntl` locks that a process has on a file as soon as it closes any descriptor of it
(https://www.sqlite.org/howtocorrupt.html, section 2.2), and SQLite's are such locks. So `SQLiteFile` notes here which
files it has open, and the descriptor of a `FileLock` is closed with the last of them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import anyio
from anyio import to_thread

from definable.errors import StorageError

Inode: TypeAlias = tuple[int, int]
"""Device and inode number."""

RELEASE_TIMEOUT = 5.0
"""Seconds for which giving up the file's lock may hold up a shutdown."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """An SQLite database that is open, and its write-ahead log.

    Args:
        path: The database, absolute.
        database: What the path named when it was opened.
        log: What the log's path named then; None when there was none.
    """

    path: str
    database: Inode
    log: Inode | None

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The file that is there now, of which a connection has been made.

        Raises:
            OSError: There is none.
        """
        name = os.fspath(path)
        return cls(name, _inode(os.stat(name)), _inode_of(log_of(name)))

    def damage(self) -> str | None:
        """What has happened to the file since, in words; None when it is the same."""
        try:
            now = os.stat(self.path)
        except OSError:
            return "it was deleted or moved"
        if _inode(now) != self.database:
            return "it was replaced by another file"
        if not now.st_size:
            return "it was emptied"
        if self.log is not None and _inode_of(log_of(self.path)) != self.log:
            return f"its log {os.path.basename(log_of(self.path))} was deleted or replaced"
        return None


def log_of(path: str) -> str:
    """Where SQLite keeps the log of a database (https://www.sqlite.org/wal.html)."""
    return f"{path}-wal"


def _inode_of(path: str) -> Inode | None:
    try:
        return _inode(os.stat(path))
    except OSError:
        return None


def _inode(stat: os.stat_result) -> Inode:
    return stat.st_dev, stat.st_ino


try:
    import fcntl
except ImportError:  # Windows, where a file in use cannot be deleted: a lock beside it will do
    fcntl = None

_threads_lock = threading.Lock()
_connections: Counter[Inode] = Counter()
"""How many connections of this process are open to a file."""
_unclosed: dict[Inode, list[int]] = {}
"""Descriptors that wait for the last of them to end."""


def connected(file: Inode) -> None:
    """SQLite has opened the file."""
    with _threads_lock:
        _connections[file] += 1


def disconnected(file: Inode) -> None:
    """SQLite has closed the file."""
    with _threads_lock:
        _connections[file] -= 1
        if _connections[file] > 0:
            return
        del _connections[file]
        for descriptor in _unclosed.pop(file, ()):
            os.close(descriptor)


class FileLock:
    """An exclusive lock on a file, which the operating system ends with its process.

    Args:
        path: The file, which SQLite has open.

    Raises:
        BlockingIOError: It is held already, in this process or in another.
        OSError: The file cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = None if fcntl is None else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if fcntl is None or self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of it."""
        descriptor, self._descriptor = self._descriptor, None
        if fcntl is None or descriptor is None:
            return
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        stat = os.fstat(descriptor)
        with _threads_lock:
            file = (stat.st_dev, stat.st_ino)
            if file in _connections:
                _unclosed.setdefault(file, []).append(descriptor)
            else:
                os.close(descriptor)


def create_private(path: Path) -> None:
    """Make an empty file that its owner alone may read, unless there is a file: it will hold what people have said.

    SQLite gives its logs the permissions of the database.
    """
    with suppress(FileExistsError, IsADirectoryError, PermissionError):  # of the others SQLite says what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class WriteNotices:
    """Through it other processes tell the owner of a file that they have written to it: a named pipe beside the file.

    Without one (Windows, a file system that has none) the owner learns nothing, and has to look.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve().with_name(f"{path.resolve().name}-notify")
        self._descriptor: int | None = None

    @contextmanager
    def received(self) -> Generator[bool, None, None]:
        """Receive notices while the context is open, for the owner of the file; yields whether that is possible."""
        try:
            with suppress(FileNotFoundError):
                self._path.unlink()  # of a process that was killed
            os.mkfifo(self._path, 0o600)
            # For writing too: without a writer a pipe is at its end, and readable, all the time.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError):
            yield False
            return
        try:
            yield True
        finally:
            os.close(self._descriptor)
            with suppress(OSError):
                self._path.unlink()

    async def wait(self) -> None:
        """Return once somebody has written to the file, while notices are received."""
        assert self._descriptor is not None
        await anyio.wait_readable(self._descriptor)
        with suppress(BlockingIOError):
            os.read(self._descriptor, 65536)

    def send(self) -> bool:
        """Tell the owner; False when there is none now that receives notices."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError):
            return False
        try:
            with suppress(BlockingIOError):  # it is full: the owner knows
                os.write(descriptor, b"\0")
        except OSError:  # the owner ends
            return False
        finally:
            os.close(descriptor)
        return True


@asynccontextmanager
async def owned(path: Path) -> AsyncGenerator[None, None]:
    """Be the only owner of a file, which SQLite has open, while the context is open.

    There are two locks. One is on the database's own file, for as long as that file is the one of its name. The other
    is an exclusive transaction of SQLite's on an empty file beside, so it works wherever SQLite does, among threads as
    well. The operating system ends both with their process. The empty file stays: removing it would race.

    Raises:
        StorageError: Another process or bus is, or the lock cannot be had.
    """
    release = await to_thread.run_sync(_acquire, path)
    try:
        yield
    finally:
        # Shielded, or a cancelled service would keep the lock for as long as its process lives.
        with anyio.move_on_after(RELEASE_TIMEOUT, shield=True):
            await to_thread.run_sync(release, abandon_on_cancel=True)


def _acquire(path: Path) -> Callable[[], None]:
    """Get both locks; returns what lets go of them."""
    lock_path = path.resolve().with_name(f"{path.resolve().name}-owner")
    with ExitStack() as locks:
        try:
            locks.callback(_locked(lock_path).close)
            locks.callback(FileLock(path).release)
        except (sqlite3.Error, OSError) as error:
            busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY or isinstance(error, BlockingIOError)
            if not busy:
                raise StorageError(f"SQLite file {path}: its lock {lock_path.name} cannot be had ({error})") from error
            raise StorageError(
                f"SQLite file {path}: another SQLiteBus has it open, in this or in another process, and each needs a "
                "file of its own; RedisBus is for events that processes share"
            ) from error
        return locks.pop_all().close


def _locked(path: Path) -> sqlite3.Connection:
    create_private(path)
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode = OFF")  # nothing is written, and no journal shall be left behind
        lock.execute("BEGIN EXCLUSIVE")
    except BaseException:
        lock.close()
        raise
    return lock
