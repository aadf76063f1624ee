"""Sessions in this process's memory: the default, bounded in number, in bytes and in age."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError
from definable.json_text import OVERHEAD, value_size
from definable.model.message import Message, messages_size

from .base import ConversationStore, Session, SessionStore, checked_ttl, conflict, copied_state

logger: logging.Logger = logger_named(__name__)

DEFAULT_MAX_BYTES = 256 * 1024 * 1024
"""Bytes that sessions may hold unless said otherwise."""


class MemorySessionStore(SessionStore, ConversationStore):
    """Keeps the most recently used sessions; they go with the process.

    Args:
        max_sessions: How many are kept; beyond it the least recently used one is forgotten.
        ttl: Seconds since its last use (load or save) after which a session is forgotten; None for never.
        clock: Tells seconds, of any origin, and never goes back.
        max_bytes: What they may hold in memory, about; beyond it the least recently used are forgotten, but for the one
            that was saved last, whatever it holds. A run has its session in hand and saves it whole, also one that
            was forgotten meanwhile.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(
        self,
        max_sessions: int = 10_000,
        ttl: float | None = 24 * 3600.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if max_sessions < 1:
            raise ConfigurationError(f"max_sessions={max_sessions!r}: at least 1")
        if not isinstance(max_bytes, int) or max_bytes < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"max_bytes={max_bytes!r}: a whole number of bytes, at least 1")
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._bytes = 0
        self._has_warned = False
        self._ttl = checked_ttl(ttl)
        self._clock = clock
        self._lock = threading.Lock()  # `Agent.run` brings event loops in other threads
        self._sessions: OrderedDict[str, _Kept] = OrderedDict()
        """In the order of their last use."""
        self._pointers: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """From chats to their conversations, each with its last use, in the order of that."""
        self._versions = itertools.count(1)

    @property
    def ttl(self) -> float | None:
        return self._ttl

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Nothing to hold: the sessions stay when the context ends."""
        yield

    async def load(self, session_id: str) -> Session | None:
        with self._lock:
            self._forget_expired()
            kept = self._sessions.get(session_id)
            if kept is None:
                return None
            kept.used_at = self._clock()
            self._sessions.move_to_end(session_id)
        return _with_own_state(kept.session, kept.session.version)

    async def save(self, session: Session) -> None:
        expected, session = session.version, _with_own_state(session, str(next(self._versions)))
        with self._lock:
            self._forget_expired()
            stored = None if expected is None else self._sessions.get(session.session_id)
            if stored is not None and stored.session.version != expected:
                raise conflict(session.session_id)
            before = self._forget(session.session_id)
            kept = _Kept(self._clock(), session, _messages_size(session.messages, before), _rest_size(session))
            self._sessions[session.session_id] = kept
            self._bytes += kept.size
            if len(self._sessions) > self._max_sessions:
                self._forget_oldest()
            while self._bytes > self._max_bytes and len(self._sessions) > 1:
                self._warn()
                self._forget_oldest()

    async def delete(self, session_id: str) -> bool:
        with self._lock:
            self._forget_expired()
            return self._forget(session_id) is not None

    async def find(self, key: str) -> str | None:
        with self._lock:
            self._forget_expired()
            found = self._pointers.pop(key, None)
            if found is None:
                return None
            self._pointers[key] = self._clock(), found[1]
            return found[1]

    async def point(self, key: str, session_id: str) -> None:
        """Remember that a chat's conversation is a session; at most `max_sessions` are remembered."""
        with self._lock:
            self._forget_expired()
            self._pointers[key] = self._clock(), session_id
            self._pointers.move_to_end(key)
            if len(self._pointers) > self._max_sessions:
                self._pointers.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            self._forget_expired()
            return len(self._sessions)

    def _forget(self, session_id: str) -> _Kept | None:
        kept = self._sessions.pop(session_id, None)
        if kept is not None:
            self._bytes -= kept.size
        return kept

    def _forget_oldest(self) -> None:
        self._bytes -= self._sessions.popitem(last=False)[1].size

    def _forget_expired(self) -> None:
        if self._ttl is None:
            return
        horizon = self._clock() - self._ttl
        while self._sessions and next(iter(self._sessions.values())).used_at <= horizon:
            self._forget_oldest()
        while self._pointers and next(iter(self._pointers.values()))[0] <= horizon:
            self._pointers.popitem(last=False)

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "sessions in memory hold more than max_bytes=%d: the least recently used are forgotten from now on, "
                "and their users begin anew; raise MemorySessionStore(max_bytes=...), or use a SQLiteSessionStore",
                self._max_bytes,
            )


@dataclass(slots=True)
class _Kept:
    """A session in the store."""

    used_at: float
    session: Session
    messages_size: int
    rest_size: int

    @property
    def size(self) -> int:
        return self.messages_size + self.rest_size


def _messages_size(messages: tuple[Message, ...], before: _Kept | None) -> int:
    """Bytes of a session's messages; as a rule a run has only added some to those that were there before."""
    old = () if before is None else before.session.messages
    if before is None or not old or not messages:
        return messages_size(messages)
    # ... and dropped some of the oldest, once there are as many as may be.
    gone = next((index for index, message in enumerate(old) if message is messages[0]), len(old))
    kept = len(old) - gone
    if not kept or len(messages) < kept or messages[kept - 1] is not old[-1]:
        return messages_size(messages)
    return before.messages_size - messages_size(old[:gone]) + messages_size(messages[kept:])


def _rest_size(session: Session) -> int:
    return OVERHEAD + len(session.session_id) + (value_size(session.state) if session.state else 0)


def _with_own_state(session: Session, version: str | None) -> Session:
    return replace(session, state=copied_state(session.session_id, session.state), version=version)
