"""trio's mock clock, held while worker threads are busy. `virtual_time.py` makes it."""

from __future__ import annotations

import math

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
