"""Sessions in Redis: any number of replicas share them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from anyio.lowlevel import RunVar

from definable.agent.run_context import current_run
from definable.agent.storage.redis_address import RedisAddress
from definable.agent.storage.redis_answer import integer, items, optional_data
from definable.agent.storage.redis_script import Script
from definable.errors import ConfigurationError, SessionNotFound, StorageError
from definable.model.message import Message
from definable.model.message_json import message_from_json

from .base import Session, checked_ttl
from .codec import decode_state, encode_message, encode_state
from .redis_merge import merged

if TYPE_CHECKING:
    from definable.agent.storage.redis_link import RedisLink

Answer = TypeVar("Answer")

_FIELDS = "'version', 'user', 'state', 'messages', 'created', 'updated'"


def _stored(answer: Any) -> list[bytes | None]:
    return [optional_data(field) for field in items(answer, 6)]


def _save_answer(answer: Any) -> list[bytes | None] | None:
    """None when it was saved."""
    return None if answer == 1 else _stored(answer)


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
    f"""
local ttl, expected, version = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local current = redis.call('HGET', KEYS[1], 'version')
local saved = redis.call('HGET', KEYS[1], 'saved') or ''
if current == version or string.find(saved, version, 1, true) then return 1 end
if expected ~= '*' and expected ~= (current or '') then return redis.call('HMGET', KEYS[1], {_FIELDS}) end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', version, 'saved', string.sub(saved .. version, -128), unpack(ARGV, 4))
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
""",
    _save_answer,
)
"""A save whose answer got lost is made again; its version is among the last 16 then, also below what others have saved.

Args: time to live in ms, 0 for none; the version that is there, '*' for any; the new version; names and values.

Returns: 1, or what is there instead of that version.
"""

_DELETE = Script("return redis.call('DEL', KEYS[1])", integer)

_SCRIPTS = (_LOAD, _SAVE, _DELETE)

_ANY = b"*"

_NONE = b""
"""The version of a session that is not there."""

MAX_SEEN = 4
"""Sessions that one task may have loaded and not saved yet, of those that are remembered; a run's own is."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A session as it was when the current task loaded it."""

    store: RedisSessionStore
    session: Session
    version: bytes
    state: bytes
    """The session's own was handed out, and may have been changed."""


_seen: ContextVar[tuple[_Seen, ...]] = ContextVar("definable_redis_sessions_seen", default=())


class RedisSessionStore:
    """Shares sessions over replicas, in Redis or Valkey from 6.2 on.

    - A save is whole or does not happen, and is as safe as Redis keeps it.
    - Runs of one session in one process take turns. Of two processes that run the same session at once, neither
      overwrites what the other has said: a save that finds another's puts its own messages behind them, and of the
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
        from definable.agent.storage.redis_link import linked  # loads coredis

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
        found = await self._ask(_LOAD, session_id, self._ttl)
        session = _decoded(session_id, found)
        if session is None:
            self._note(Session(session_id), _NONE, b"{}")
        else:
            self._note(session, found[0] or _NONE, found[2] or b"{}")
        return session

    async def save(self, session: Session) -> None:
        """Keep the session, in place of what was there under its id, as far as the current task has seen that.

        Raises:
            ConfigurationError: The session's state is not JSON-serialisable.
            SessionNotFound: Another user has begun a session of this id in the meantime.
            StorageError: Redis cannot be reached; the session may have been saved.
        """
        seen = self._take_note(session.session_id)
        version = os.urandom(8)
        expected = _ANY if seen is None else seen.version
        fields = _encoded(session)
        while (found := await self._ask(_SAVE, session.session_id, self._ttl, expected, version, *fields)) is not None:
            if seen is None:
                raise StorageError(f"the session {session.session_id!r} was not saved: Redis refused what it must take")
            base = Session(session.session_id, None, seen.session.messages, decode_state(seen.state))
            theirs = _decoded(session.session_id, found)
            if theirs is not None and theirs.user_id != session.user_id:
                raise SessionNotFound(f"there is no session {session.session_id!r}")
            expected = found[0] or _NONE
            fields = _encoded(merged(base, session, theirs or Session(session.session_id)))

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False when there was none.

        Raises:
            StorageError: Redis cannot be reached; the session may have been deleted.
        """
        return bool(await self._ask(_DELETE, session_id))

    async def _ask(self, script: Script[Answer], session_id: str, *args: Any) -> Answer:
        from definable.agent.storage.redis_link import linked  # loads coredis

        keys = [self._prefix + _bytes(session_id)]
        if links := _links(self):
            return await links[-1].insist(script, keys, args)
        async with linked(self._address, _SCRIPTS, timeout=self._timeout) as link:
            return await link.insist(script, keys, args)

    def _note(self, session: Session, version: bytes, state: bytes) -> None:
        self._take_note(session.session_id)
        notes = [*_seen.get(), _Seen(self, session, version, state)]
        if len(notes) > MAX_SEEN:
            run = current_run.get()
            is_own = run is not None and notes[0].session.session_id == run.session_id  # it will be saved
            del notes[1 if is_own else 0]
        _seen.set(tuple(notes))

    def _take_note(self, session_id: str) -> _Seen | None:
        found: _Seen | None = None
        others: list[_Seen] = []
        for seen in _seen.get():
            if seen.store is self and seen.session.session_id == session_id:
                found = seen
            else:
                others.append(seen)
        _seen.set(tuple(others))
        return found


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
    return Session(
        session_id, user_id, _decoded_messages(messages), decode_state(state), float(created), float(updated)
    )


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
