"""Which conversations an interface has open: bounded in number and in age."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from definable.errors import ConfigurationError

from .conversation import InterfaceSession

_Key: TypeAlias = tuple[str, str, str]


class SessionManager:
    """Opens a conversation for every user of every chat, and closes those that fell silent.

    May be shared by several interfaces of one event loop.

    Args:
        session_ttl_seconds: Seconds of silence after which a conversation begins anew.
        max_sessions: How many are open at once; beyond it the least recently used one is closed.
        clock: Tells Unix seconds.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(
        self,
        session_ttl_seconds: float = 3600,
        *,
        max_sessions: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not session_ttl_seconds > 0:
            raise ConfigurationError(f"session_ttl_seconds={session_ttl_seconds!r}: seconds, greater than 0")
        if max_sessions < 1:
            raise ConfigurationError(f"max_sessions={max_sessions!r}: at least 1")
        self.session_ttl_seconds = session_ttl_seconds
        self._max_sessions = max_sessions
        self._clock = clock
        self._sessions: OrderedDict[_Key, InterfaceSession] = OrderedDict()
        """In the order of their last use."""

    def get_or_create(self, platform: str, user_id: str, chat_id: str) -> InterfaceSession:
        """The open conversation of a user in a chat, or a new one; this is a use of it.

        Args:
            platform: The platform's name.
            user_id: The platform's id of the user.
            chat_id: The platform's id of the chat.
        """
        session, now = self.get(platform, user_id, chat_id), self._clock()
        if session is None:
            session = InterfaceSession(
                platform=platform, platform_user_id=user_id, platform_chat_id=chat_id, created_at=now
            )
            self._sessions[platform, user_id, chat_id] = session
            self._make_room()
        session.last_activity_at = now
        self._sessions.move_to_end((platform, user_id, chat_id))
        return session

    def get(self, platform: str, user_id: str, chat_id: str) -> InterfaceSession | None:
        """The open conversation of a user in a chat; None when there is none, or it has been silent for too long."""
        key = (platform, user_id, chat_id)
        session = self._sessions.get(key)
        if session is not None and self._is_expired(session):
            del self._sessions[key]
            return None
        return session

    def touch(self, session: InterfaceSession) -> None:
        """Note that a conversation goes on: what takes long in it is no silence."""
        key = (session.platform, session.platform_user_id, session.platform_chat_id)
        session.last_activity_at = self._clock()
        if self._sessions.get(key) is session:
            self._sessions.move_to_end(key)

    def remove(self, platform: str, user_id: str, chat_id: str) -> bool:
        """Close a conversation: the next message begins a new one. False when there was none."""
        return self._sessions.pop((platform, user_id, chat_id), None) is not None

    def cleanup_expired(self) -> int:
        """Close the conversations that have been silent for too long; returns how many."""
        expired = [key for key, session in self._sessions.items() if self._is_expired(session)]
        for key in expired:
            del self._sessions[key]
        return len(expired)

    @property
    def active_session_count(self) -> int:
        """How many conversations are open."""
        return sum(not self._is_expired(session) for session in self._sessions.values())

    def _is_expired(self, session: InterfaceSession) -> bool:
        return self._clock() - session.last_activity_at > self.session_ttl_seconds

    def _make_room(self) -> None:
        if len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)
