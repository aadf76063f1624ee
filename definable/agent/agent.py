"""`Agent`: configure, register, run, serve. Thin: every verb is one call into a room below.

The runtime is imported in the bodies of `serve`, `aserve`, `running` and `asgi` alone: it stands to the right of the
agent, and a script that only runs the agent never loads it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

import anyio

from definable.concurrency.event_loop import run_blocking
from definable.errors import ConfigurationError, ServeError
from definable.model.message import Message, Model
from definable.model.resolve import resolve_model
from definable.original_library import AGENT_ARGUMENTS, unknown_arguments

from .arguments import (
    NoArguments,
    OriginalEmit,
    OriginalRun,
    check_loop,
    check_parts,
    check_run,
    event_name,
    lifespan_of,
    run_input,
)
from .bus.emitter import When
from .options import ServeOptions
from .parts import CLOSE_TIMEOUT, DEFAULT_NAME, AgentParts
from .run.context import RunRequest
from .run.limits import UsageLimits
from .run.loop import ShortenHistory
from .run.output import RunOutput
from .run.runner import Instructions, Runner
from .run.stream import RunStream
from .session.memory import MemorySessionStore

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from .auth.base import AuthProvider
    from .bus.base import EventBus
    from .interface.base import BaseInterface
    from .runtime.http.asgi import LifespanApp
    from .runtime.runtime import AgentRuntime
    from .runtime.shutdown import ShutdownReport
    from .session.base import SessionStore
    from .trigger.base import BaseTrigger

MAX_HISTORY = 100
"""Messages of a session that are kept and sent to the model."""


Lifespan: TypeAlias = Callable[["Agent"], AbstractAsyncContextManager[Any] | AsyncGenerator[Any]]
"""What opens what the user's code shares while the agent serves."""


class Agent(AgentParts):
    """An AI agent that can be run, and served.

    Args:
        model: A `Model`, or a string: `"openai/gpt-4o"`, `"offline"`.
        instructions: The system message, or a sync or async function of the `RunContext` that makes it.
        tools: What the model may call: functions, or `Tool`s made by `@tool`.
        name: Shown in logs, in the banner and in the OpenAPI document; "agent" when None. Agents that share a session
            store have names of their own: by them the conversations of their chats are told apart.
        output_type: Replies are validated as this type (a pydantic model, or any type pydantic knows), asked for once
            more when they do not fit.
        output_mode: How the model is asked for the output type: "native" (the provider enforces its JSON schema),
            "tool" (the answer is the call of a tool), "prompt" (the schema stands in the instructions), or "auto", the
            first of these that the model's provider understands.
        sessions: Where conversations are kept; a `MemorySessionStore` when None.
        bus: What carries work that is accepted now and done later; a `MemoryBus` when None.
        auth: Who may call over HTTP and messaging; None leaves the agent open.
        max_turns: How many requests one run may put to the model.
        max_history: How many messages of a session are kept and sent to the model.
        history: A function of a session's messages, sync or async, called when they are more than the model takes: it
            returns fewer (a summary of the oldest, say), which the request is made with once more and the session goes
            on with. None drops the oldest half.
        run_timeout: Seconds that a run may take; None for no limit.
        usage_limits: What a run may spend; None for no limit.
        lifespan: A function of the agent that returns an async context manager (or an async generator function of one
            `yield`). It is entered before serving begins, with or without HTTP, and left after the last piece of work:
            the place to open clients and pools that tools and handlers share.

    Raises:
        ConfigurationError: A value is out of its range, or the model string names no provider.

    Example:
        >>> from definable.agent import Agent
        >>> agent = Agent(model="offline", instructions="You are a helpful assistant.")
        >>> agent.run("hi").content
        'hi'
    """

    def __init__(
        self,
        model: Model | str,
        instructions: Instructions = None,
        tools: Sequence[Any] | None = (),
        *,
        name: str | None = None,
        output_type: Any = None,
        output_mode: Literal["auto", "native", "tool", "prompt"] = "auto",
        sessions: SessionStore | None = None,
        bus: EventBus | None = None,
        auth: AuthProvider | None = None,
        max_turns: int = 10,
        max_history: int = MAX_HISTORY,
        history: ShortenHistory | None = None,
        run_timeout: float | None = None,
        usage_limits: UsageLimits | None = None,
        lifespan: Lifespan | None = None,
        **unknown: Unpack[NoArguments],
    ) -> None:
        if unknown:
            unknown_arguments("Agent()", unknown, parameters_of(Agent), AGENT_ARGUMENTS)
        if max_turns < 1:
            raise ConfigurationError(f"max_turns={max_turns!r}: at least 1")
        if max_history < 1:
            raise ConfigurationError(f"max_history={max_history!r}: at least 1 message")
        check_parts(instructions, sessions, bus, auth)
        check_loop(tools, output_mode, history, usage_limits)
        if run_timeout is not None and not run_timeout > 0:
            raise ConfigurationError(f"run_timeout={run_timeout!r}: seconds, greater than 0, or None")
        runner = Runner(
            model=resolve_model(model),
            instructions=instructions,
            tools=() if tools is None else tools,
            output_type=output_type,
            sessions=MemorySessionStore() if sessions is None else sessions,
            max_turns=max_turns,
            max_history=max_history,
            run_timeout=run_timeout,
            name=name or DEFAULT_NAME,
            output_mode=output_mode,
            limits=usage_limits,
            shorten=history,
        )
        super().__init__(name, runner, bus, auth)
        self.lifespan: Callable[[Agent], AbstractAsyncContextManager[Any]] | None = lifespan_of(lifespan)
        """What is open around serving, as a function of the agent; None for nothing."""

    def __repr__(self) -> str:
        return f"<Agent {self.name!r} on {self.model.id}>"

    # --- run

    async def arun(
        self,
        input: str | Message | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        keep: bool = False,
        **original: Unpack[OriginalRun],
    ) -> RunOutput:
        """Run the agent once.

        Args:
            input: What the user says; `instruction` is another name of it.
            session_id: The conversation to go on with; None begins one, which is kept if `keep` says so. Runs of one
                session are made one after the other, in arrival order.
            user_id: Whose run it is. A session belongs to the user who began it.
            metadata: Anything, for tools, hooks and callable instructions.
            keep: Whether a conversation that it begins is stored, to be gone on with by `output.session_id`.

        Raises:
            ConfigurationError: An argument is not what it should be.
            RunError: The run failed: `ModelError` and what is below it (`OutputTruncated`, `ContentFiltered`,
                `EmptyReply`, `ContextWindowExceeded` ...), `MaxTurnsExceeded`, `UsageLimitExceeded`, `RunTimeout`,
                `OutputValidationError`. It carries the run's `usage`, `messages` and `tool_calls` so far.
            SessionNotFound: The session belongs to another user.
        """
        input = run_input("arun", input, original)
        check_run(input, session_id, user_id, metadata, keep)
        return await self.runner.run(RunRequest(input, session_id, user_id, metadata, keep=keep))

    def arun_stream(
        self,
        input: str | Message | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        keep: bool = False,
        **original: Unpack[OriginalRun],
    ) -> AbstractAsyncContextManager[RunStream]:
        """Run the agent once and follow it: `async with agent.arun_stream("hi") as events`.

        Iterating over `events` gives `RunStarted`, `TextDelta`s, `ToolCallStarted` and `ToolCallEnded`, at last
        `RunEnded` with the output; it raises what the run raises. Leaving the context early cancels the run.

        An async generator of yours around it that is not read to its end goes on with the run, up to 64 events, until
        it is closed: at once by `async with contextlib.aclosing(generator)`, else when it is collected.

        Args:
            input: What the user says; `instruction` is another name of it.
            session_id: The conversation to go on with; None begins one, which is kept if `keep` says so.
            user_id: Whose run it is.
            metadata: Anything, for tools, hooks and callable instructions.
            keep: Whether a conversation that it begins is stored, to be gone on with by `output.session_id`.
        """
        input = run_input("arun_stream", input, original)
        check_run(input, session_id, user_id, metadata, keep)
        request = RunRequest(input, session_id, user_id, metadata, keep=keep)
        return RunStream(lambda listener: self.runner.run(request, listener))

    def run(
        self,
        input: str | Message | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        keep: bool = False,
        **original: Unpack[OriginalRun],
    ) -> RunOutput:
        """Run the agent once, from code without an event loop; see `arun`.

        Raises:
            RuntimeError: An event loop runs in this thread: `await agent.arun(...)` there.
        """

        checked = run_input("run", input, original)

        async def run_and_close() -> RunOutput:
            try:
                return await self.arun(checked, session_id=session_id, user_id=user_id, metadata=metadata, keep=keep)
            finally:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):  # the connections belong to this loop, which ends
                    await self.model.aclose()

        return run_blocking(run_and_close, instead="await agent.arun(...)")

    # --- events

    def emit(
        self,
        name: str | None = None,
        data: Any = None,
        *,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: str | None = None,
        **original: Unpack[OriginalEmit],
    ) -> None:
        """Fire an event: every `EventTrigger` that matches gets it, some time later. Never blocks.

        May be called from async code, sync code and other threads; before serving starts the event is kept until it
        does.

        Args:
            name: The event's name; `event_name` is another name of it.
            data: A dict becomes the body as it is; anything else becomes `{"data": ...}`; None is no body.
            delay: Seconds until it is fired: it waits in the bus, on a durable one over restarts.
            at: When it is fired, in place of a delay: a datetime with a time zone, or Unix seconds.
            key: What `cancel` knows the event by while it waits; it replaces one that waits under the same key.

        Raises:
            ConfigurationError: The name is none, or the time.
            EventBufferFull: There is no room, nothing was accepted.
            EventBusClosed: The agent is stopping or has stopped, nothing was accepted.
        """
        self.emitter.emit(event_name(name, original), data, When.of(delay, at, key))

    async def cancel(self, key: str) -> bool:
        """Withdraw the event that was emitted under this key and waits for its time.

        Returns:
            False when none waits: it was fired, or never was.

        Raises:
            StorageError: What keeps the events of a durable bus failed.
        """
        return await self.emitter.cancel(key)

    async def aemit(
        self,
        name: str | None = None,
        data: Any = None,
        *,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: str | None = None,
        **original: Unpack[OriginalEmit],
    ) -> None:
        """Fire an event as `emit` does, but wait for room. When it returns, the bus has accepted the event.

        Raises:
            EventBusClosed: The agent is stopping or has stopped, or does not serve yet and its bus is durable; nothing
                was accepted.
            EventBufferFull: Before serving starts: the buffer is full.
            StorageError: What keeps the events of a durable bus failed; none was accepted, as far as is known.
        """
        await self.emitter.aemit(event_name(name, original), data, When.of(delay, at, key))

    async def fire(self, trigger: BaseTrigger) -> None:
        """Fire a trigger by hand, as if its time had come. Only while the agent serves.

        Raises:
            ServeError: The agent does not serve.
            ConfigurationError: The trigger is not this agent's.
        """
        if self.runtime is None:
            raise ServeError("fire() works while the agent serves")
        await self.runtime.fire(trigger)

    # --- serve

    def serve(
        self,
        *interfaces: BaseInterface,
        backend: Literal["asyncio", "trio"] = "asyncio",
        **options: Unpack[ServeOptions],
    ) -> ShutdownReport:
        """Serve the agent, until a signal stops it: HTTP, cron, events and interfaces in this process.

        The first SIGINT, SIGTERM or SIGHUP finishes what was accepted, within `shutdown_timeout`; the second cuts it
        off; a third, or a process stuck beyond its bound, exits at once. Exits with status 129, 130 or 143 when it was
        cut off.

        Args:
            interfaces: Messaging interfaces to serve, beside those given to `add_interface`.
            backend: The event loop: `"asyncio"` or `"trio"`.
            options: See `ServeOptions`.

        Returns:
            What became of everything that was accepted.

        Raises:
            ServeError: Serving cannot start; nothing was left running.
            OSError: The address cannot be bound.
            RuntimeError: An event loop runs in this thread: `await agent.aserve(...)` there.
        """
        from .runtime.entry import serve  # the runtime stands to the right of the agent

        return serve(self, interfaces, backend, options)

    async def aserve(
        self,
        *interfaces: BaseInterface,
        task_status: TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED,
        **options: Unpack[ServeOptions],
    ) -> ShutdownReport:
        """Serve the agent from async code, under trio or asyncio, until a signal or `runtime.stop()`.

        `url = await task_group.start(agent.aserve)` returns once everything is ready. Cancelling the scope around it
        stops promptly.

        Args:
            interfaces: Messaging interfaces to serve, beside those given to `add_interface`.
            task_status: Told the bound URL (None without a server) when everything is ready.
            options: See `ServeOptions`.

        Returns:
            What became of everything that was accepted.

        Raises:
            ServeError: Serving cannot start; nothing was left running.
            OSError: The address cannot be bound.
        """
        from .runtime.entry import aserve  # the runtime stands to the right of the agent

        return await aserve(self, interfaces, options, task_status)

    def running(
        self, *interfaces: BaseInterface, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[AgentRuntime]:
        """Serve the agent while a context is open: `async with agent.running(port=0) as runtime`.

        `runtime.url` says where; leaving the context stops the runtime, and `runtime.report` then holds the account.
        Signals are left alone unless `handle_signals=True`.

        Args:
            interfaces: Messaging interfaces to serve, beside those given to `add_interface`.
            options: See `ServeOptions`.
        """
        from .runtime.entry import running  # the runtime stands to the right of the agent

        return running(self, interfaces, options)

    def asgi(self, *interfaces: BaseInterface, **options: Unpack[ServeOptions]) -> LifespanApp:
        """The agent as an ASGI application, for any ASGI server: its lifespan runs cron, events and interfaces.

        To mount it in another application, which keeps the server's lifespan to itself, enter its `lifespan()` in that
        application's: `Starlette(routes=[Mount("/agent", service)], lifespan=service.lifespan)`.

        Args:
            interfaces: Messaging interfaces to serve, beside those given to `add_interface`.
            options: See `ServeOptions`; what concerns the server's own socket and signals has no effect.
        """
        from .runtime.entry import asgi  # the runtime stands to the right of the agent

        return asgi(self, interfaces, options)


def parameters_of(cls: type) -> list[str]:
    """The keywords that a class is called with."""
    return [each.name for each in inspect.signature(cls).parameters.values() if each.kind is not each.VAR_KEYWORD]
