"""An asyncio event loop in virtual time: where it would sleep, its clock jumps. `virtual_time.py` makes it.

trio's mock clock, held while worker threads are busy. `virtual_time.py` makes it.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Callable
from typing import Any

import trio
import trio.testing


class HoldForThreads(trio.abc.Instrument):
    """Keeps `clock` from jumping while `trio.to_thread` has work in flight: a thread takes no virtual time.

    The clock by itself takes a task that waits for a thread for one that waits for a deadline, and jumps.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        threshold = math.inf if trio.testing.active_thread_count() else 0.0
        if threshold != self._clock.autojump_threshold:
            self._clock.autojump_threshold = threshold


def new_mock_clock() -> trio.testing.MockClock:
    """A clock for one run, which jumps as soon as all tasks wait."""
    return trio.testing.MockClock(autojump_threshold=0.0)


class ElapsedTime:
    """The virtual clock: seconds since the beginning, readable from any thread."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


class JumpingSelector(selectors.DefaultSelector):
    """Reports what is ready; where nothing is, moves the clock on by the timeout instead of sleeping it.

    Args:
        jump: Moves the clock on by so many seconds.
        is_held: Says whether work outside the loop must come first.
    """

    def __init__(self, jump: Callable[[float], None], is_held: Callable[[], bool]) -> None:
        super().__init__()
        self._jump = jump
        self._is_held = is_held

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self._is_held():
            return super().select(None)
        self._jump(timeout)
        return []


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An event loop that reads `elapsed`, and moves it."""

    def __init__(self, elapsed: ElapsedTime) -> None:
        self._elapsed = elapsed
        self._executing = 0
        super().__init__(JumpingSelector(self._jump, self._is_held))

    def time(self) -> float:
        return self._elapsed.seconds

    def _jump(self, seconds: float) -> None:
        self._elapsed.seconds += seconds
        # asyncio runs a timer that is due before now plus this. After a month the default, a nanosecond, is less than
        # the clock's last digit, and no timer would ever be due.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._elapsed.seconds))

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._executing += 1
        future.add_done_callback(self._executed)
        return future

    def _executed(self, future: asyncio.Future[Any]) -> None:
        self._executing -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        # From Python 3.12 on it waits for its threads with a timeout, which a jump would use up.
        self._executing += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._executing -= 1

    def _is_held(self) -> bool:
        return self._executing > 0 or any(self._is_busy_worker(thread) for thread in threading.enumerate())

    def _is_busy_worker(self, thread: threading.Thread) -> bool:
        # anyio does not say how many of its worker threads are busy: a limiter knows of its own ones only. One that is
        # done is put on the idle list by a callback in the loop, so none is overlooked between the two.
        if getattr(thread, "loop", None) is not self or getattr(thread, "stopping", True):
            return False
        return thread not in getattr(thread, "idle_workers", ())
