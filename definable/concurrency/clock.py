"""The wall clock: what the cron loop sleeps by, and what events and runs are stamped with.

The event loop's clock is monotonic: it knows no date, and it does not see NTP or a suspended machine step the time of
day. `current_clock()` is the one place that says what time it is; `definable.testing` puts a virtual clock in its
place, for one context, so that a test of a year takes a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import anyio

MAX_SLEEP = 60.0
"""Seconds after which a sleeper reads the system's clock again: so late may a step of it be noticed."""


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
        await anyio.sleep(min(max(when - self.now(), 0.0), MAX_SLEEP))


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
