"""Files that durable parts share: the SQLite session store, event bus and identity resolver stand on `SQLiteFile`."""

from .sqlite_file import SQLiteFile, Synchronous, from_sqlite, to_sqlite

__all__ = ["SQLiteFile", "Synchronous", "from_sqlite", "to_sqlite"]
