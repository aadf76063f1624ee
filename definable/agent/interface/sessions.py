"""Who talks where, and in which session of the agent's.

`InterfaceSession` is what hooks see of a conversation, `SessionManager` holds those that are open, and `ChatSessions`
keeps them in step with the agent's session store for the pipeline: a message holds its session from before its hooks to
the end of its run, so that it is loaded once and saved once, by the run, with what hooks have changed in its state.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from os import urandom
from typing import Any, TypeAlias

from definable.agent.auth.base import CHAT_NAMESPACE, platform_identity
from definable.agent.run.output import RunOutput
from definable.agent.session.base import NOT_STORED, Session, copied_state
from definable.agent.session.history import bounded
from definable.agent.session.service import SessionService, SessionTurn, enter_in_time
from definable.concurrency.isolation import error_text, is_failure
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, SessionNotFound
from definable.model.message import Message

logger: logging.Logger = logger_named(__name__)

MAX_KNOWN = 100_000
"""Chats of which it is remembered which conversation began here last."""

_Key: TypeAlias = tuple[str, str, str]
"""Platform, user and chat."""


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

    def touch(self) -> None:
        """Note that something happened now."""
        self.last_activity_at = time.time()

    def truncate_history(self, n: int) -> None:
        """Keep the newest `n` messages of the view; a tool call is never cut from its result."""
        self.messages = bounded(self.messages, n)


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
        """Note that a conversation is active: a long run is no silence."""
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


class ChatSessions:
    """Keeps an interface's sessions and the agent's in step.

    Args:
        sessions: The agent's; None: an interface sees what it answered itself.
        place: A place for a run among those that may be under way; taken before the session's turn, as every run does.
        max_messages: How many messages of a conversation an interface without `sessions` keeps.
        ttl: Seconds of silence after which a conversation begins anew.
        name: Distinguishes the interface from others that serve the same chats; None where there are none.
    """

    def __init__(
        self,
        sessions: SessionService | None,
        place: Callable[[], AbstractAsyncContextManager[None]],
        max_messages: int,
        ttl: float,
        name: str | None = None,
    ) -> None:
        self._sessions = sessions
        self._place = place
        self._max_messages = max_messages
        self._ttl = ttl
        self._prefix = "interface" if name is None else f"interface {name}"
        self._known: OrderedDict[str, str] = OrderedDict()
        """The session of a chat that began here last."""

    @asynccontextmanager
    async def turn(
        self, session: InterfaceSession, user_id: str, former_user_id: str | None = None
    ) -> AsyncGenerator[SessionTurn | None, None]:
        """The turn in a message's session, which shows what was said elsewhere.

        What hooks have changed in its state is saved at the end also when the run fails, or none follows.

        Args:
            session: The open conversation. A new one becomes the conversation of before a restart where that is young
                enough.
            user_id: Whose it is.
            former_user_id: A former name of the same user: a stored conversation of this chat that it owns becomes the
                user's.

        Raises:
            SessionNotFound: The session belongs to another user.
            RunTimeout: The turn did not come in time.
            StorageError: The store failed.
        """
        if self._sessions is None:
            session.user_id = user_id
            yield None
            return
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._place())
            turn = await self._enter(stack, self._sessions, session, {user_id, former_user_id} - {None}, user_id)
            _show(session, turn.session)
            before = copied_state(turn.session_id, turn.session.state)
            try:
                yield turn
            except BaseException as error:
                if is_failure(error):
                    await _save_state_of_failed(turn, session, before)
                raise
            if not turn.is_saved:
                await _save_state(turn, session, before)

    def for_run(self, session: InterfaceSession, turn: SessionTurn | None) -> SessionTurn | None:
        """The turn for the message's run: with the state as hooks have left it, as the run's own."""
        if turn is not None:
            turn.session = replace(turn.session, state=copied_state(turn.session_id, session.session_state))
        return turn

    def after_run(self, session: InterfaceSession, output: RunOutput, turn: SessionTurn | None) -> dict[str, Any]:
        """Show a session what a run has left behind; returns a copy of its state."""
        session.last_run_output = output
        if turn is not None and turn.is_saved:
            _show(session, turn.session)
        else:
            session.messages = bounded(session.messages + output.messages, self._max_messages)
        return copied_state(session.session_id, session.session_state)

    async def keep_state(self, session: InterfaceSession, before: dict[str, Any]) -> None:
        """Store what a hook has changed in the `session_state` after the run, in a turn of its own.

        Args:
            session: The open conversation.
            before: Its state as the run has left it.
        """
        if self._sessions is None or session.session_state == before:
            return
        stored = await self._sessions.change_state(session.session_id, before, session.session_state)
        if stored is not None:
            _show(session, stored)

    async def history(
        self, platform: str, user_id: str, chat_id: str, session: InterfaceSession | None
    ) -> Sequence[Message]:
        """What was said in a conversation as the store has it, after a restart too; nothing where there is none.

        Args:
            platform: The platform's name.
            user_id: The platform's id of the user.
            chat_id: The platform's id of the chat.
            session: The open conversation; None where none is open here.

        Raises:
            StorageError: The store failed.
        """
        sessions = self._sessions
        if sessions is None:
            return () if session is None else session.messages
        key = f"{self._prefix}:{platform}:{chat_id}:{user_id}"
        session_id = None if session is None or session.user_id is None else session.session_id
        if session_id is None:
            session_id = await sessions.find(key)
            if session_id is None or session_id == self._known.get(key):  # it has ended here
                return ()
        stored = await sessions.look_up(session_id)
        is_young = stored is not None and time.time() - stored.updated_at <= self._ttl
        return stored.messages if stored is not None and is_young else ()

    async def _enter(
        self,
        stack: AsyncExitStack,
        sessions: SessionService,
        session: InterfaceSession,
        owners: Container[str | None],
        user_id: str,
    ) -> SessionTurn:
        """Take the turn in a message's session and load it."""
        key = f"{self._prefix}:{session.platform}:{session.platform_chat_id}:{session.platform_user_id}"
        if session.user_id is not None:
            turn = await enter_in_time(stack, sessions.turn(session.session_id), sessions.wait_timeout)
            stored = await turn.load(user_id)
            if stored.user_id not in owners:
                raise SessionNotFound(f"there is no session {session.session_id!r}")
            await sessions.keep_pointer(key, session.session_id)
        else:
            turn = await self._enter_former(stack, sessions, key, owners)
            if turn is None:  # no other caller can know the new id
                if user_id == platform_identity(session.platform, session.platform_user_id):
                    session.session_id = CHAT_NAMESPACE + session.session_id.removeprefix(CHAT_NAMESPACE)
                turn = await stack.enter_async_context(sessions.turn(session.session_id))
                turn.begin(user_id)
                await sessions.point(key, session.session_id)
            session.session_id = turn.session_id
            _remember(self._known, key, turn.session_id)
            session.user_id = user_id  # at last: where the store failed, the next message tries again
        if turn.session.user_id != user_id:
            turn.session = replace(turn.session, user_id=user_id)
        return turn

    async def _enter_former(
        self, stack: AsyncExitStack, sessions: SessionService, key: str, owners: Container[str | None]
    ) -> SessionTurn | None:
        """The turn in the conversation of before a restart; None when there is none that may go on."""
        session_id = await sessions.find(key)
        if session_id is None or session_id == self._known.get(key):  # it has ended here
            return None
        async with AsyncExitStack() as attempt:
            turn = await enter_in_time(attempt, sessions.turn(session_id), sessions.wait_timeout)
            former = await turn.load()
            is_young = time.time() - former.updated_at <= self._ttl
            if former.version != NOT_STORED and former.user_id is not None and former.user_id in owners and is_young:
                stack.push_async_exit(attempt.pop_all())
                return turn
        return None


async def _save_state(turn: SessionTurn, session: InterfaceSession, before: dict[str, Any]) -> None:
    """Save what hooks have changed in the state where no run did it, and nothing else."""
    if session.session_state == before:
        return
    stored, now = turn.session, time.time()
    await turn.save(replace(stored, state=session.session_state, created_at=stored.created_at or now, updated_at=now))
    _show(session, turn.session)


async def _save_state_of_failed(turn: SessionTurn, session: InterfaceSession, before: dict[str, Any]) -> None:
    """As `_save_state`; the failure that came first is the one that counts."""
    if turn.is_saved:
        return
    try:
        await _save_state(turn, session, before)
    except Exception as error:
        logger.error(
            "the session_state that a hook has changed in session %r is lost, it could not be saved: %s",
            turn.session_id,
            error_text(error),
        )


def _show(session: InterfaceSession, stored: Session) -> None:
    session.messages = stored.messages
    session.session_state = copied_state(stored.session_id, stored.state)


def _remember(table: OrderedDict[str, str], name: str, value: str) -> None:
    table[name] = value
    table.move_to_end(name)
    if len(table) > MAX_KNOWN:
        table.popitem(last=False)
