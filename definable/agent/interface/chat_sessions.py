"""Conversations of chats in the agent's session store, for the pipeline.

A message holds its session from before its hooks to the end of its run, so that it is loaded once and saved once, by
the run, with what hooks have changed in its state.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from os import urandom
from typing import Any

from definable.agent.auth.base import CHAT_NAMESPACE, platform_identity
from definable.agent.run.output import RunOutput
from definable.agent.session.base import NOT_STORED, Session, copied_state
from definable.agent.session.history import bounded
from definable.agent.session.service import SessionService, SessionTurn, enter_in_time
from definable.concurrency.isolation import error_text, is_failure
from definable.concurrency.logs import logger_named
from definable.errors import SessionNotFound
from definable.model.message import Message

from .sessions import InterfaceSession

logger: logging.Logger = logger_named(__name__)

MAX_KNOWN = 100_000
"""Chats of which it is remembered which conversation began here last."""

SUCCESSOR = "definable:successor"
"""In the state of a session: the id of the session in which its chat goes on since `/new`. It is kept with the session,
so that a message needs to load nothing else to know of it."""

MAX_SUCCESSORS = 100
"""How many are followed from one session."""


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

    async def begin_anew(self, session: InterfaceSession, user_id: str) -> None:
        """Have a chat's next message begin a new conversation, here, after a restart and on every replica.

        Args:
            session: The chat's conversation, which the caller has closed.
            user_id: Whose it is.

        Raises:
            StorageError: The store failed.
        """
        if (sessions := self._sessions) is None:
            return
        key = self._key(session)
        former = await sessions.find(key) if session.user_id is None else session.session_id
        if former is None:
            return
        new_id = _new_id(session, user_id)
        # Not in the session's turn, for which a run may make us wait: a save beside a run's is merged.
        await sessions.set_state(former, user_id, SUCCESSOR, new_id)
        await sessions.point(key, new_id)

    async def look_up(self, session: InterfaceSession) -> None:
        """Show a session what is stored of its conversation now, beside whatever goes on in it.

        Raises:
            StorageError: The store failed.
        """
        if (stored := await self._stored(session)) is not None:
            session.session_id = stored.session_id
            _show(session, stored)

    async def history(self, session: InterfaceSession) -> Sequence[Message]:
        """What was said in a conversation as the store has it, after a restart too; nothing where there is none.

        Raises:
            StorageError: The store failed.
        """
        if self._sessions is None:
            return session.messages
        stored = await self._stored(session)
        is_young = stored is not None and time.time() - stored.updated_at <= self._ttl
        return stored.messages if stored is not None and is_young else ()

    async def _stored(self, session: InterfaceSession) -> Session | None:
        """What is stored where the conversation goes on; None where it has ended here or nothing is stored."""
        if (sessions := self._sessions) is None:
            return None
        session_id: str | None = session.session_id
        if session.user_id is None:
            session_id, ended_here = await sessions.find(key := self._key(session)), self._known.get(key)
            if session_id is None or session_id == ended_here:
                return None
        for _ in range(MAX_SUCCESSORS):
            stored = await sessions.look_up(session_id)
            session_id = None if stored is None else stored.state.get(SUCCESSOR)
            if not isinstance(session_id, str):
                return stored
        return None

    def _key(self, session: InterfaceSession) -> str:
        return f"{self._prefix}:{session.platform}:{session.place}:{session.platform_user_id}"

    async def _enter(
        self,
        stack: AsyncExitStack,
        sessions: SessionService,
        session: InterfaceSession,
        owners: Container[str | None],
        user_id: str,
    ) -> SessionTurn:
        """Take the turn in a message's session and load it."""
        key, turn = self._key(session), None
        if session.user_id is not None:
            turn = await self._enter_known(stack, sessions, session, session.session_id, owners, user_id)
            if turn is not None and turn.session_id == session.session_id:
                await sessions.keep_pointer(key, session.session_id)
        else:
            session_id = await sessions.find(key)
            if session_id is not None and session_id != self._known.get(key):  # else it has ended here
                turn = await self._enter_known(stack, sessions, session, session_id, owners, user_id)
        if turn is None:  # no other caller can know the new id
            session.session_id = _new_id(session, user_id)
            turn = await stack.enter_async_context(sessions.turn(session.session_id))
            turn.begin(user_id)
            await sessions.point(key, session.session_id)
        if session.user_id is None or turn.session_id != session.session_id:
            session.session_id = turn.session_id
            _remember(self._known, key, turn.session_id)
            session.user_id = user_id  # at last: where the store failed, the next message tries again
        if turn.session.user_id != user_id:
            turn.session = replace(turn.session, user_id=user_id)
        return turn

    async def _enter_known(
        self,
        stack: AsyncExitStack,
        sessions: SessionService,
        session: InterfaceSession,
        session_id: str,
        owners: Container[str | None],
        user_id: str,
    ) -> SessionTurn | None:
        """The turn in a chat's session, or in the one in which it goes on since `/new`.

        Args:
            stack: Holds the turn.
            sessions: The agent's.
            session: Where it is not open yet, the stored one goes on only if it is young enough.
            session_id: Where the conversation was last.
            owners: Whose it may be.
            user_id: Whose a new one is.

        Returns:
            None: There is none that may go on.

        Raises:
            SessionNotFound: The open session belongs to another user.
        """
        is_former = session.user_id is None
        has_moved = is_former
        for _ in range(MAX_SUCCESSORS):
            async with AsyncExitStack() as attempt:
                turn = await enter_in_time(attempt, sessions.turn(session_id), sessions.wait_timeout)
                stored = await turn.load(user_id)
                successor = stored.state.get(SUCCESSOR)
                if not isinstance(successor, str):
                    is_owner = stored.user_id is not None and stored.user_id in owners
                    if not (is_owner or has_moved):
                        raise SessionNotFound(f"there is no session {session_id!r}")
                    is_new, is_old = stored.version == NOT_STORED, time.time() - stored.updated_at > self._ttl
                    may_go_on = (
                        not has_moved or is_named_for(session_id, session, user_id)
                        if is_new
                        else not (is_former and is_old)
                    )
                    if not (is_owner and may_go_on):
                        return None
                    stack.push_async_exit(attempt.pop_all())
                    return turn
            session_id, has_moved = successor, True
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


def is_named_for(session_id: str, session: InterfaceSession, user_id: str) -> bool:
    """Whether a session's id is in the namespace of its user: the chats', or that of people who are known otherwise."""
    is_chats = user_id == platform_identity(session.platform, session.platform_user_id)
    return session_id.startswith(CHAT_NAMESPACE) == is_chats


def _new_id(session: InterfaceSession, user_id: str) -> str:
    new_id = f"session_{urandom(12).hex()}"
    return new_id if is_named_for(new_id, session, user_id) else CHAT_NAMESPACE + new_id


def _remember(table: OrderedDict[str, str], name: str, value: str) -> None:
    table[name] = value
    table.move_to_end(name)
    if len(table) > MAX_KNOWN:
        table.popitem(last=False)
