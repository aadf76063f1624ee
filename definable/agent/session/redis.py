"""Sessions in Redis: any number of replicas share them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from anyio.lowlevel import RunVar

from definable.errors import ConfigurationError, StorageError
from definable.model.message import Message, message_from_json
from definable.storage.redis_address import RedisAddress, integer, items, optional_data
from definable.storage.redis_link import Script

from .base import Session, checked_ttl, conflict, decode_state, encode_message, encode_state

if TYPE_CHECKING:
    from definable.storage.redis_link import RedisLink

Answer = TypeVar("Answer")

_FIELDS = "'version', 'user', 'state', 'messages', 'created', 'updated'"


def _stored(answer: Any) -> list[bytes | None]:
    return [optional_data(field) for field in items(answer, 6)]


_LOAD = Script(
    f"""
local found = redis.call('HMGET', KEYS[1], {_FIELDS})
if found[1] and tonumber(ARGV[1]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return found
""",
    _stored,
)
"""Args: time to live in ms, 0 for none."""

_SAVE = Script(
    """
local ttl, expected, version = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local current = redis.call('HGET', KEYS[1], 'version')
local saved = redis.call('HGET', KEYS[1], 'saved') or ''
if current == version or string.find(saved, version, 1, true) then return 1 end
if expected ~= '*' and expected ~= (current or '') then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', version, 'saved', string.sub(saved .. version, -128), unpack(ARGV, 4))
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
""",
    integer,
)
"""A save whose answer got lost is made again; its version is among the last 16 then, also below what others have saved.

Args: time to live in ms, 0 for none; the version that is there, '*' for any; the new version; names and values.

Returns: 1, or 0 when another version is there.
"""

_DELETE = Script("return redis.call('DEL', KEYS[1])", integer)

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

_ANY = b"*"
"""In place of a version: whatever is there."""

VERSION_ENCODING = "latin-1"
"""Versions are 8 random bytes in Redis, and a character a byte in `Session.version`."""


class RedisSessionStore:
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
        prefix: Replicas that share sessions have it in common; services that share a Redis do not.
        ttl: Seconds since its last use (load or save) after which a session is forgotten; None for never.
        timeout: Seconds for which callers wait for a Redis that does not answer.

    Raises:
        ConfigurationError: A value is out of its range, or the URL is none of Redis's.
        MissingExtra: coredis is not installed.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        *,
        prefix: str = "definable",
        ttl: float | None = None,
        timeout: float = 5.0,
    ) -> None:
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError(f"prefix={prefix!r}: not empty, without braces")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(f"timeout={timeout!r}: seconds, greater than 0")
        self._address = RedisAddress(url, "RedisSessionStore")
        self._prefix = f"{{{prefix}}}:session:".encode()  # the hash tag: a cluster keeps all of them on one node
        self._pointers = f"{{{prefix}}}:conversation:".encode()
        self.ttl: float | None = ttl
        self._ttl = 0 if checked_ttl(ttl) is None else math.ceil((ttl or 0) * 1000)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"RedisSessionStore({self._address!r})"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Hold a connection while the context is open; without it, every load and save makes one.

        Raises:
            StorageError: Redis cannot be reached.
        """
        from definable.storage.redis_link import linked  # loads coredis

        async with linked(self._address, _SCRIPTS, timeout=self._timeout) as link:
            links = _links(self)
            links.append(link)
            try:
                yield
            finally:
                links.remove(link)

    async def load(self, session_id: str) -> Session | None:
        """The session, or None; this is a use of it.

        Raises:
            StorageError: Redis cannot be reached, or what it has is no session.
        """
        return _decoded(session_id, await self._ask(_LOAD, session_id, self._ttl))

    async def save(self, session: Session) -> None:
        """Keep the session, in place of what was there under its id.

        Raises:
            ConfigurationError: The session's state is not JSON-serialisable.
            SessionConflict: Another version is stored than the session's; nothing was changed.
            StorageError: Redis cannot be reached; the session may have been saved.
        """
        expected = _ANY if session.version is None else session.version.encode(VERSION_ENCODING)
        if not await self._ask(_SAVE, session.session_id, self._ttl, expected, os.urandom(8), *_encoded(session)):
            raise conflict(session.session_id)

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False when there was none.

        Raises:
            StorageError: Redis cannot be reached; the session may have been deleted.
        """
        return bool(await self._ask(_DELETE, session_id))

    async def find(self, key: str) -> str | None:
        """The id of the session that a chat's conversation is, or None; this is a use of it.

        Raises:
            StorageError: Redis cannot be reached.
        """
        found = await self._ask_at(self._pointers + _bytes(key), _FIND, self._ttl)
        return None if found is None else found.decode("utf-8", "surrogatepass")

    async def point(self, key: str, session_id: str) -> None:
        """Remember that a chat's conversation is a session, in place of the one that it was.

        Raises:
            StorageError: Redis cannot be reached; it may be remembered.
        """
        await self._ask_at(self._pointers + _bytes(key), _POINT, self._ttl, _bytes(session_id))

    async def _ask(self, script: Script[Answer], session_id: str, *args: Any) -> Answer:
        return await self._ask_at(self._prefix + _bytes(session_id), script, *args)

    async def _ask_at(self, key: bytes, script: Script[Answer], *args: Any) -> Answer:
        from definable.storage.redis_link import linked  # loads coredis

        keys = [key]
        if links := _links(self):
            return await links[-1].insist(script, keys, args)
        async with linked(self._address, _SCRIPTS, timeout=self._timeout) as link:
            return await link.insist(script, keys, args)


def _encoded(session: Session) -> Sequence[bytes | str]:
    messages = b"[" + b",".join([encode_message(message) for message in session.messages]) + b"]"
    state = encode_state(session.session_id, session.state)
    times = ("created", repr(session.created_at), "updated", repr(session.updated_at))
    user = () if session.user_id is None else ("user", _bytes(session.user_id))
    return ("state", state, "messages", messages, *times, *user)


def _decoded(session_id: str, found: Sequence[bytes | None]) -> Session | None:
    version, user, state, messages, created, updated = found
    if version is None:
        return None
    if state is None or messages is None or created is None or updated is None:
        raise StorageError(f"the stored session {session_id!r} cannot be read")
    user_id = None if user is None else user.decode("utf-8", "surrogatepass")
    said, times = _decoded_messages(messages), (float(created), float(updated))
    return Session(session_id, user_id, said, decode_state(state), *times, version.decode(VERSION_ENCODING))


def _decoded_messages(body: bytes) -> tuple[Message, ...]:
    try:
        return tuple([message_from_json(value) for value in cast("list[object]", json.loads(body))])
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
