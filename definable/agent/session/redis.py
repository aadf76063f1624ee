"""Sessions in Redis: any number of replicas share them."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

from anyio.lowlevel import RunVar

from definable.errors import ConfigurationError, StorageError
from definable.storage.redis_address import KeyPrefix, RedisAddress, data, integer, items, list_of, optional_data
from definable.storage.redis_link import Script

from .base import Session, conflict
from .durable import DEFAULT_TTL, DurableStore, StoredSession

if TYPE_CHECKING:
    from definable.concurrency.rate_limits import Limits
    from definable.storage.redis_link import RedisLink

Answer = TypeVar("Answer")


class _Found(NamedTuple):
    """What `_LOAD` finds."""

    version: bytes | None
    user: bytes | None
    state: bytes | None
    created: bytes | None
    updated: bytes | None
    former: bytes | None
    """All messages as one JSON array: how earlier versions kept them."""
    messages: list[bytes] | None
    """None where they are known already."""


def _found(answer: Any) -> _Found:
    version, user, state, created, updated, former, messages = items(answer, 7)
    fields = [optional_data(field) for field in (version, user, state, created, updated, former)]
    return _Found(*fields, messages=None if messages is None else list_of(data)(messages))


_LOAD = Script(
    """
local found = redis.call('HMGET', KEYS[1], 'version', 'user', 'state', 'created', 'updated', 'messages', 'count')
local count = table.remove(found)
if found[1] and not found[6] and tonumber(count) ~= redis.call('LLEN', KEYS[2]) then found[1] = false end
if found[1] and tonumber(ARGV[1]) > 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
found[7] = found[1] ~= ARGV[2] and redis.call('LRANGE', KEYS[2], 0, -1)
return found
""",
    _found,
)
"""A session whose messages Redis has evicted is none.

Args: time to live in ms, 0 for none; the version whose messages are known.
"""

_SAVE = Script(
    """
local ttl, expected, version, gone, first = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local current, saved, former, count = unpack(redis.call('HMGET', KEYS[1], 'version', 'saved', 'messages', 'count'))
saved = saved or ''
if current == version or string.find(saved, version, 1, true) then return 1 end
if expected ~= '*' and expected ~= (current or '') then return 0 end
if gone == '*' or not current then
    redis.call('DEL', KEYS[2])
elseif former or tonumber(count) ~= redis.call('LLEN', KEYS[2]) then
    return 2
elseif tonumber(gone) > 0 then
    redis.call('LTRIM', KEYS[2], gone, -1)
end
for at = first, #ARGV, 1000 do
    redis.call('RPUSH', KEYS[2], unpack(ARGV, at, math.min(at + 999, #ARGV)))
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', version, 'saved', string.sub(saved .. version, -256),
    'count', redis.call('LLEN', KEYS[2]), unpack(ARGV, 6, first - 1))
if ttl > 0 then
    redis.call('PEXPIRE', KEYS[1], ttl)
    redis.call('PEXPIRE', KEYS[2], ttl)
end
return 1
""",
    integer,
)
"""A save whose answer got lost is made again; its version is among the last 16 then, also below what others have saved.

Args: time to live in ms, 0 for none; the version that is there, '*' for any; the new version; how many of the oldest
messages go, '*' for all; where the new messages begin among the arguments; names and values; the new messages.

Returns: 1, 0 when another version is there, 2 when the stored messages are no list that could be added to.
"""

_DELETE = Script("redis.call('DEL', KEYS[2]) return redis.call('DEL', KEYS[1])", integer)

_FIND = Script(
    """
local found = redis.call('GET', KEYS[1])
if found and tonumber(ARGV[1]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return found
""",
    optional_data,
)
"""Args: time to live in ms, 0 for none."""

_POINT = Script(
    """
redis.call('SET', KEYS[1], ARGV[2])
if tonumber(ARGV[1]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 1
""",
    integer,
)
"""Args: time to live in ms, 0 for none; the session's id."""

_SCRIPTS = (_LOAD, _SAVE, _DELETE, _FIND, _POINT)

_CONFLICT, _SAVED = 0, 1
"""Answers of `_SAVE`."""

_ANY = b"*"
"""In place of a version: whatever is there; in place of a number of messages: all."""

VERSION_ENCODING = "latin-1"
"""Of versions; earlier releases made them of random bytes."""


class RedisSessionStore(DurableStore):
    """Shares sessions over replicas, in Redis or Valkey from 6.2 on.

    - A save is whole or does not happen, and is as safe as Redis keeps it.
    - Runs of one session in one process take turns. Of two processes that run the same session at once, neither
      overwrites what the other has said: the later save puts its own messages behind the other's, and of the
      state keeps the keys that its run has changed. Such runs have not seen each other; where that matters, send
      a session's requests to one replica.
    - A session that was deleted or has expired during a run comes back with that run's own messages alone.
    - Redis forgets a session when its time to live is over, by its own clock.

    Args:
        url: As for `RedisBus`, which may use the same server and prefix.
        prefix: Replicas that share sessions have it in common; services that share a Redis do not. None:
            `"definable"`, followed by the agent's name where it has one.
        ttl: Seconds since its last use (load or save) after which a session is forgotten: 30 days; None for never.
        timeout: Seconds for which callers wait for a Redis that does not answer.
        ssl_context: As for `RedisBus`.

    Raises:
        ConfigurationError: A value is out of its range, or the URL is none of Redis's.
        MissingExtra: coredis is not installed.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        *,
        prefix: str | None = None,
        ttl: float | None = DEFAULT_TTL,
        timeout: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(ttl)
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(f"timeout={timeout!r}: seconds, greater than 0")
        self._address = RedisAddress(url, "RedisSessionStore", ssl_context)
        self._prefix = KeyPrefix(prefix, "RedisSessionStore")
        self._ttl_ms = math.ceil((ttl or 0) * 1000)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"RedisSessionStore({self._address!r})"

    def rate_limits(self) -> AbstractAsyncContextManager[Limits]:
        """The limits that replicas share in this Redis, while the context is open; see `SharesLimits`."""
        from definable.storage.redis_limits import redis_limits  # loads coredis

        return redis_limits(self._address, str(self._prefix))

    def belongs_to(self, agent: str | None) -> None:
        """Keep sessions under an agent's name, where no prefix was given; called when an agent is given the store.

        Raises:
            ConfigurationError: Agents of several names share it.
        """
        self._prefix.follow(agent)

    @property
    def failure(self) -> StorageError | None:
        """Why it cannot be used at present; None while it can, and where no connection is held."""
        links = _links(self)
        return links[-1].failure if links else None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Hold a connection while the context is open; without it, every load and save makes one.

        Raises:
            StorageError: Redis cannot be reached.
        """
        from definable.storage.redis_link import linked  # loads coredis
        from definable.storage.redis_servers import warn_of_eviction

        async with linked(self._address, _SCRIPTS, timeout=self._timeout) as link:
            await warn_of_eviction(link, repr(self))
            links = _links(self)
            links.append(link)
            try:
                yield
            finally:
                links.remove(link)

    async def _fetch(self, session_id: str, known_version: str) -> StoredSession | None:
        found = await self._ask(_LOAD, session_id, self._ttl_ms, known_version.encode(VERSION_ENCODING))
        if found.version is None:
            return None
        if found.state is None or found.created is None or found.updated is None:
            raise StorageError(f"the stored session {session_id!r} cannot be read")
        return StoredSession(
            found.version.decode(VERSION_ENCODING),
            None if found.user is None else found.user.decode("utf-8", "surrogatepass"),
            found.state,
            float(found.created),
            float(found.updated),
            found.messages if found.former is None or found.messages is None else _former_bodies(found.former),
        )

    async def _store(self, session: Session, version: str, state: bytes, bodies: list[bytes], gone: int | None) -> bool:
        fields = ["state", state, "created", repr(session.created_at), "updated", repr(session.updated_at)]
        if session.user_id is not None:
            fields += ["user", _bytes(session.user_id)]
        expected = _ANY if session.version is None else session.version.encode(VERSION_ENCODING)
        head = (self._ttl_ms, expected, version, _ANY if gone is None else gone, 6 + len(fields))
        answer = await self._ask(_SAVE, session.session_id, *head, *fields, *bodies)
        if answer == _CONFLICT:
            raise conflict(session.session_id)
        return answer == _SAVED

    async def delete(self, session_id: str) -> bool:
        return bool(await self._ask(_DELETE, session_id))

    async def find(self, key: str) -> str | None:
        found = await self._ask_at([self._key("conversation", key)], _FIND, self._ttl_ms)
        return None if found is None else found.decode("utf-8", "surrogatepass")

    async def point(self, key: str, session_id: str) -> None:
        await self._ask_at([self._key("conversation", key)], _POINT, self._ttl_ms, _bytes(session_id))

    async def _ask(self, script: Script[Answer], session_id: str, *args: Any) -> Answer:
        keys = [self._key("session", session_id), self._key("messages", session_id)]
        return await self._ask_at(keys, script, *args)

    def _key(self, kind: str, name: str) -> bytes:
        return f"{self._prefix}:{kind}:".encode() + _bytes(name)

    async def _ask_at(self, keys: list[bytes], script: Script[Answer], *args: Any) -> Answer:
        from definable.storage.redis_link import linked  # loads coredis

        if links := _links(self):
            return await links[-1].insist(script, keys, args)
        async with linked(self._address, _SCRIPTS, timeout=self._timeout) as link:
            return await link.insist(script, keys, args)


def _former_bodies(document: bytes) -> list[bytes]:
    try:
        return [json.dumps(value).encode() for value in cast("list[object]", json.loads(document))]
    except (ValueError, TypeError) as error:
        raise StorageError(f"a stored message cannot be read: {error}") from error


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_open_links: RunVar[WeakKeyDictionary[RedisSessionStore, list[RedisLink]]] = RunVar("definable_redis_sessions")


def _links(store: RedisSessionStore) -> list[RedisLink]:
    """The connections that are open in this event loop."""
    links = _open_links.get(None)
    if links is None:
        _open_links.set(links := WeakKeyDictionary())
    return links.setdefault(store, [])
