"""One person on several platforms: the protocol of a resolver, and one that keeps identities in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol, Self, runtime_checkable

import anyio

from definable.storage import SQLiteFile, from_sqlite, to_sqlite

__all__ = ["PlatformIdentity", "IdentityResolver", "SQLiteIdentityResolver"]


class PlatformIdentity(tuple[str, str]):
    """A platform's user who is linked to a canonical user; as a tuple the platform and the platform's user.

    Args:
        platform: `"telegram"`.
        platform_user_id: As the platform knows the user.
        canonical_user_id: Whom the user is linked to.
        username: The user's name there, where it was given.
        linked_at: Unix seconds.
    """

    def __new__(
        cls,
        platform: str,
        platform_user_id: str,
        canonical_user_id: str = "",
        username: str | None = None,
        linked_at: float = 0.0,
    ) -> PlatformIdentity:
        identity = super().__new__(cls, (platform, platform_user_id))
        identity.canonical_user_id = canonical_user_id
        identity.username = username
        identity.linked_at = linked_at
        return identity

    canonical_user_id: str
    username: str | None
    linked_at: float

    @property
    def platform(self) -> str:
        """`"telegram"`."""
        return self[0]

    @property
    def platform_user_id(self) -> str:
        """As the platform knows the user."""
        return self[1]

    def __repr__(self) -> str:
        return f"PlatformIdentity({self[0]!r}, {self[1]!r}, {self.canonical_user_id!r})"


@runtime_checkable
class IdentityResolver(Protocol):
    """Maps a platform's user to one canonical user.

    May be shared by interfaces: `initialize` and `close` are called in pairs, once for each.
    """

    async def initialize(self) -> None:
        """Prepare for use."""
        ...

    async def close(self) -> None:
        """Let go of what `initialize` took."""
        ...

    async def resolve(self, platform: str, platform_user_id: str) -> str | None:
        """The canonical user; None when the platform's user is not linked to one."""
        ...

    async def link(
        self, platform: str, platform_user_id: str, canonical_user_id: str, username: str | None = None
    ) -> None:
        """Let the platform's user be this canonical user from now on; `username` is kept for whoever reads it."""
        ...

    async def unlink(self, platform: str, platform_user_id: str) -> bool:
        """Take back a link; False when there was none."""
        ...

    async def get_identities(self, canonical_user_id: str) -> Sequence[tuple[str, str]]:
        """The (platform, platform user) pairs that are linked to a canonical user, maybe as `PlatformIdentity`s."""
        ...


CLOSE_TIMEOUT = 5.0
"""Seconds that closing the file may take."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS identity ("
    " platform TEXT NOT NULL, platform_user_id TEXT NOT NULL, canonical_user_id TEXT NOT NULL,"
    " PRIMARY KEY (platform, platform_user_id)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS identity_by_user ON identity (canonical_user_id)",
    # A table of its own, so that files from before it are read as they are.
    "CREATE TABLE IF NOT EXISTS identity_detail ("
    " platform TEXT NOT NULL, platform_user_id TEXT NOT NULL, username TEXT, linked_at REAL NOT NULL,"
    " PRIMARY KEY (platform, platform_user_id)) WITHOUT ROWID",
)


class SQLiteIdentityResolver:
    """Maps platforms' users to canonical users in an SQLite file, which other parts may share.

    Works without `initialize` too, at the cost of opening the file for every call.

    Args:
        db_path: The file, `identity.db` unless set; made when it does not exist.

    Raises:
        ConfigurationError: The path names no file on disk.
    """

    def __init__(self, db_path: str | os.PathLike[str] = "identity.db") -> None:
        self._file = SQLiteFile(db_path, _SCHEMA, pinned=True)
        self._leases: list[AsyncExitStack] = []

    def __repr__(self) -> str:
        return f"SQLiteIdentityResolver({os.fspath(self._file.path)!r})"

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):  # the file must not outlive a cancelled block
            await self.close()

    @property
    def failure(self) -> Exception | None:
        """Why the open file cannot be used, say since it was deleted; None while it can."""
        return self._file.failure

    async def initialize(self) -> None:
        """Hold the file open.

        Raises:
            StorageError: The file cannot be opened, or is no SQLite database.
        """
        lease = AsyncExitStack()
        await lease.enter_async_context(self._file.open())
        self._leases.append(lease)

    async def close(self) -> None:
        """Let go of the file, once for every `initialize`."""
        if self._leases:
            await self._leases.pop().aclose()

    async def resolve(self, platform: str, platform_user_id: str) -> str | None:
        """The canonical user; None when the platform's user is not linked to one.

        Raises:
            StorageError: The file failed; so for the other methods.
        """

        def work(connection: sqlite3.Connection) -> str | None:
            query = "SELECT canonical_user_id FROM identity WHERE platform = ? AND platform_user_id = ?"
            names = (to_sqlite(platform), to_sqlite(platform_user_id))
            row: tuple[str | bytes] | None = connection.execute(query, names).fetchone()
            return None if row is None else from_sqlite(row[0])

        return await self._file.read(work)

    async def link(
        self, platform: str, platform_user_id: str, canonical_user_id: str, username: str | None = None
    ) -> None:
        """Let the platform's user be this canonical user from now on.

        Args:
            platform: `"telegram"`.
            platform_user_id: As the platform knows the user.
            canonical_user_id: Whom the user is linked to.
            username: The user's name there, for whoever reads `get_identities`.
        """

        def work(connection: sqlite3.Connection) -> None:
            statement = "INSERT OR REPLACE INTO identity VALUES (?, ?, ?)"
            names = (platform, platform_user_id, canonical_user_id)
            connection.execute(statement, [to_sqlite(name) for name in names])
            known_as = None if username is None else to_sqlite(username)
            detail = "INSERT OR REPLACE INTO identity_detail VALUES (?, ?, ?, ?)"
            connection.execute(detail, (to_sqlite(platform), to_sqlite(platform_user_id), known_as, time.time()))

        await self._file.write(work)

    async def unlink(self, platform: str, platform_user_id: str) -> bool:
        """Take back a link; False when there was none."""

        def work(connection: sqlite3.Connection) -> bool:
            names = (to_sqlite(platform), to_sqlite(platform_user_id))
            connection.execute("DELETE FROM identity_detail WHERE platform = ? AND platform_user_id = ?", names)
            statement = "DELETE FROM identity WHERE platform = ? AND platform_user_id = ?"
            return connection.execute(statement, names).rowcount > 0

        return await self._file.write(work)

    async def get_identities(self, canonical_user_id: str) -> list[PlatformIdentity]:
        """The (platform, platform user) pairs that are linked to a canonical user, in their order."""

        def work(connection: sqlite3.Connection) -> list[PlatformIdentity]:
            query = (
                "SELECT platform, platform_user_id, username, coalesce(linked_at, 0) FROM identity"
                " LEFT JOIN identity_detail USING (platform, platform_user_id)"
                " WHERE canonical_user_id = ? ORDER BY 1, 2"
            )
            rows = connection.execute(query, (to_sqlite(canonical_user_id),)).fetchall()
            return [
                PlatformIdentity(
                    from_sqlite(platform),
                    from_sqlite(user),
                    canonical_user_id,
                    None if username is None else from_sqlite(username),
                    linked_at,
                )
                for platform, user, username, linked_at in rows
            ]

        return await self._file.read(work)
