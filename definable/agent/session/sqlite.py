"""Sessions in an SQLite file: they outlive the process, and several processes may share them."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from definable.storage import SQLiteFile, Synchronous, from_sqlite, to_sqlite

from .base import NOT_STORED, Session, conflict
from .durable import DEFAULT_TTL, DurableStore, StoredSession

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS definable_session (
        session_id TEXT PRIMARY KEY,
        user_id TEXT,
        state BLOB NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        used_at REAL NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS definable_session_by_use ON definable_session (used_at)",
    """CREATE TABLE IF NOT EXISTS definable_session_message (
        position INTEGER PRIMARY KEY,
        session_id TEXT NOT NULL REFERENCES definable_session ON DELETE CASCADE,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS definable_session_message_by_session ON definable_session_message (session_id)",
    # A table of its own: files of earlier versions have no such column, and SQLite adds none "if not exists".
    """CREATE TABLE IF NOT EXISTS definable_session_version (
        session_id TEXT PRIMARY KEY REFERENCES definable_session ON DELETE CASCADE,
        version TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS definable_conversation (
        key TEXT PRIMARY KEY,
        session_id TEXT NOT NULL,
        used_at REAL NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS definable_conversation_by_use ON definable_conversation (used_at)",
)

_UPSERT = """INSERT INTO definable_session (session_id, user_id, state, created_at, updated_at, used_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (session_id) DO UPDATE SET user_id = excluded.user_id, state = excluded.state,
    created_at = excluded.created_at, updated_at = excluded.updated_at, used_at = excluded.used_at"""

_FIND_SESSION = """SELECT version, user_id, state, created_at, updated_at, used_at FROM definable_session
LEFT JOIN definable_session_version USING (session_id) WHERE session_id = ? AND used_at > ?"""

_ADD_MESSAGE = "INSERT INTO definable_session_message (session_id, body) VALUES (?, ?)"

_FORGET_MESSAGES = """DELETE FROM definable_session_message WHERE position IN
(SELECT position FROM definable_session_message WHERE session_id = ? ORDER BY position LIMIT ?)"""

_FORGET_EXPIRED = """DELETE FROM definable_session WHERE session_id IN
(SELECT session_id FROM definable_session WHERE used_at <= ? LIMIT ?)"""

_UPSERT_VERSION = """INSERT INTO definable_session_version (session_id, version) VALUES (?, ?)
ON CONFLICT (session_id) DO UPDATE SET version = excluded.version"""

_POINT = """INSERT INTO definable_conversation (key, session_id, used_at) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET session_id = excluded.session_id, used_at = excluded.used_at"""

_FORGET_POINTERS = """DELETE FROM definable_conversation WHERE key IN
(SELECT key FROM definable_conversation WHERE used_at <= ? LIMIT ?)"""

UNVERSIONED = "0"
"""The version of a session that an earlier release of this library saved."""

NOTED_USE = 0.01
"""Of the time to live: a use that comes sooner after the one before is not noted, so that a load writes nothing."""

FORGOTTEN_AT_ONCE = 100
"""Expired sessions that one save deletes at most, so that none pays for all that expired while the service was down."""


class SQLiteSessionStore(DurableStore):
    """Keeps sessions in a file, embedded: no server, no dependency.

    A session that was saved survives the death of the process. Agents and processes may share the file; of two that
    run the same session at once, neither overwrites what the other has said: the messages of the later one are put
    behind those of the earlier one.

    Args:
        path: The file; it and its directory are made when they do not exist.
        ttl: Seconds since its last use (load or save) after which a session is forgotten: 30 days; None for never.
        synchronous: `"FULL"` has the last saves survive a loss of power too, and makes them slower.
        clock: Tells Unix seconds.

    Raises:
        ConfigurationError: The path names no file on disk (for memory there is `MemorySessionStore`), or a value is out
            of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ttl: float | None = DEFAULT_TTL,
        synchronous: Synchronous = "NORMAL",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(ttl)
        self._file = SQLiteFile(path, _SCHEMA, synchronous=synchronous, pinned=True)
        self._clock = clock

    def __repr__(self) -> str:
        return f"SQLiteSessionStore({os.fspath(self._file.path)!r})"

    @property
    def failure(self) -> Exception | None:
        """Why the open file cannot be used, say since it was deleted; None while it can."""
        return self._file.failure

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the file open while the context is; without it, every load and save opens and closes the file.

        Raises:
            StorageError: The file cannot be opened, or is no SQLite database.
        """
        return self._file.open()

    async def _fetch(self, session_id: str, known_version: str) -> StoredSession | None:
        key, horizon = to_sqlite(session_id), self._horizon()

        def fetch(connection: sqlite3.Connection) -> tuple[StoredSession, float] | None:
            row = connection.execute(_FIND_SESSION, (key, horizon)).fetchone()
            if row is None:
                return None
            version, user_id, state, created_at, updated_at, used_at = row
            owner = None if user_id is None else from_sqlite(user_id)
            bodies = None if version == known_version else _bodies(connection, key)
            return StoredSession(version or UNVERSIONED, owner, state, created_at, updated_at, bodies), used_at

        found = await self._file.read(fetch)
        if found is None:
            return None
        await self._note_use("definable_session", "session_id", key, found[1])
        return found[0]

    async def _note_use(self, table: str, column: str, key: str | bytes, used_at: float) -> None:
        now = self._clock()
        if self._ttl is None or now - used_at < self._ttl * NOTED_USE:
            return
        update = f"UPDATE {table} SET used_at = max(used_at, ?) WHERE {column} = ?"
        await self._file.write(lambda connection: connection.execute(update, (now, key)) and None)

    async def _store(self, session: Session, version: str, state: bytes, bodies: list[bytes], gone: int | None) -> bool:
        key, now, horizon = to_sqlite(session.session_id), self._clock(), self._horizon()
        owner = None if session.user_id is None else to_sqlite(session.user_id)

        def store(connection: sqlite3.Connection) -> bool:
            connection.execute(_FORGET_EXPIRED, (horizon, FORGOTTEN_AT_ONCE))
            if session.version is not None and session.version != _version(connection, key, horizon):
                raise conflict(session.session_id)
            connection.execute(_UPSERT, (key, owner, state, session.created_at, session.updated_at, now))
            connection.execute(_UPSERT_VERSION, (key, version))
            if gone is None:
                connection.execute("DELETE FROM definable_session_message WHERE session_id = ?", (key,))
            elif gone:
                connection.execute(_FORGET_MESSAGES, (key, gone))
            connection.executemany(_ADD_MESSAGE, [(key, body) for body in bodies])
            return True

        return await self._file.write(store)

    async def delete(self, session_id: str) -> bool:
        horizon = self._horizon()

        def delete(connection: sqlite3.Connection) -> bool:
            statement = "DELETE FROM definable_session WHERE session_id = ? RETURNING used_at"
            deleted = connection.execute(statement, (to_sqlite(session_id),)).fetchall()
            return any(used_at > horizon for (used_at,) in deleted)

        return await self._file.write(delete)

    async def find(self, key: str) -> str | None:
        stored, horizon = to_sqlite(key), self._horizon()

        def find(connection: sqlite3.Connection) -> tuple[str | bytes, float] | None:
            return connection.execute(
                "SELECT session_id, used_at FROM definable_conversation WHERE key = ? AND used_at > ?",
                (stored, horizon),
            ).fetchone()

        found = await self._file.read(find)
        if found is None:
            return None
        await self._note_use("definable_conversation", "key", stored, found[1])
        return from_sqlite(found[0])

    async def point(self, key: str, session_id: str) -> None:
        row, horizon = (to_sqlite(key), to_sqlite(session_id), self._clock()), self._horizon()

        def point(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET_POINTERS, (horizon, FORGOTTEN_AT_ONCE))
            connection.execute(_POINT, row)

        await self._file.write(point)

    def _horizon(self) -> float:
        """When a session that expires now was last used; Unix seconds."""
        return -math.inf if self._ttl is None else self._clock() - self._ttl


def _version(connection: sqlite3.Connection, key: str | bytes, horizon: float) -> str:
    """The version that is stored, `NOT_STORED` where there is no session."""
    row = connection.execute(_FIND_SESSION, (key, horizon)).fetchone()
    return NOT_STORED if row is None else row[0] or UNVERSIONED


def _bodies(connection: sqlite3.Connection, key: str | bytes) -> list[bytes]:
    statement = "SELECT body FROM definable_session_message WHERE session_id = ? ORDER BY position"
    return [body for (body,) in connection.execute(statement, (key,))]
