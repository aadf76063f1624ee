"""Files that durable parts share: the SQLite session store, event bus and identity resolver stand on `SQLiteFile`."""

from .sqlite_file import SQLiteFile, Synchronous

__all__ = ["SQLiteFile", "Synchronous"]
