"""What the stores beyond this process's memory share: what is written at a save, what need not be read again.

Messages and states are kept as bytes: compact JSON in UTF-8. A model may write half of a surrogate pair, which UTF-8
proper cannot hold: it is passed through, as `json.loads` reads it.
"""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from collections import OrderedDict
from typing import Any, NamedTuple, cast

from definable.agent.run.context import random_id
from definable.errors import ConfigurationError, StorageError
from definable.model.message import Message, message_from_json, message_to_json

from .base import NOT_STORED, AppendingStore, ConversationStore, Session, SessionStore, checked_ttl


class StoredSession(NamedTuple):
    """A session as it is stored."""

    version: str
    user_id: str | None
    state: bytes
    created_at: float
    updated_at: float
    bodies: list[bytes] | None
    """The messages; None where they are those of the version that was asked for."""


DEFAULT_TTL = 30 * 24 * 3600.0
"""Seconds after its last use for which a session is kept unless said otherwise: 30 days."""


class DurableStore(SessionStore, AppendingStore, ConversationStore):
    """A store of bytes.

    Args:
        ttl: Seconds since its last use (load or save) after which a session is forgotten; None for never.

    Raises:
        ConfigurationError: It is out of its range.
    """

    def __init__(self, ttl: float | None) -> None:
        self._ttl = checked_ttl(ttl)
        self._known = KnownMessages()

    @property
    def ttl(self) -> float | None:
        return self._ttl

    async def load(self, session_id: str) -> Session | None:
        known_version, messages = self._known.get(session_id)
        found = await self._fetch(session_id, known_version)
        if found is None:
            return None
        version, user_id, state, created_at, updated_at, bodies = found
        if bodies is not None:
            messages = tuple([decode_message(body) for body in bodies])
            self._known.put(session_id, version, messages, sum(map(len, bodies)))
        return Session(session_id, user_id, messages, decode_state(state), created_at, updated_at, version)

    async def save(self, session: Session) -> None:
        await self._save(session, None, len(session.messages))

    async def append(self, session: Session, gone: int, added: int) -> None:
        # Of a session that is not stored, an expired one may still be there.
        if session.version == NOT_STORED or not await self._save(session, gone, added):
            await self.save(session)

    async def _save(self, session: Session, gone: int | None, added: int) -> bool:
        # Encoded here, not in a thread: the state is a dict that other tasks may be changing.
        state = encode_state(session.session_id, session.state)
        bodies = [encode_message(message) for message in session.messages[len(session.messages) - added :]]
        version = random_id(8)
        if not await self._store(session, version, state, bodies, gone):
            return False
        know = self._known.put if gone is None else self._known.grow
        know(session.session_id, version, session.messages, sum(map(len, bodies)))
        return True

    @abstractmethod
    async def _fetch(self, session_id: str, known_version: str) -> StoredSession | None:
        """What is stored; this is a use of it."""

    @abstractmethod
    async def _store(self, session: Session, version: str, state: bytes, bodies: list[bytes], gone: int | None) -> bool:
        """Store a session as `version`, unless another one than `session.version` is stored.

        Args:
            session: What to store.
            version: What to call it.
            state: Its state.
            bodies: The messages that are not stored yet.
            gone: How many of the oldest stored messages are to be deleted; None for all.

        Returns:
            False when `bodies` cannot be added to what is stored.

        Raises:
            SessionConflict: Another version is stored.
            StorageError: The store failed.
        """


class KnownMessages:
    """Messages of the sessions used last, by their version: what a store has loaded or saved it need not read again.

    Args:
        max_bytes: How much they may hold, as they are encoded; beyond it the least recently used are dropped.
    """

    class _Known(NamedTuple):
        version: str
        messages: tuple[Message, ...]
        size: int

    def __init__(self, max_bytes: int = 16 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[str, KnownMessages._Known] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()  # runs of one agent may be made in several threads

    def get(self, session_id: str) -> tuple[str, tuple[Message, ...]]:
        """The version and the messages that are known; `NOT_STORED` and none, where none are."""
        with self._lock:
            known = self._known.get(session_id)
            return (NOT_STORED, ()) if known is None else known[:2]

    def put(self, session_id: str, version: str, messages: tuple[Message, ...], size: int) -> None:
        """Know the messages of a version, which take `size` bytes."""
        with self._lock:
            self._put(session_id, self._Known(version, messages, size))

    def grow(self, session_id: str, version: str, messages: tuple[Message, ...], size: int) -> None:
        """Know a later version of messages that are known, with `size` bytes more; what is not known stays so."""
        with self._lock:
            if former := self._known.get(session_id):
                self._put(session_id, self._Known(version, messages, former.size + size))

    def _put(self, session_id: str, known: _Known) -> None:
        if former := self._known.pop(session_id, None):
            self._size -= former.size
        self._known[session_id] = known
        self._size += known.size
        while self._size > self._max_bytes:
            self._size -= self._known.popitem(last=False)[1].size


def encode_message(message: Message) -> bytes:
    """The message as bytes; the same bytes whenever the message is the same."""
    return _encode(message_to_json(message))


def decode_message(body: bytes) -> Message:
    """The message of `encode_message`'s bytes, also of those that a newer version wrote.

    Raises:
        StorageError: The bytes are no message.
    """
    try:
        return message_from_json(json.loads(body))
    except ValueError as error:
        raise StorageError(f"a stored message cannot be read: {error}") from error


def encode_state(session_id: str, state: dict[str, Any]) -> bytes:
    """A session's state as bytes.

    Args:
        session_id: Whose state it is; for the error.
        state: What to encode. As everywhere in JSON, keys come back as strings and tuples as lists.

    Raises:
        ConfigurationError: The state holds what JSON cannot.
    """
    try:
        return _encode(state)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the session_state of {session_id!r} cannot be stored, this store keeps JSON: {error}"
        ) from error


def decode_state(body: bytes) -> dict[str, Any]:
    """The state of `encode_state`'s bytes.

    Raises:
        StorageError: The bytes are no state.
    """
    try:
        state: object = json.loads(body)
    except ValueError as error:
        raise StorageError(f"a stored session_state cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise StorageError(f"a stored session_state cannot be read: it is a {type(state).__name__}, not an object")
    return cast("dict[str, Any]", state)


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
