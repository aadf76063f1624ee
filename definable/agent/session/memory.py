"""Sessions in this process's memory: the default, bounded in number and in age."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from definable.errors import ConfigurationError

from .base import Session, checked_ttl


class MemorySessionStore:
    """Keeps the most recently used sessions; they go with the process.

    Args:
        max_sessions: How many are kept; beyond it the least recently used one is forgotten.
        ttl: Seconds since its last use (load or save) after which a session is forgotten; None for never.
        clock: Tells seconds, of any origin, and never goes back.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    __slots__ = ("_clock", "_lock", "_max_sessions", "_sessions", "_ttl")

    def __init__(
        self,
        max_sessions: int = 10_000,
        ttl: float | None = 24 * 3600.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_sessions < 1:
            raise ConfigurationError(f"max_sessions={max_sessions!r}: at least 1")
        self._max_sessions = max_sessions
        self._ttl = checked_ttl(ttl)
        self._clock = clock
        self._lock = threading.Lock()  # `Agent.run` brings event loops in other threads
        self._sessions: OrderedDict[str, tuple[float, Session]] = OrderedDict()
        """Each with the time of its last use, which is also their order."""

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Nothing to hold: the sessions stay when the context ends."""
        yield

    async def load(self, session_id: str) -> Session | None:
        """The session, or None; this is a use of it."""
        with self._lock:
            self._forget_expired()
            kept = self._sessions.get(session_id)
            if kept is None:
                return None
            session = kept[1]
            self._keep(session)
        return _with_own_state(session)

    async def save(self, session: Session) -> None:
        """Keep the session, in place of what was there under its id.

        Raises:
            ConfigurationError: The session's state cannot be copied.
        """
        session = _with_own_state(session)
        with self._lock:
            self._forget_expired()
            self._keep(session)
            if len(self._sessions) > self._max_sessions:
                self._sessions.popitem(last=False)

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False when there was none."""
        with self._lock:
            self._forget_expired()
            return self._sessions.pop(session_id, None) is not None

    def __len__(self) -> int:
        with self._lock:
            self._forget_expired()
            return len(self._sessions)

    def _keep(self, session: Session) -> None:
        self._sessions[session.session_id] = (self._clock(), session)
        self._sessions.move_to_end(session.session_id)

    def _forget_expired(self) -> None:
        if self._ttl is None:
            return
        horizon = self._clock() - self._ttl
        while self._sessions:
            session_id, (used_at, _) = next(iter(self._sessions.items()))
            if used_at > horizon:
                return
            del self._sessions[session_id]


def _with_own_state(session: Session) -> Session:
    return Session(
        session.session_id,
        session.user_id,
        session.messages,
        _copied(session) if session.state else {},
        session.created_at,
        session.updated_at,
    )


def _copied(session: Session) -> dict[str, Any]:
    try:
        return copy.deepcopy(session.state)
    except Exception as error:
        raise ConfigurationError(
            f"the session_state of {session.session_id!r} cannot be kept, it must be copyable: {error}"
        ) from error
