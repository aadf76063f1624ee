"""Who talks where: what hooks see of a conversation, and those that are open.

`chat_sessions.py` keeps them in step with the agent's session store.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from os import urandom
from typing import Any, TypeAlias

from definable.agent.run.output import RunOutput
from definable.agent.session.history import bounded
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError
from definable.model.message import Message

logger: logging.Logger = logger_named(__name__)

_Key: TypeAlias = tuple[str, str, str]
"""Platform, user and chat, with its thread."""


@dataclass(slots=True, eq=False)
class InterfaceSession:
    """One user's conversation in one chat.

    The conversation itself lives in the agent's session store, under `session_id`; `messages` is a view of it.
    """

    session_id: str = field(default_factory=lambda: f"session_{urandom(12).hex()}")
    """The agent's session that holds the conversation."""
    platform: str = ""
    platform_user_id: str = ""
    platform_chat_id: str = ""
    messages: tuple[Message, ...] = ()
    """What was said, oldest first, as of the last run; changing it changes nothing that is kept."""
    session_state: dict[str, Any] = field(default_factory=dict[str, Any])
    """The state that the conversation's runs share. What a hook changes before a run is kept, and seen by tools."""
    last_run_output: RunOutput | None = None
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""
    last_activity_at: float = field(default_factory=time.time)
    """Unix seconds."""
    user_id: str | None = None
    """Whose conversation it is, as runs know the user; None before the first message was let in."""
    thread_id: str | None = None
    """The thread within the chat."""

    @property
    def place(self) -> str:
        """The chat's id, with the thread's behind it."""
        return place_of(self.platform_chat_id, self.thread_id)

    def touch(self) -> None:
        """Note that something happened now."""
        self.last_activity_at = time.time()

    def truncate_history(self, n: int) -> None:
        """Keep the newest `n` messages of the view; a tool call is never cut from its result."""
        self.messages = bounded(self.messages, n)


def place_of(chat_id: str, thread_id: str | None) -> str:
    """Names a chat, or a thread within it."""
    return chat_id if thread_id is None else f"{chat_id}/{thread_id}"


class SessionManager:
    """Opens a conversation for every user of every chat, and closes those that fell silent.

    May be shared by several interfaces of one event loop.

    Args:
        session_ttl_seconds: Seconds of silence after which a conversation begins anew.
        max_sessions: How many are open at once; beyond it the least recently used one is closed.
        clock: Returns Unix seconds.

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
        self._removed: OrderedDict[_Key, InterfaceSession] = OrderedDict()
        """Those that `remove` has closed, until a pipeline has told the agent's session store."""

    def get_or_create(
        self, platform: str, user_id: str, chat_id: str, thread_id: str | None = None
    ) -> InterfaceSession:
        """The open conversation of a user in a chat, or a new one; this is a use of it.

        Args:
            platform: The platform's name.
            user_id: The platform's id of the user.
            chat_id: The platform's id of the chat.
            thread_id: The platform's id of the thread within the chat.
        """
        session, now = self.get(platform, user_id, chat_id, thread_id), self._clock()
        key = (platform, user_id, place_of(chat_id, thread_id))
        if session is None:
            session = InterfaceSession(
                platform=platform,
                platform_user_id=user_id,
                platform_chat_id=chat_id,
                created_at=now,
                thread_id=thread_id,
            )
            self._sessions[key] = session
            self._make_room()
        session.last_activity_at = now
        self._sessions.move_to_end(key)
        return session

    def get(self, platform: str, user_id: str, chat_id: str, thread_id: str | None = None) -> InterfaceSession | None:
        """The open conversation of a user in a chat; None when there is none, or it has been silent for too long."""
        key = (platform, user_id, place_of(chat_id, thread_id))
        session = self._sessions.get(key)
        if session is not None and self._is_expired(session):
            del self._sessions[key]
            return None
        return session

    def touch(self, session: InterfaceSession) -> None:
        """Note that a conversation is active: a long run is no silence."""
        key = (session.platform, session.platform_user_id, session.place)
        session.last_activity_at = self._clock()
        if self._sessions.get(key) is session:
            self._sessions.move_to_end(key)

    def remove(self, platform: str, user_id: str, chat_id: str, thread_id: str | None = None) -> bool:
        """Close a conversation: the next message begins a new one, also over a restart and on other replicas once a
        message of the platform was handled. False when there was none."""
        key = (platform, user_id, place_of(chat_id, thread_id))
        session = self._sessions.pop(key, None)
        if session is None:
            return False
        self._removed[key] = session
        if len(self._removed) > self._max_sessions:
            self._removed.popitem(last=False)
        return True

    def forget(self, session: InterfaceSession) -> None:
        """Close a conversation here alone."""
        self._sessions.pop((session.platform, session.platform_user_id, session.place), None)

    def take_removed(self, platform: str) -> list[InterfaceSession]:
        """The conversations of a platform that `remove` has closed since."""
        keys = [key for key in self._removed if key[0] == platform]
        return [self._removed.pop(key) for key in keys]

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
