"""What an SQLite error means to whoever runs the service: pure."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from definable.errors import StorageError

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


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else's lock was in the way."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    """The error of our tree that says what happened to which file, and what to do."""
    meaning = _MEANINGS.get(_primary_code(error))
    return StorageError(f"SQLite file {path}: {meaning} ({error})" if meaning else f"SQLite file {path}: {error}")


def _primary_code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)  # the module's own errors have none
    return code & _PRIMARY
