"""Sessions in PostgreSQL: any number of replicas share them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from definable.concurrency.rate_limits import Limits
from definable.storage.postgres_database import DEFAULT_TIMEOUT, PostgresDatabase
from definable.storage.postgres_limits import postgres_limits
from definable.storage.service_name import ServiceName

from .base import NOT_STORED, Session, conflict
from .durable import DEFAULT_TTL, DurableStore, StoredSession

if TYPE_CHECKING:
    from psycopg import Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS definable_session (
        service text NOT NULL,
        session_id bytea NOT NULL,
        version text NOT NULL,
        user_id bytea,
        state bytea NOT NULL,
        created_at float8 NOT NULL,
        updated_at float8 NOT NULL,
        used_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (service, session_id)
    )""",
    "CREATE INDEX IF NOT EXISTS definable_session_by_use ON definable_session (used_at)",
    """CREATE TABLE IF NOT EXISTS definable_session_message (
        service text NOT NULL,
        session_id bytea NOT NULL,
        position bigint GENERATED ALWAYS AS IDENTITY,
        body bytea NOT NULL,
        PRIMARY KEY (service, session_id, position),
        FOREIGN KEY (service, session_id) REFERENCES definable_session ON DELETE CASCADE
    )""",
    """CREATE TABLE IF NOT EXISTS definable_conversation (
        service text NOT NULL,
        key bytea NOT NULL,
        session_id bytea NOT NULL,
        used_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (service, key)
    )""",
    "CREATE INDEX IF NOT EXISTS definable_conversation_by_use ON definable_conversation (used_at)",
)
"""Ids are bytes: text of PostgreSQL has neither NUL nor halves of surrogate pairs."""

_FRESH = "service = %(service)s AND (%(ttl)s::float8 IS NULL OR used_at > now() - make_interval(secs => %(ttl)s))"

_LOAD = f"""SELECT version, user_id, state, created_at, updated_at FROM definable_session
WHERE session_id = %(id)s AND {_FRESH}"""

_USE = "UPDATE definable_session SET used_at = now() WHERE service = %(service)s AND session_id = %(id)s"

_MESSAGES = """SELECT body FROM definable_session_message
WHERE service = %(service)s AND session_id = %(id)s ORDER BY position"""

_LOCK = (
    f"SELECT version, {_FRESH} FROM definable_session WHERE service = %(service)s AND session_id = %(id)s FOR UPDATE"
)

_SAVE = """INSERT INTO definable_session (service, session_id, version, user_id, state, created_at, updated_at)
VALUES (%(service)s, %(id)s, %(version)s, %(user)s, %(state)s, %(created)s, %(updated)s)
ON CONFLICT (service, session_id) DO UPDATE SET version = excluded.version, user_id = excluded.user_id,
    state = excluded.state, created_at = excluded.created_at, updated_at = excluded.updated_at, used_at = now()
WHERE definable_session.version = %(stored)s RETURNING version"""

_ADD_MESSAGES = """INSERT INTO definable_session_message (service, session_id, body)
SELECT %(service)s, %(id)s, body
FROM unnest(%(bodies)s::bytea[]) WITH ORDINALITY AS new (body, number) ORDER BY number"""

_FORGET_MESSAGES = """DELETE FROM definable_session_message WHERE service = %(service)s AND session_id = %(id)s
AND position IN (SELECT position FROM definable_session_message
    WHERE service = %(service)s AND session_id = %(id)s ORDER BY position LIMIT %(gone)s)"""

_FORGET_EXPIRED = """DELETE FROM {table} WHERE ({keys}) IN (SELECT {keys} FROM {table} WHERE service = %(service)s
AND used_at <= now() - make_interval(secs => %(ttl)s) LIMIT 100 FOR UPDATE SKIP LOCKED)"""
"""Of what has expired, so many at once, so that no save pays for all that expired while the service was down."""

_FORGET_SESSIONS = _FORGET_EXPIRED.format(table="definable_session", keys="service, session_id")

_FORGET_POINTERS = _FORGET_EXPIRED.format(table="definable_conversation", keys="service, key")

_DELETE = f"""DELETE FROM definable_session WHERE service = %(service)s AND session_id = %(id)s RETURNING {_FRESH}"""

_FIND = f"""UPDATE definable_conversation SET used_at = now() WHERE key = %(id)s AND {_FRESH} RETURNING session_id"""

_POINT = """INSERT INTO definable_conversation (service, key, session_id) VALUES (%(service)s, %(id)s, %(session)s)
ON CONFLICT (service, key) DO UPDATE SET session_id = excluded.session_id, used_at = now()"""


class PostgresSessionStore(DurableStore):
    """Shares sessions over replicas, in PostgreSQL from 12 on.

    - A save is whole or does not happen. It writes what a run has added, however long the session is.
    - Runs of one session in one process take turns. Of two processes that run the same session at once, neither
      overwrites what the other has said: the later save puts its own messages behind the other's, and of the
      state keeps the keys that its run has changed. Such runs have not seen each other; where that matters, send
      a session's requests to one replica.
    - Its tables (`definable_session` and others) are made when they are missing. Services that share a database are
      kept apart by their names.

    Args:
        dsn: As for `PostgresBus`, which may use the same database and service.
        service: Replicas that share sessions have it in common; services that share a database do not. None:
            `"definable"`, followed by the agent's name where it has one.
        ttl: Seconds since its last use (load or save) after which a session is forgotten: 30 days; None for never.
        timeout: Seconds for which callers wait for a database that does not answer.

    Raises:
        ConfigurationError: A value is out of its range, or the DSN is none.
        MissingExtra: psycopg is not installed.
    """

    def __init__(
        self, dsn: str, *, service: str | None = None, ttl: float | None = DEFAULT_TTL, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        super().__init__(ttl)
        self._database = PostgresDatabase(dsn, "PostgresSessionStore", SCHEMA, timeout=timeout)
        self._service = ServiceName(service, "PostgresSessionStore", "service")

    def __repr__(self) -> str:
        return f"PostgresSessionStore({self._database.address!r})"

    def rate_limits(self) -> AbstractAsyncContextManager[Limits]:
        """The limits that replicas share in this database, while the context is open; see `SharesLimits`."""
        return postgres_limits(self._database, str(self._service))

    def belongs_to(self, agent: str | None) -> None:
        """Keep sessions under an agent's name, where no service was given; called when an agent is given the store.

        Raises:
            ConfigurationError: Agents of several names share it.
        """
        self._service.follow(agent)

    @property
    def failure(self) -> Exception | None:
        """Why the database could not be reached the last time; None when it could."""
        return self._database.failure

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold a connection while the context is open; without it, every load and save makes one.

        Raises:
            StorageError: PostgreSQL cannot be reached.
        """
        return self._database.open()

    def _args(self, key: str, **more: Any) -> dict[str, Any]:
        return {"service": str(self._service), "id": _bytes(key), "ttl": self._ttl, **more}

    async def _fetch(self, session_id: str, known_version: str) -> StoredSession | None:
        args = self._args(session_id)

        def fetch(connection: Connection[tuple[Any, ...]]) -> StoredSession | None:
            row = connection.execute(_LOAD, args).fetchone()
            if row is None:
                return None
            if self._ttl is not None:
                connection.execute(_USE, args)
            version, user_id, state, created_at, updated_at = row
            known = version == known_version
            bodies = None if known else [body for (body,) in connection.execute(_MESSAGES, args)]
            owner = None if user_id is None else user_id.decode("utf-8", "surrogatepass")
            return StoredSession(version, owner, state, created_at, updated_at, bodies)

        return await self._database.insist(fetch)

    async def _store(self, session: Session, version: str, state: bytes, bodies: list[bytes], gone: int | None) -> bool:
        args = self._args(
            session.session_id,
            version=version,
            user=None if session.user_id is None else _bytes(session.user_id),
            state=state,
            created=session.created_at,
            updated=session.updated_at,
            bodies=bodies,
            gone=gone,
        )

        def store(connection: Connection[tuple[Any, ...]]) -> bool:
            stored, is_fresh = connection.execute(_LOCK, args).fetchone() or (None, False)
            if stored == version:  # the answer to this very save got lost
                return True
            current = stored if is_fresh else NOT_STORED
            if session.version is not None and session.version != current:
                raise conflict(session.session_id)
            saved = connection.execute(_SAVE, {**args, "stored": stored or ""}).fetchone()
            if saved is None:  # another has begun one of this id at the same moment
                raise conflict(session.session_id)
            if self._ttl is not None:
                connection.execute(_FORGET_SESSIONS, args)
            if gone is None or not is_fresh:
                connection.execute(_FORGET_MESSAGES, {**args, "gone": None})
            elif gone:
                connection.execute(_FORGET_MESSAGES, args)
            if bodies:
                connection.execute(_ADD_MESSAGES, args)
            return True

        return await self._database.insist(store)

    async def delete(self, session_id: str) -> bool:
        args = self._args(session_id)

        def delete(connection: Connection[tuple[Any, ...]]) -> bool:
            return any(is_fresh for (is_fresh,) in connection.execute(_DELETE, args))

        return await self._database.insist(delete)

    async def find(self, key: str) -> str | None:
        args = self._args(key)

        def find(connection: Connection[tuple[Any, ...]]) -> str | None:
            row = connection.execute(_FIND, args).fetchone()
            return None if row is None else row[0].decode("utf-8", "surrogatepass")

        return await self._database.insist(find)

    async def point(self, key: str, session_id: str) -> None:
        args = self._args(key, session=_bytes(session_id))

        def point(connection: Connection[tuple[Any, ...]]) -> None:
            if self._ttl is not None:
                connection.execute(_FORGET_POINTERS, args)
            connection.execute(_POINT, args)

        await self._database.insist(point)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
