"""A run whose events can be followed: the context behind `Agent.arun_stream`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .run_event import RunEvent
from .run_output import RunOutput
from .runner import Runner, RunRequest

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
        self.failure: Exception | None = None
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


@asynccontextmanager
async def run_streamed(runner: Runner, request: RunRequest) -> AsyncGenerator[RunStream, None]:
    """Make a run while the context is open; leaving it early cancels the run."""
    send, receive = anyio.create_memory_object_stream[RunEvent](EVENTS_AHEAD)
    stream = RunStream(receive)
    failure: BaseException | None = None
    with send, receive:
        async with anyio.create_task_group() as group:
            group.start_soon(_run, runner, request, stream, send)
            try:
                yield stream
            except Exception as error:  # raised below: the group would wrap it
                failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _run(runner: Runner, request: RunRequest, stream: RunStream, send: MemoryObjectSendStream[RunEvent]) -> None:
    with send:
        try:
            stream.output = await runner.run(request, send.send)
        except Exception as error:
            stream.failure = error
