"""One run from its request to its output: session, hooks, deadline, and the run loop between them.

`Agent.arun` and the runtime's dispatch come through here, so that every run is the same whatever started it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import anyio

from definable.agent.session.base import Session, SessionStore, bounded
from definable.agent.session.service import SessionService, SessionTurn
from definable.agent.tools.tool import Tool, index_tools
from definable.concurrency.call import call_user, is_generator_function, takes
from definable.concurrency.isolation import is_failure
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, RunTimeout, SessionNotFound
from definable.model.message import Message, Model

from .context import RunContext, RunRequest, current_run, mark, random_id
from .loop import Conversation, RunLoop
from .output import Listener, OutputType, RunEnded, RunOutput, RunStarted, RunStatus
from .telemetry import run_span

if TYPE_CHECKING:
    pass


logger: logging.Logger = logger_named(__name__)

COMPLETED = RunStatus.COMPLETED

Hook: TypeAlias = Callable[..., Any]
HookFunction = TypeVar("HookFunction", bound=Hook)

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
    ) -> None:
        self.name = name
        self.model = model
        self.instructions = instructions
        self.sessions: SessionService = SessionService(sessions, run_timeout)
        self.before_request: HookPoint = HookPoint("before_request", "the RunContext")
        self.after_response: HookPoint = HookPoint("after_response", "the RunOutput")
        self.on_error: HookPoint = HookPoint("on_error", "the RunContext", "the exception")
        self._tools = tuple(tools)
        self._output_type = output_type
        self._max_turns = max_turns
        self._max_history = max_history
        self._run_timeout = run_timeout

    @cached_property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name."""
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
        begun: list[RunContext] = []
        with anyio.move_on_after(seconds):
            return await self._run_in_session(request, listener, begun)
        timeout = RunTimeout(f"the run did not end within run_timeout={seconds:g} seconds")
        await self._tell_failure(timeout, request, begun[0] if begun else None)
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
        self, request: RunRequest, listener: Listener | None, begun: list[RunContext] | None = None
    ) -> Awaitable[RunOutput]:
        if request.turn is not None:
            return self._run(request, request.turn, listener, begun)
        if request.session_id is not None:
            return self._run_in_turn(request, request.session_id, listener, begun)
        session_id = f"{request.namespace}session_{random_id(12)}"
        return self._run(request, self.sessions.new(session_id, request.user_id), listener, begun)

    async def _run_in_turn(
        self, request: RunRequest, session_id: str, listener: Listener | None, begun: list[RunContext] | None
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
        self, request: RunRequest, turn: SessionTurn, listener: Listener | None, begun: list[RunContext] | None
    ) -> RunOutput:
        session = turn.session
        context = _context(request, session.session_id, session.state)
        if begun is not None:
            begun.append(context)
        token = current_run.set(context)
        try:
            with run_span(self.name, self.model, context, request.headers) as span:
                output = await self._run_within(request, turn, context, listener)
                span.completed(output)
            return output
        except Exception as error:
            mark(error)
            raise
        finally:
            current_run.reset(token)

    async def _run_within(
        self, request: RunRequest, turn: SessionTurn, context: RunContext, listener: Listener | None
    ) -> RunOutput:
        session, created_at, started = turn.session, time.time(), time.perf_counter()
        if self.before_request.hooks:
            await self.before_request.fire(context)
        if listener is not None:
            await listener(RunStarted(request.run_id, session.session_id))
        try:
            content, conversation = await self._converse(request, context, session, listener)
            if request.keep or request.session_id is not None or request.turn is not None:
                await self._keep(request, turn, conversation, created_at)
        except BaseException as error:
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
        self, request: RunRequest, context: RunContext, session: Session, listener: Listener | None
    ) -> tuple[Any, Conversation]:
        messages = await self._opening(context) if self.instructions else []
        messages += bounded(session.messages, self._max_history)
        conversation = Conversation(messages, begin=len(messages))
        messages.append(request.input if isinstance(request.input, Message) else Message("user", request.input))
        output_type = self.output_type
        check = None if output_type is None else output_type.checker()
        schema = None if output_type is None else output_type.schema
        loop = RunLoop(self.model, self.tools, context, self._max_turns, check, schema, listener)
        return await loop.run(conversation), conversation

    async def _opening(self, context: RunContext) -> list[Message]:
        instructions = self.instructions
        if callable(instructions):
            instructions = await call_user(instructions, context)
            if not instructions:
                return []
        if not isinstance(instructions, str):
            raise ConfigurationError(f"instructions must give a string, not {instructions!r}")
        return [Message("system", instructions)]

    def _keep(self, request: RunRequest, turn: SessionTurn, conversation: Conversation, now: float) -> Awaitable[None]:
        session, limit = turn.session, self._max_history
        if request.max_history is not None and request.max_history < limit:
            limit = request.max_history
        messages = bounded(session.messages + conversation.added, limit)
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
    )


class HookPoint:
    """One moment of a run, whatever its source, at which users' functions are called, in the order of registration.

    The point itself is the decorator, with or without parentheses: `@agent.before_request`. A hook's failure is logged
    and goes no further: it never cancels the run.

    Args:
        name: What it is called on the agent.
        arguments: What its functions are called with, in words.
    """

    __slots__ = ("_arguments", "hooks", "name")

    def __init__(self, name: str, *arguments: str) -> None:
        self.name: str = name
        self._arguments = arguments
        self.hooks: Sequence[Hook] = ()

    @overload
    def __call__(self, function: HookFunction) -> HookFunction: ...

    @overload
    def __call__(self, function: None = None) -> Callable[[HookFunction], HookFunction]: ...

    def __call__(self, function: HookFunction | None = None) -> HookFunction | Callable[[HookFunction], HookFunction]:
        if function is None:
            return self.__call__
        if not callable(function):
            raise TypeError(f"{self.name} takes a function, not {function!r}")
        if not takes(function, len(self._arguments)):
            raise TypeError(f"{self.name} takes a function of {' and '.join(self._arguments)}, not {function!r}")
        if is_generator_function(function):
            raise TypeError(f"{self.name}: {function!r} has a yield and would never run")
        self.hooks = (*self.hooks, function)
        return function

    async def fire(self, *args: object) -> None:
        """Call every hook; what one raises is logged."""
        for hook in self.hooks:
            try:
                await call_user(hook, *args)
            except BaseException as error:
                if not is_failure(error):
                    raise
                logger.exception("%s hook %s failed", self.name, getattr(hook, "__qualname__", hook))
