"""One run from its request to its output: session, hooks, deadline, and the run loop between them.

`Agent.arun` and the runtime's dispatch come through here, so that every run is the same whatever started it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import anyio

from definable.agent.session.base import Session, SessionStore
from definable.agent.session.history import bounded, repaired
from definable.agent.session.service import SessionService, SessionTurn
from definable.agent.tools.mcp import MCPServer
from definable.agent.tools.mcp_connection import reachable
from definable.agent.tools.tool import Tool, index_tools
from definable.concurrency.call import call_user
from definable.concurrency.isolation import is_failure
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, ContextWindowExceeded, RunError, RunTimeout, SessionNotFound
from definable.model.message import Message, Model

from .context import RunContext, RunRequest, current_run, mark, random_id
from .hook_point import HookPoint
from .limits import UsageLimits
from .loop import RunLoop, ShortenHistory
from .output import Conversation, Listener, RunEnded, RunOutput, RunStarted, RunStatus
from .output_type import OutputType
from .telemetry import run_span

logger: logging.Logger = logger_named(__name__)

COMPLETED = RunStatus.COMPLETED

Begun: TypeAlias = list[tuple[RunContext, Conversation]]
"""Where a run that has begun leaves what it is, for whoever cuts it off."""

Instructions: TypeAlias = str | Callable[[RunContext], Any] | None


class Runner:
    """What an agent's runs have in common.

    Args:
        model: The language model.
        instructions: The system message, or a sync or async function of the `RunContext` that makes it.
        tools: Functions and tools that the model may call.
        output_type: What replies are validated as; None for plain text.
        sessions: Where conversations are kept.
        max_turns: How many requests a run may put to the model.
        max_history: How many messages of a session are kept and sent.
        run_timeout: Seconds that a run may take, its wait for its session's turn included; None for no limit.
        name: The agent's, for traces.
        output_mode: How the model is asked for an answer of the output type.
        limits: What a run may spend; None for no limit.
        shorten: Makes a shorter history of one that is longer than the model takes; None drops its oldest half.
    """

    def __init__(
        self,
        *,
        model: Model,
        instructions: Instructions,
        tools: Iterable[Any],
        output_type: Any,
        sessions: SessionStore,
        max_turns: int,
        max_history: int,
        run_timeout: float | None,
        name: str = "agent",
        output_mode: str = "auto",
        limits: UsageLimits | None = None,
        shorten: ShortenHistory | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.instructions = instructions
        self.sessions: SessionService = SessionService(sessions, run_timeout)
        self.before_request: HookPoint = HookPoint("before_request", "the RunContext")
        self.after_response: HookPoint = HookPoint("after_response", "the RunOutput")
        self.on_error: HookPoint = HookPoint("on_error", "the RunContext", "the exception")
        tools = tuple(tools)
        self._tools = [tool for tool in tools if not isinstance(tool, MCPServer)]
        self.mcp_servers: list[MCPServer] = [tool for tool in tools if isinstance(tool, MCPServer)]
        self._output_type = output_type
        self._output_mode = output_mode
        self._limits = limits
        self._shorten = shorten
        self._max_turns = max_turns
        self._max_history = max_history
        self._run_timeout = run_timeout

    @cached_property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name, without those of MCP servers."""
        return index_tools(self._tools)

    @cached_property
    def output_type(self) -> OutputType | None:
        """The validator of replies; None for plain text."""
        return None if self._output_type is None else OutputType(self._output_type)

    def prepare(self) -> None:
        """Raise now what is wrong with tools or output type, on the caller's line rather than in the first run.

        Raises:
            ConfigurationError: A tool or the output type cannot be used.
        """
        for tool in self.tools.values():
            tool.prepare()
        _ = self.output_type

    def run(self, request: RunRequest, listener: Listener | None = None) -> Awaitable[RunOutput]:
        """Run to the end, within the deadline.

        Args:
            request: What the run is started with.
            listener: Told what happens as it happens; the model then streams. None: nobody listens.

        Raises:
            RunError: The run failed.
            SessionNotFound: The session belongs to another user.
        """
        if self._run_timeout is not None:
            return self._run_in_time(request, listener, self._run_timeout)
        return self._run_in_session(request, listener)

    async def _run_in_time(self, request: RunRequest, listener: Listener | None, seconds: float) -> RunOutput:
        begun: Begun = []
        with anyio.move_on_after(seconds):
            return await self._run_in_session(request, listener, begun)
        timeout = RunTimeout(f"the run did not end within run_timeout={seconds:g} seconds")
        context = None
        if begun:
            context, conversation = begun[0]
            conversation.account(timeout)
        await self._tell_failure(timeout, request, context)
        raise timeout

    async def _tell_failure(self, error: Exception, request: RunRequest, context: RunContext | None = None) -> None:
        """Tell of a failure outside the run; without its context where none was made, since it did not begin."""
        if context is None:
            context = _context(request, request.session_id or "", {})
        token = current_run.set(context)
        try:
            mark(error)
            await self.on_error.fire(context, error)
        finally:
            current_run.reset(token)

    def _run_in_session(
        self, request: RunRequest, listener: Listener | None, begun: Begun | None = None
    ) -> Awaitable[RunOutput]:
        if request.turn is not None:
            return self._run(request, request.turn, listener, begun)
        if request.session_id is not None:
            return self._run_in_turn(request, request.session_id, listener, begun)
        session_id = f"{request.namespace}session_{random_id(12)}"
        return self._run(request, self.sessions.new(session_id, request.user_id), listener, begun)

    async def _run_in_turn(
        self, request: RunRequest, session_id: str, listener: Listener | None, begun: Begun | None
    ) -> RunOutput:
        async with self.sessions.turn(session_id) as turn:
            try:
                session = await turn.load(request.user_id)
            except Exception as error:
                await self._tell_failure(error, request)
                raise
            if session.user_id != request.user_id:
                raise SessionNotFound(f"there is no session {session_id.removeprefix(request.namespace)!r}")
            return await self._run(request, turn, listener, begun)

    async def _run(
        self, request: RunRequest, turn: SessionTurn, listener: Listener | None, begun: Begun | None
    ) -> RunOutput:
        session = turn.session
        context = _context(request, session.session_id, session.state)
        conversation = Conversation()
        if begun is not None:
            begun.append((context, conversation))
        token = current_run.set(context)
        try:
            with run_span(self.name, self.model, context, request.headers) as span:
                output = await self._run_within(request, turn, context, conversation, listener)
                span.completed(output)
            return output
        except Exception as error:
            mark(error)
            raise
        finally:
            current_run.reset(token)

    async def _run_within(
        self,
        request: RunRequest,
        turn: SessionTurn,
        context: RunContext,
        conversation: Conversation,
        listener: Listener | None,
    ) -> RunOutput:
        session, created_at, started = turn.session, time.time(), time.perf_counter()
        is_kept = request.keep or request.session_id is not None or request.turn is not None
        if self.before_request.hooks:
            await self.before_request.fire(context)
        if listener is not None:
            await listener(RunStarted(request.run_id, session.session_id))
        try:
            content = await self._converse(request, context, conversation, session, listener)
            if is_kept:
                await self._keep(request, turn, conversation, conversation.added, created_at)
        except BaseException as error:
            if isinstance(error, RunError):
                conversation.account(error)
            if isinstance(error, ContextWindowExceeded) and conversation.is_shortened and is_kept:
                # The next run begins with what is left, or the session would fail at every message.
                await self._keep(request, turn, conversation, (), created_at)
            if is_failure(error):
                await self.on_error.fire(context, error)
            raise
        output = _output(request, session, content, conversation, created_at, time.perf_counter() - started)
        if self.after_response.hooks:
            await self.after_response.fire(output)
        if listener is not None:
            await listener(RunEnded(output))
        return output

    async def _converse(
        self,
        request: RunRequest,
        context: RunContext,
        conversation: Conversation,
        session: Session,
        listener: Listener | None,
        tools: Mapping[str, Tool] | None = None,
    ) -> Any:
        if tools is None and self.mcp_servers:
            async with reachable(self.mcp_servers, self.tools) as tools:
                return await self._converse(request, context, conversation, session, listener, tools)
        tools = self.tools if tools is None else tools
        output = None
        if self.output_type is not None:
            output = self.output_type.wanted(self.model, self._output_mode, tools)
        messages = conversation.messages
        if self.instructions or (output is not None and output.instructions):
            messages += await self._opening(context, "" if output is None else output.instructions)
        conversation.history_begin = len(messages)
        if session.messages:
            conversation.kept = repaired(session.messages)
            messages += bounded(conversation.kept, self._max_history)
        conversation.begin = len(messages)
        messages.append(request.input if isinstance(request.input, Message) else Message("user", request.input))
        loop = RunLoop(self.model, tools, context, self._max_turns, output, self._limits, self._shorten, listener)
        return await loop.run(conversation)

    async def _opening(self, context: RunContext, besides: str) -> list[Message]:
        """The one system message: the instructions, and what the model is told of its output."""
        instructions = self.instructions
        if callable(instructions):
            instructions = await call_user(instructions, context)
        if not instructions:
            return [Message("system", besides)] if besides else []
        if not isinstance(instructions, str):
            raise ConfigurationError(f"instructions must give a string, not {instructions!r}")
        return [Message("system", f"{instructions}\n\n{besides}" if besides else instructions)]

    def _keep(
        self,
        request: RunRequest,
        turn: SessionTurn,
        conversation: Conversation,
        added: tuple[Message, ...],
        now: float,
    ) -> Awaitable[None]:
        session, limit = turn.session, self._max_history
        if request.max_history is not None and request.max_history < limit:
            limit = request.max_history
        messages = conversation.kept.with_run(added) if conversation.kept else added
        if len(messages) > limit:
            messages = bounded(messages, limit)
        created_at = session.created_at or now
        return turn.save(
            Session(
                session.session_id,
                session.user_id,
                messages,
                state=session.state,
                created_at=created_at,
                updated_at=time.time(),
                version=session.version,
            )
        )


def _context(request: RunRequest, session_id: str, state: dict[str, Any]) -> RunContext:
    metadata = dict(request.metadata) if request.metadata else {}
    return RunContext(
        request.run_id,
        session_id,
        user_id=request.user_id,
        input=request.input,
        trigger=request.trigger,
        metadata=metadata,
        session_state=state,
        auth=request.auth,
    )


def _output(
    request: RunRequest, session: Session, content: Any, conversation: Conversation, created_at: float, duration: float
) -> RunOutput:
    return RunOutput(
        request.run_id,
        session.session_id,
        user_id=request.user_id,
        content=content,
        messages=conversation.added,
        tool_calls=tuple(conversation.tool_calls),
        usage=conversation.usage,
        model=conversation.model,
        status=COMPLETED,
        created_at=created_at,
        duration=duration,
        finish_reason=conversation.finish_reason,
    )
