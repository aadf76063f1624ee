"""A run whose events can be followed: behind `Agent.arun_stream` and behind streamed HTTP runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import NoReturn, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from definable.concurrency.isolation import failure_of, is_failure

from .output import Listener, RunEvent, RunOutput

EVENTS_AHEAD = 64
"""Events by which a run may be ahead of its reader; then it waits."""


class RunStream:
    """The events of one run: `async for event in events`.

    Iterating raises what the run raised.
    """

    def __init__(self, events: MemoryObjectReceiveStream[RunEvent]) -> None:
        self._events = events
        self.output: RunOutput | None = None
        """The run's result, once it has come to its end."""
        self.failure: Exception | SystemExit | None = None
        """Why the run failed, once it has."""

    def __aiter__(self) -> RunStream:
        return self

    async def __anext__(self) -> RunEvent:
        try:
            return await self._events.receive()
        except anyio.EndOfStream:
            if self.failure is not None:
                raise self.failure from self.failure.__cause__
            raise StopAsyncIteration from None


MakeRun: TypeAlias = Callable[[Listener], Awaitable[RunOutput]]
"""Makes a run that tells a listener what happens."""


@asynccontextmanager
async def follow_run(make_run: MakeRun) -> AsyncGenerator[RunStream, None]:
    """Make a run while the context is open; leaving it early cancels the run."""
    send, receive = anyio.create_memory_object_stream[RunEvent](EVENTS_AHEAD)
    stream = RunStream(receive)
    failure: BaseException | None = None
    with send, receive:
        async with anyio.create_task_group() as group:
            group.start_soon(_run, make_run, stream, send)
            try:
                yield stream
            # Raised below, the group would wrap it: also the end of an async generator that this context is in.
            except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
                failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


class FollowedRun(AbstractAsyncContextManager[RunStream]):
    """What `Agent.arun_stream` returns: a context, and a clear error for who iterates over it.

    Args:
        following: The context.
    """

    def __init__(self, following: AbstractAsyncContextManager[RunStream]) -> None:
        self._following = following

    async def __aenter__(self) -> RunStream:
        return await self._following.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._following.__aexit__(kind, error, traceback)

    def __aiter__(self) -> NoReturn:
        # An async generator that is left in the middle of a run would leave its task group open behind it.
        raise TypeError(
            "arun_stream() is a context: async with agent.arun_stream(...) as events, "
            "and within it async for event in events"
        )


async def _run(make_run: MakeRun, stream: RunStream, send: MemoryObjectSendStream[RunEvent]) -> None:
    async def tell(event: RunEvent) -> None:
        try:
            send.send_nowait(event)  # `send` would give up the event loop's turn for every delta
        except anyio.WouldBlock:
            await send.send(event)

    with send:
        try:
            stream.output = await make_run(tell)
        except BaseException as error:  # in a task of ours an exit would end asyncio's event loop
            if not is_failure(error):
                raise
            stream.failure = error if isinstance(error, Exception | SystemExit) else failure_of(error, "the run")
