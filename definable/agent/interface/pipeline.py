"""One message's way: hooks, auth, rate limit, identity, session, hooks, run, hooks, and back to its chat.

The supervisor makes a `Pipeline` for each interface that it runs, with a handle on the agent that answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import anyio

from definable.agent.auth.base import (
    CHAT_NAMESPACE,
    AuthContext,
    AuthProvider,
    AuthRequest,
    RefusalLog,
    authenticate,
    platform_identity,
    speaks_on,
    why_refused,
)
from definable.agent.run.context import RunRequest
from definable.agent.run.output import Listener, RunOutput
from definable.agent.session.locks import called_in_turn
from definable.agent.session.service import SessionService, SessionTurn
from definable.concurrency.isolation import contain_errors, error_text
from definable.concurrency.logs import logger_named
from definable.errors import DefinableError
from definable.model.message import Message

from .base import BaseInterface
from .errors import InterfaceMessageError, InterfaceRateLimitError
from .hooks import HookChain
from .message import InterfaceMessage, InterfaceResponse, MessageEnd, reply_text, run_input
from .rate_limit import UserRateLimit
from .sessions import ChatSessions, InterfaceSession
from .streamed_reply import StreamedReply, send_response, while_typing

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
    """Answers the messages of one interface; its steps read in their order in `_admit` and `_answer`.

    Args:
        interface: Sends, shows typing, and holds the settings; its hooks, auth, identities and sessions are looked up
            at every message.
        agent: The agent that answers.
    """

    def __init__(self, interface: BaseInterface, agent: AgentHandle) -> None:
        config = interface.config
        self._interface = interface
        self._agent = agent
        self._rate_limit = UserRateLimit(config.rate_limit_messages_per_minute)
        self._isolation = contain_errors(f"interface {interface.name}")
        ttl = interface.session_manager.session_ttl_seconds
        self._chat_sessions = ChatSessions(agent.sessions, agent.place, config.max_session_history, ttl, agent.name)

    @property
    def _hooks(self) -> HookChain:
        return HookChain(self._interface.hooks)

    async def answer(self, message: InterfaceMessage) -> MessageEnd:
        """Answer a message; returns how it ended, raises nothing."""
        try:
            with self._isolation:
                return await self._admit(message)
        except Exception as error:
            await self._fail(message, error)
        return MessageEnd.FAILED

    async def history(self, platform: str, user_id: str, chat_id: str) -> Sequence[Message]:
        """What was said in a user's open conversation; see `ReadHistory`.

        Raises:
            StorageError: The store failed.
        """
        open_session = self._interface.session_manager.get(platform, user_id, chat_id)
        return await self._chat_sessions.history(platform, user_id, chat_id, open_session)

    async def _admit(self, message: InterfaceMessage) -> MessageEnd:
        if not await self._hooks.let_in(message):
            return MessageEnd.HANDLED
        own = False if self._interface.has_http_users else self._interface.auth
        provider = guard_of(own, self._agent.auth(), message.platform)
        asked = auth_request(message)
        caller = None if provider is None else await authenticate(provider, asked)
        if provider is not None and caller is None:
            what, who = f"a message to {self._interface.name}", f"user {identity_of(message)!r}"
            self._agent.refusals.refused(what, who, lambda: why_refused(provider, asked))
            return MessageEnd.REFUSED
        if await self._is_within_rate(message):
            await self._answer(message, caller)
        return MessageEnd.HANDLED

    async def _answer(self, message: InterfaceMessage, caller: AuthContext | None) -> None:
        user_id = await self._user_id(message, caller)
        message = await self._interface.complete(message)  # may take long: before the session's turn
        session = self._session(message, user_id)
        async with self._chat_sessions.turn(session, user_id, former_identity_of(message, user_id)) as turn:
            with called_in_turn(session.session_id):
                message = await self._hooks.before_respond(message, session)
            streamed = StreamedReply(self._interface, message) if self._streams else None
            turn = self._chat_sessions.for_run(session, turn)
            try:
                output = await self._run(message, session, caller, streamed, turn)
            finally:
                self._interface.session_manager.touch(session)
            state = self._chat_sessions.after_run(session, output, turn)
        images = tuple([image for execution in output.tool_calls for image in execution.media])
        response = InterfaceResponse(content=reply_text(output.content), images=images)
        response = await self._hooks.after_respond(message, response, session)
        await self._chat_sessions.keep_state(session, state)
        await self._send(message, response, streamed)

    async def _send(
        self, message: InterfaceMessage, response: InterfaceResponse, streamed: StreamedReply | None = None
    ) -> None:
        """Send a response; a chat that may not be written to gets no error message either."""
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

    async def _is_within_rate(self, message: InterfaceMessage) -> bool:
        refusal = self._rate_limit.take(identity_of(message), anyio.current_time())
        if refusal is None:
            return True
        if refusal.is_first:  # a flood is answered and logged once, not at every message
            wait = max(1, round(refusal.retry_after))
            error = InterfaceRateLimitError(f"too many messages: wait {wait} s", retry_after=refusal.retry_after)
            logger.warning("%s: user %s sent %s", message.platform, message.platform_user_id, error)
            await self._hooks.tell_error(error, message)
            await self._send(message, InterfaceResponse(f"Too many messages. Please wait {wait} seconds."))
        return False

    async def _user_id(self, message: InterfaceMessage, caller: AuthContext | None) -> str:
        identities = self._interface.identity_resolver
        if identities is not None:
            canonical = await identities.resolve(message.platform, message.platform_user_id)
            if canonical is not None:
                return canonical
        return identity_of(message) if caller is None else caller.user_id

    def _session(self, message: InterfaceMessage, user_id: str) -> InterfaceSession:
        key = (message.platform, message.platform_user_id, message.platform_chat_id)
        open_sessions = self._interface.session_manager
        session = open_sessions.get_or_create(*key)
        if session.user_id not in (None, user_id):  # linked or unlinked since: the conversation belongs to who it was
            open_sessions.remove(*key)
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

    async def _fail(self, message: InterfaceMessage, error: Exception) -> None:
        surprise = None if isinstance(error, DefinableError) else error
        logger.error(
            "%s: message %s was not answered: %s",
            self._interface.name,
            message.platform_message_id,
            error_text(error),
            exc_info=surprise,
        )
        await self._hooks.tell_error(error, message)
        try:
            with self._isolation:
                await self._send(message, InterfaceResponse(self._interface.config.error_message))
        except Exception as failure:
            logger.error("%s: the error message could not be sent: %s", self._interface.name, error_text(failure))


def guard_of(
    own: AuthProvider | Literal[False] | None, agents: AuthProvider | None, platform: str
) -> AuthProvider | None:
    """Who decides about the users of a chat; None: everybody is let in.

    Args:
        own: The interface's `auth`.
        agents: The agent's provider, which guards the chat only if it speaks on its platform.
        platform: The chat's.
    """
    if isinstance(own, bool):
        return None
    if own is not None:
        return own
    return agents if agents is not None and speaks_on(agents, platform) else None


def identity_of(message: InterfaceMessage) -> str:
    """Who a platform's user is where no resolver knows better: no other platform's, and no user of the web."""
    return platform_identity(message.platform, message.platform_user_id)


def former_identity_of(message: InterfaceMessage, user_id: str) -> str | None:
    """What a conversation of this user may be owned by in a store: earlier versions left the platform out."""
    return message.platform_user_id if user_id == identity_of(message) else None


def auth_request(message: InterfaceMessage) -> AuthRequest:
    """What an auth provider may look at."""
    return AuthRequest(
        platform=message.platform,
        user_id=message.platform_user_id,
        username=message.username,
        chat_id=message.platform_chat_id,
        metadata=message.metadata,
    )
