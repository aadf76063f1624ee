"""One message's way: hooks, auth, rate limit, identity, session, hooks, run, hooks, and back to its chat.

The supervisor makes a `Pipeline` for each interface that it runs, with a handle on the agent that answers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import anyio

from definable.agent.auth.base import (
    CHAT_NAMESPACE,
    AuthContext,
    AuthProvider,
    RefusalLog,
)
from definable.agent.run.context import RunRequest
from definable.agent.run.output import Listener, RunOutput
from definable.agent.session.base import copied_state
from definable.agent.session.locks import called_in_turn
from definable.agent.session.service import SessionService, SessionTurn
from definable.concurrency.call import call_user, closing_what_it_leaves
from definable.concurrency.isolation import contain_errors, error_text
from definable.concurrency.logs import logger_named
from definable.errors import DefinableError, RunTimeout
from definable.model.message import Message

from .admission import Admission, former_identity_of, identity_of
from .base import BaseInterface
from .chat_sessions import ChatSessions
from .config import ChatCommand
from .errors import InterfaceMessageError
from .hooks import HookChain
from .message import (
    InterfaceMessage,
    InterfaceResponse,
    MessageEnd,
    is_meant,
    reply_text,
    run_input,
    with_written_buttons,
)
from .sessions import InterfaceSession
from .streamed_reply import StreamedReply, send_response, while_typing
from .transcriber import with_transcripts

logger: logging.Logger = logger_named(__name__)


class RunAgent(Protocol):
    """Makes a run of the agent, and reports its events to the listener."""

    async def __call__(self, request: RunRequest, listener: Listener | None = None) -> RunOutput: ...


def no_auth() -> None:
    """The provider of an open agent."""


@dataclass(frozen=True, slots=True)
class AgentHandle:
    """The agent behind an interface, as far as its pipeline needs it."""

    run: RunAgent
    can_stream: bool = False
    """Whether a reply may be shown while it is written: not where the agent makes an object of it."""
    sessions: SessionService | None = None
    """The agent's conversations; None: an interface sees of them what it answered itself."""
    auth: Callable[[], AuthProvider | None] = no_auth
    """The agent's provider, asked at every message."""
    refusals: RefusalLog = field(default_factory=RefusalLog)
    """Where it is noted who is not let in."""
    place: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    """A place for a run among those that may be under way. A message waits for it, before its session's turn, and holds
    it to the end of its run."""
    name: str | None = None
    """Distinguishes the interface from others that keep conversations in the same store; None: its platform does."""


class Pipeline:
    """Answers the messages of one interface; its steps read in their order in `_answer`.

    Args:
        interface: Sends, shows typing, and holds the settings; its hooks, auth, identities and sessions are looked up
            at every message.
        agent: The agent that answers.
    """

    def __init__(self, interface: BaseInterface, agent: AgentHandle) -> None:
        config = interface.config
        self._interface = interface
        self._agent = agent
        self.admission: Admission = Admission(interface, agent.auth, agent.refusals, self.say)
        self._isolation = contain_errors(f"interface {interface.name}")
        ttl = interface.session_manager.session_ttl_seconds
        self._chat_sessions = ChatSessions(agent.sessions, agent.place, config.max_session_history, ttl, agent.name)

    @property
    def _hooks(self) -> HookChain:
        return HookChain(self._interface.hooks)

    async def answer(self, message: InterfaceMessage) -> MessageEnd:
        """Answer a message; returns how it ended, raises nothing."""
        if not is_meant(message, self._interface.config.groups):
            return MessageEnd.HANDLED
        return await self.perform(message, self._admit_and_answer)

    async def perform(
        self, message: InterfaceMessage, work: Callable[[InterfaceMessage, anyio.CancelScope], Awaitable[MessageEnd]]
    ) -> MessageEnd:
        """Do what a message asks for, within the time that an answer may take; raises nothing.

        Args:
            message: What came in.
            work: Does it; it may set the deadline of the scope later.
        """
        config = self._interface.config
        try:
            with self._isolation:
                with anyio.move_on_after(config.answer_timeout) as scope:  # left with nothing open within it
                    return await closing_what_it_leaves(self._interface.name, work, message, scope)
                await self._fail(
                    message, RunTimeout(f"no answer within {config.answer_timeout:g} s"), config.texts.timed_out
                )
        except Exception as error:
            await self._fail(message, error, config.error_message)
        finally:
            await self._keep_removed(message)
        return MessageEnd.FAILED

    async def history(self, platform: str, user_id: str, chat_id: str) -> Sequence[Message]:
        """What was said in a user's open conversation; see `ReadHistory`.

        Raises:
            StorageError: The store failed.
        """
        session = self._interface.session_manager.get(platform, user_id, chat_id)
        if session is None:
            session = InterfaceSession(platform=platform, platform_user_id=user_id, platform_chat_id=chat_id)
        return await self._chat_sessions.history(session)

    async def _admit_and_answer(self, message: InterfaceMessage, scope: anyio.CancelScope) -> MessageEnd:
        end, caller = await self.admission.ask(message)
        if end is None:
            await self._answer(message, caller, scope)
        return end or MessageEnd.HANDLED

    async def _answer(self, message: InterfaceMessage, caller: AuthContext | None, scope: anyio.CancelScope) -> None:
        user_id = await self._user_id(message, caller)
        message = await self._interface.complete(message)  # may take long: before the session's turn
        if message.audio and (transcriber := self._interface.config.transcriber) is not None:
            message = await with_transcripts(message, transcriber)
        session = self._session(message, user_id)
        streamed, said, ran = None, None, None
        async with self._chat_sessions.turn(session, user_id, former_identity_of(message, user_id)) as turn:
            with called_in_turn(session.session_id):
                if message.button is not None:
                    said = await self._hooks.button(message, session)
                if said is None:
                    message = await self._hooks.before_respond(message, session)
            if said is None:
                streamed = StreamedReply(self._interface, message) if self._streams else None
                turn = self._chat_sessions.for_run(session, turn)
                try:
                    output = await self._run(message, session, caller, streamed, turn)
                finally:
                    self._interface.session_manager.touch(session)
                ran = output, self._chat_sessions.after_run(session, output, turn)
        if ran is not None:
            said = await self._response(message, session, *ran)
        scope.deadline = math.inf  # what was made reaches the user, however long that takes
        if isinstance(said, InterfaceResponse):
            await self._send(message, said, streamed)

    async def _response(
        self, message: InterfaceMessage, session: InterfaceSession, output: RunOutput, state: dict[str, Any]
    ) -> InterfaceResponse:
        """What a run has said, as hooks leave it; `state` is the session's as the run has left it."""
        images = tuple([image for execution in output.tool_calls for image in execution.media])
        buttons = tuple([row for execution in output.tool_calls for row in execution.buttons])
        response = InterfaceResponse(content=reply_text(output.content), images=images, buttons=buttons)
        response = await self._hooks.after_respond(message, response, session)
        await self._chat_sessions.keep_state(session, state)
        return response

    # --- for commands

    async def say(self, message: InterfaceMessage, text: str, **values: object) -> None:
        """Send one of the service's own texts, unless it is empty."""
        if text:
            await self._send(message, InterfaceResponse(text.format(**values)))

    async def begin_anew(self, message: InterfaceMessage, caller: AuthContext | None) -> None:
        """Have the chat's next message begin a new conversation."""
        user_id = await self._user_id(message, caller)
        session = self._session(message, user_id)
        self._interface.session_manager.forget(session)
        await self._chat_sessions.begin_anew(session, user_id)

    async def call_command(
        self, message: InterfaceMessage, caller: AuthContext | None, command: ChatCommand, scope: anyio.CancelScope
    ) -> None:
        """Send what a user's function says to a command; it sees the session as it is stored now."""
        session = copy(self._session(message, await self._user_id(message, caller)))
        await self._chat_sessions.look_up(session)
        before = copied_state(session.session_id, session.session_state)
        said = await call_user(command, message, session)
        scope.deadline = math.inf
        if said is not None:
            await self._send(message, said if isinstance(said, InterfaceResponse) else InterfaceResponse(str(said)))
        with anyio.move_on_after(self._interface.config.answer_timeout) as waiting:  # for a run in the session
            await self._chat_sessions.keep_state(session, before)
        if waiting.cancelled_caught:
            logger.warning("%s: what /%s changed in the session_state is lost", self._interface.name, message.command)

    # --- steps

    async def _keep_removed(self, message: InterfaceMessage) -> None:
        """Have the store know of the conversations that hooks and others have closed by `SessionManager.remove`."""
        for session in self._interface.session_manager.take_removed(message.platform):
            try:
                if session.user_id is not None:
                    await self._chat_sessions.begin_anew(session, session.user_id)
            except Exception as error:
                logger.error(
                    "%s: session %r was removed in this process alone: %s",
                    self._interface.name,
                    session.session_id,
                    error_text(error),
                )

    async def _send(
        self, message: InterfaceMessage, response: InterfaceResponse, streamed: StreamedReply | None = None
    ) -> None:
        """Send a response; a chat that may not be written to gets no error message either."""
        if not self._interface.has_buttons:
            response = with_written_buttons(response)
        try:
            if streamed is None:
                await send_response(self._interface, message, response)
            else:
                await streamed.finish(response)
        except InterfaceMessageError as refusal:
            if refusal.status != 403:
                raise
            logger.warning(
                "%s: chat %s cannot be written to: %s",
                self._interface.name,
                message.platform_chat_id,
                error_text(refusal),
            )
            await self._hooks.tell_error(refusal, message)

    async def _user_id(self, message: InterfaceMessage, caller: AuthContext | None) -> str:
        identities = self._interface.identity_resolver
        if identities is not None:
            canonical = await identities.resolve(message.platform, message.platform_user_id)
            if canonical is not None:
                return canonical
        return identity_of(message) if caller is None else caller.user_id

    def _session(self, message: InterfaceMessage, user_id: str) -> InterfaceSession:
        key = (message.platform, message.platform_user_id, message.platform_chat_id, message.thread_id)
        open_sessions = self._interface.session_manager
        session = open_sessions.get_or_create(*key)
        if session.user_id not in (None, user_id):  # linked or unlinked since: the conversation belongs to who it was
            open_sessions.forget(session)
            session = open_sessions.get_or_create(*key)
        return session

    @property
    def _streams(self) -> bool:
        """Whether a reply is shown while it is written."""
        is_possible = self._agent.can_stream and self._interface.can_stream
        return is_possible and self._interface.config.stream_replies and not self._hooks.hold_back_replies

    async def _run(
        self,
        message: InterfaceMessage,
        session: InterfaceSession,
        caller: AuthContext | None,
        streamed: StreamedReply | None,
        turn: SessionTurn | None,
    ) -> RunOutput:
        metadata = {"message": message, "auth": None if caller is None else caller.metadata}
        # A chat's users have a namespace of their own: a token's `sub` may be the same text.
        namespace = CHAT_NAMESPACE if session.user_id == identity_of(message) else ""
        request = RunRequest(
            run_input(message),
            session.session_id,
            session.user_id,
            metadata,
            auth=caller,
            namespace=namespace,
            turn=turn,
            max_history=self._interface.config.max_session_history,
        )
        run = partial(self._agent.run, request)
        if streamed is not None:
            run = partial(streamed.follow, run)
        if not self._interface.config.typing_indicator:
            return await run()
        return await while_typing(partial(self._interface.typing, message), self._interface.typing_interval, run)

    async def _fail(self, message: InterfaceMessage, error: Exception, text: str) -> None:
        surprise = None if isinstance(error, DefinableError) else error
        logger.error(
            "%s: message %s was not answered: %s",
            self._interface.name,
            message.platform_message_id,
            error_text(error),
            exc_info=surprise,
        )
        with anyio.move_on_after(self._interface.config.answer_timeout):  # what hangs here would hang its chat
            await self._hooks.tell_error(error, message)
        try:
            with self._isolation:
                await self.say(message, text)
        except Exception as failure:
            logger.error("%s: the error message could not be sent: %s", self._interface.name, error_text(failure))
