"""A run whose events can be followed: what `Agent.arun_stream` returns, and behind streamed HTTP runs.

The run has a task of its own, whose parent is the request's task group where a service streams it. Of `arun_stream` it
is the event loop: no task group and no cancel scope is open on the reader's task, which may be an async generator that
is left in the middle and closed by whoever collects it (docs/decisions, "A streamed run has a task of the event
loop's").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from types import TracebackType
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from definable.concurrency.event_loop import start_task
from definable.concurrency.isolation import failure_of, is_failure
from definable.errors import RunTimeout

from .output import Listener, RunEvent, RunOutput, RunStarted

EVENTS_AHEAD = 64
"""Events by which a run may be ahead of its reader; then it waits."""

MakeRun: TypeAlias = Callable[[Listener], Awaitable[RunOutput]]
"""Makes a run that tells a listener what happens."""


class RunStream(AbstractAsyncContextManager["RunStream"]):
    """The events of one run: `async with` makes the run, and within it `async for event in events` follows it.

    Iterating raises what the run raised. Leaving the context early cancels the run and waits for its end.

    Args:
        make_run: Makes the run.
        tasks: Where it has its task; the event loop when None.
    """

    def __init__(self, make_run: MakeRun, tasks: TaskGroup | None = None) -> None:
        self._make_run = make_run
        self._tasks = tasks
        self._is_entered = False
        self.output: RunOutput | None = None
        """The run's result, once it has come to its end."""
        self.failure: Exception | SystemExit | KeyboardInterrupt | None = None
        """Why the run failed, once it has."""

    async def __aenter__(self) -> RunStream:
        self._send, self._receive = anyio.create_memory_object_stream[RunEvent](EVENTS_AHEAD)
        # Retries of the model look at the deadline (`current_effective_deadline`), which is that of the reader's task.
        self._scope = anyio.CancelScope(deadline=anyio.current_effective_deadline())
        self._ended = anyio.Event()
        if self._tasks is None:
            start_task(self._run, "a streamed run", self._ended.set)
        else:
            self._tasks.start_soon(self._run, name="a streamed run")
        self._is_entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scope.cancel()
        try:
            with anyio.CancelScope(shield=True):  # no deadline: as a task group does, it waits for what it has started
                await self._ended.wait()
        finally:
            self._receive.close()
            self._send.close()  # the run has, unless the event loop ended before it began

    def __aiter__(self) -> RunStream:
        if not self._is_entered:
            raise TypeError(
                "arun_stream() is a context: async with agent.arun_stream(...) as events, "
                "and within it async for event in events"
            )
        return self

    async def __anext__(self) -> RunEvent:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            if self.failure is not None:
                raise self.failure from self.failure.__cause__
            if self.output is None:  # cut off
                await checkpoint()  # by the reader's deadline, which is raised here
                raise RunTimeout("the run was cut off at the deadline that its reader had when it began") from None
            raise StopAsyncIteration from None

    async def _run(self) -> None:
        try:
            with self._send, self._scope:
                await self._run_told()
        finally:
            self._ended.set()

    async def _run_told(self) -> None:
        try:
            self.output = await self._make_run(self._tell)
        except KeyboardInterrupt as error:
            self.failure = error
        except BaseException as error:  # in a task of ours an exit would end asyncio's event loop
            if not is_failure(error):
                raise
            self.failure = error if isinstance(error, Exception | SystemExit) else failure_of(error, "the run")

    async def _tell(self, event: RunEvent) -> None:
        if self._scope.deadline < inf and type(event) is not RunStarted:
            self._scope.deadline = inf  # nothing is tried again any more; a reader may move its deadline as it reads
        try:
            self._send.send_nowait(event)  # `send` would give up the event loop's turn for every delta
        except anyio.WouldBlock:
            await self._send.send(event)
