"""The wall clock: what the cron loop sleeps by, and what events and runs are stamped with.

The event loop's clock is monotonic: it knows no date, and it does not see NTP or a suspended machine step the time of
day. `current_clock()` is the one place that says what time it is; `definable.testing` puts a virtual clock in its
place, for one context, so that a test of a year takes a second.

On Linux the kernel says when the clock is set and when a suspended machine resumes: timerfd_create(2),
`TFD_TIMER_CANCEL_ON_SET`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import anyio

STEP_CHECK = 5.0
"""Seconds after which a sleeper reads the system's clock again where nothing says that it was set: a step of it may be
noticed so late."""

MAX_SLEEP = 30.0
"""Seconds after which it does so elsewhere too: a process may be shown a time that the kernel does not know."""


class WallClock(Protocol):
    """Tells the time of day, and sleeps by it."""

    def now(self) -> float:
        """Unix seconds. May step in either direction; callable from any thread."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Sleeps towards `when` (Unix seconds), and may return before it: whoever must be sure reads `now()` again."""
        ...


class SystemClock(WallClock):
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    async def sleep_until(self, when: float) -> None:
        seconds = max(when - self.now(), 0.0)
        if seconds <= STEP_CHECK:
            await anyio.sleep(seconds)
            return
        with clock_timer(seconds) as timer:
            if timer is None:
                await anyio.sleep(STEP_CHECK)
                return
            with anyio.move_on_after(min(seconds, MAX_SLEEP)):
                await anyio.wait_readable(timer)


@contextmanager
def clock_timer(seconds: float) -> Generator[int | None]:
    """A descriptor that is readable once the machine's clock shows so many seconds later, was set, or went on after a
    suspend; None where there is no such thing."""
    timer = _open_timer(seconds) if sys.platform == "linux" else None
    try:
        yield timer
    finally:
        if timer is not None:
            os.close(timer)


def _open_timer(seconds: float) -> int | None:
    import ctypes  # `os.timerfd_create` came with Python 3.13; a service without cron jobs never loads it

    absolute, cancel_on_set = 1, 2  # TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
    libc = ctypes.CDLL(None)
    try:
        timer = libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    except AttributeError:
        return None
    if timer < 0:
        return None
    when = time.clock_gettime(time.CLOCK_REALTIME) + seconds  # the kernel's time, also where the process shows another
    setting = (ctypes.c_long * 4)(0, 0, int(when), int(when % 1 * 1e9))  # interval, expiration
    if libc.timerfd_settime(timer, absolute | cancel_on_set, setting, None) < 0:
        os.close(timer)
        return None
    return timer


class LoopClock(WallClock):
    """A wall clock that goes with the event loop's: a start, plus the loop time that has passed since.

    Args:
        start: Unix seconds at construction.
        loop_time: The loop's clock in seconds; without it the running loop's, and then `now()` works on its thread
            only.
    """

    def __init__(self, start: float, loop_time: Callable[[], float] = anyio.current_time) -> None:
        self._loop_time = loop_time
        self._offset = start - loop_time()

    def now(self) -> float:
        return self._offset + self._loop_time()

    async def sleep_until(self, when: float) -> None:
        await anyio.sleep(max(when - self.now(), 0.0))


_SYSTEM_CLOCK = SystemClock()
_installed: ContextVar[WallClock | None] = ContextVar("definable_wall_clock", default=None)


def current_clock() -> WallClock:
    """The wall clock of this context: the machine's, unless `use_clock` installed another."""
    return _installed.get() or _SYSTEM_CLOCK


@contextmanager
def use_clock(clock: WallClock) -> Generator[None]:
    """Makes `clock` the wall clock of this context, and of tasks and worker threads that are started in it."""
    token = _installed.set(clock)
    try:
        yield
    finally:
        _installed.reset(token)
