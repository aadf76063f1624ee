"""Worker threads: the one way in which the user's blocking code runs beside the event loop.

`call.py` (and through it tools, handlers, hooks, auth providers) calls `run_sync`; `runtime` asks
`worker_threads()` at shutdown which of the user's functions still hold a thread. Threads are anyio's.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from .event_loop import EventLoopHandle, end_child

P = ParamSpec("P")
R = TypeVar("R")

MAX_WORKER_THREADS = 256
"""Threads that run user code at once, per event loop; further calls wait.

anyio's default is 40, too few for a server, whose blocking code mostly waits on a network.
"""


@dataclass(frozen=True, slots=True)
class RunningThread:
    """A worker thread that runs user code, as it was when asked."""

    function: str
    """Module and qualified name of the user's function."""
    thread: threading.Thread
    started: float
    """`time.monotonic()` seconds."""
    abandoned: bool
    """Nobody waits for it any more: its caller was cancelled or timed out."""


class _State(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()
    DROPPED = auto()
    """Cancelled before its thread began: the user's code must not start."""


_CARRIED = (Exception, SystemExit, KeyboardInterrupt, BaseExceptionGroup)
"""What may leave a thread. A `StopIteration` no future can carry, and another event loop's cancellation (of an
`asyncio.run` in the user's function) would pass for one of the caller."""


class _Call:
    """One call in a worker thread, followed from both sides of it.

    `_lock` orders the thread's steps (`run`) against the caller's leaving (`abandon`): exactly one side finds that it
    is the last, and returns the call's slot.
    """

    __slots__ = ("_function", "_lock", "_on_late_end", "_started", "_state", "_thread", "result")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._state = _State.WAITING
        self._thread: threading.Thread | None = None
        self._started = 0.0
        self._on_late_end: Callable[[], object] | None = None
        self.result: Any = None
        """Not `run`'s return value: trio refuses a coroutine that comes back from a thread."""

    def run(self) -> None:
        """Call the user's function; runs in the worker thread."""
        with self._lock:
            if self._state is _State.DROPPED:
                return
            self._state = _State.RUNNING
            self._thread = threading.current_thread()
            self._started = time.monotonic()
        process = os.getpid()
        try:
            self.result = self._function()
            if os.getpid() != process:
                end_child(None)
        except BaseException as exc:
            if os.getpid() != process:
                end_child(exc)
            if isinstance(exc, _CARRIED) and not isinstance(exc, StopIteration):
                raise
            raise RuntimeError(f"{function_name(self._function)} raised {type(exc).__name__}") from exc
        finally:
            with self._lock:
                self._state = _State.ENDED
                on_late_end = self._on_late_end
            if on_late_end is not None:
                on_late_end()

    @property
    def ended(self) -> bool:
        return self._state is _State.ENDED

    def abandon(self, on_late_end: Callable[[], object]) -> bool:
        """Leave the call; `on_late_end` runs in its thread at its end. False when no user code runs in it."""
        with self._lock:
            if self._state is _State.WAITING:
                self._state = _State.DROPPED
            if self._state is not _State.RUNNING:
                return False
            self._on_late_end = on_late_end
            return True

    def snapshot(self) -> RunningThread | None:
        """What runs now, if the user's code does; callable from any thread."""
        with self._lock:
            if self._state is not _State.RUNNING or self._thread is None:
                return None
            name = function_name(self._function)
            return RunningThread(name, self._thread, self._started, self._on_late_end is not None)


class WorkerThreads:
    """The worker threads of one event loop: their limit, and an account of those that run user code.

    A call holds its slot until its thread ends, also when nobody waits for it any more, so that functions which never
    return cannot pile up threads without bound.

    Args:
        limit: Threads that run user code at once.
    """

    def __init__(self, limit: int = MAX_WORKER_THREADS) -> None:
        self._limiter = anyio.CapacityLimiter(limit)
        # `_limiter` counts; anyio's own accounting would return the slot of an abandoned thread early (under asyncio).
        self._unlimited = anyio.CapacityLimiter(math.inf)
        self._calls: set[_Call] = set()
        self._idle = anyio.Event()

    async def run(self, function: Callable[[], R]) -> R:
        """Call `function` in a thread; see `run_sync`."""
        call = _Call(function)
        try:
            self._limiter.acquire_on_behalf_of_nowait(call)
        except anyio.WouldBlock:
            await self._limiter.acquire_on_behalf_of(call)
        self._calls.add(call)
        try:
            await to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=self._unlimited)
            return call.result
        finally:
            if call.ended or not call.abandon(functools.partial(EventLoopHandle().call_soon, self._release, call)):
                self._release(call)

    def running(self) -> list[RunningThread]:
        """The threads that run user code now, oldest first; callable from any thread."""
        snapshots = (call.snapshot() for call in self._calls.copy())
        return sorted((s for s in snapshots if s is not None), key=lambda s: s.started)

    async def wait_idle(self, timeout: float | None = None) -> list[RunningThread]:
        """Wait until no thread runs user code.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Returns:
            The threads that still run user code after `timeout`; empty when all have ended.
        """
        with anyio.move_on_after(timeout):
            while self._calls:
                await self._idle.wait()
        return self.running()

    def _release(self, call: _Call) -> None:
        self._calls.discard(call)
        self._limiter.release_on_behalf_of(call)
        if not self._calls:
            self._idle.set()
            self._idle = anyio.Event()


_worker_threads: RunVar[WorkerThreads] = RunVar("definable_worker_threads")


def worker_threads() -> WorkerThreads:
    """The worker threads of the running event loop."""
    threads = _worker_threads.get(None)
    if threads is None:
        threads = WorkerThreads()
        _worker_threads.set(threads)
    return threads


async def run_sync(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a user's blocking function in a worker thread.

    Context variables are visible in it, and `anyio.from_thread` works. A cancelled caller (a time-out, a shutdown) does
    not wait: the thread runs on, its result is dropped, and it counts against the limit until it ends. At most
    `MAX_WORKER_THREADS` run at once; further calls wait for one to end, so blocking code that waits for other blocking
    code (through `anyio.from_thread`) can starve when that many do so at once.

    Under asyncio these threads are not daemons: one that never ends holds up the exit of the process.

    Raises:
        RuntimeError: `function` raised `StopIteration` or an event loop's cancellation, which is its cause.
    """
    return await worker_threads().run(functools.partial(function, *args, **kwargs))


def function_name(function: Callable[..., Any]) -> str:
    """The module and qualified name of a function, or of what lies behind a partial or a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__ or 'builtins'}.{named.__qualname__}"
