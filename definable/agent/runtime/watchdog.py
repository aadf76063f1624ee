"""A thread that asks the event loop for a sign of life, and logs where the loop is stuck.

A handler that blocks the loop (a sync call in an async function, an endless computation) stops everything at once and
says nothing. Only another thread can tell.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from types import TracebackType

from definable.agent.event_loop import EventLoopHandle

logger: logging.Logger = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two questions."""

PATIENCE = 5.0
"""Seconds in which the loop must answer."""


class Watchdog:
    """Watches an event loop while the context is open, which is entered and left in the loop's own thread.

    Args:
        loop: The loop.
        interval: Seconds between two questions.
        patience: Seconds in which the loop must answer.
    """

    def __init__(self, loop: EventLoopHandle, interval: float = INTERVAL, patience: float = PATIENCE) -> None:
        self._loop = loop
        self._interval = interval
        self._patience = patience
        self._stopped = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="definable watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._answered.set()  # the loop, which waits here, will not
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            answered = self._answered = threading.Event()
            if self._stopped.is_set() or not self._loop.call_soon(answered.set):
                return
            asked = time.monotonic()
            if not answered.wait(self._patience):
                logger.error(
                    "the event loop has been stuck for %g s, here:\n%s", self._patience, stack_of(self._loop.thread_id)
                )
                answered.wait()
                logger.warning("the event loop goes on, after %.1f s", time.monotonic() - asked)


def stack_of(thread_id: int) -> str:
    """Where a thread is now, the innermost call last."""
    frame = sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage] - the documented way
    return "(the thread has ended)" if frame is None else "".join(traceback.format_stack(frame)).rstrip()
