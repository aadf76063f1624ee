"""One process at a time: who holds a file's owner lock is the only one that hands out its events.

There are two locks. One is on the database's own file, for as long as that file is the one of its name. The other is an
exclusive transaction of SQLite's on an empty file beside, so it works wherever SQLite does, among threads as well. The
operating system ends both with their process. The empty file stays: removing it would race.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from definable.errors import StorageError
from definable.storage.file_lock import FileLock
from definable.storage.sqlite_file import create_private

SUFFIX = "-owner"
"""Of the lock's file, behind the name of the file that it is about."""

RELEASE_TIMEOUT = 5.0
"""Seconds that letting go may hold up a shutdown."""


@asynccontextmanager
async def owned(path: Path) -> AsyncGenerator[None, None]:
    """Be the only owner of a file, which SQLite has open, while the context is open.

    Raises:
        StorageError: Somebody else is, or the lock cannot be had.
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
    lock_path = path.resolve().with_name(f"{path.resolve().name}{SUFFIX}")
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
