"""Accepted work, counted from its begin to its end; and what a stop asks of it.

Every source begins its work at the `WorkTracker` (HTTP requests, workers, interface messages). A drain waits until it
is idle, and the `ShutdownReport` holds its counts. `Draining` says whether a stop has begun, for code that would go on
without end; `AgentRuntime` owns both.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from types import TracebackType
from typing import Any

import anyio

from definable.agent.bus.accepted_work import AcceptedWork
from definable.agent.report import WorkCount
from definable.concurrency.isolation import is_cut_off
from definable.concurrency.worker_thread import worker_threads

THREAD_TIMEOUT = 1.0
"""Seconds that user code in worker threads gets to end after it was cut off."""


class WorkTracker:
    """Counts work by source.

    Args:
        sources: The sources that are always in the report; others join with their first work.
    """

    def __init__(self, sources: Collection[str] = ("http", "event", "cron")) -> None:
        self._counters = {source: Counters() for source in sources}
        self.awaited: anyio.Event | None = None
        """What `idle` waits for; None when nobody waits."""

    def work(self, source: str, *, occupies_worker: bool = False) -> Work:
        """A context around one piece of accepted work. A cancellation that passes through it counts as cut off.

        Args:
            source: Where it is counted.
            occupies_worker: Whether one of the bus's workers is busy with it until its end.
        """
        counters = self._counters.get(source)
        return Work(self, self.counters(source) if counters is None else counters, occupies_worker)

    def counters(self, source: str) -> Counters:
        """The counters of a source, which is in the report from now on."""
        return self._counters.setdefault(source, Counters())

    def never_started(self, source: str, count: int = 1) -> None:
        """Count work that was accepted and will not be begun."""
        self.counters(source).never_started += count

    def cancelled(self, source: str, count: int = 1) -> None:
        """Count work that was begun before and will not be finished."""
        self.counters(source).cancelled += count

    def active(self) -> int:
        """How many pieces of work are under way."""
        return sum(counters.active for counters in self._counters.values())

    async def idle(self) -> None:
        """Return once no work is under way."""
        while self.active():
            if self.awaited is None:
                self.awaited = anyio.Event()
            await self.awaited.wait()

    def ended(self) -> None:
        """Called by a piece of work at its end, where somebody waits."""
        if self.awaited is not None and not self.active():
            self.awaited.set()
            self.awaited = None

    def counts(self) -> Mapping[str, WorkCount]:
        """The counts so far, by source; what is under way is in none of the numbers."""
        return {
            source: WorkCount(each.completed, each.failed, each.cancelled, each.never_started, each.refused)
            for source, each in self._counters.items()
        }


class Counters:
    """One source's work: what is under way, and the ends that it came to."""

    __slots__ = ("active", "cancelled", "completed", "failed", "never_started", "refused")

    def __init__(self) -> None:
        self.active: int = 0
        self.completed: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self.never_started: int = 0
        self.refused: int = 0


class Work(AcceptedWork):
    """One piece of accepted work, counted as long as it is under way and by the end that it comes to."""

    __slots__ = ("_counters", "_tracker", "failed", "refused", "will_retry")

    def __init__(self, tracker: WorkTracker, counters: Counters, occupies_worker: bool) -> None:
        super().__init__(tracker, occupies_worker=occupies_worker)
        self._tracker = tracker
        self._counters = counters
        self.failed: bool = False
        """Set it when the work ends in an error that is dealt with inside."""
        self.will_retry: bool = False
        """Set it when this attempt is followed by another: only the last one is counted."""
        self.refused: bool = False
        """Set it when the work came from somebody who is not let in: it was not done."""

    def __enter__(self) -> Work:
        self._counters.active += 1
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        counters = self._counters
        counters.active -= 1
        if error is not None and is_cut_off(error):
            counters.cancelled += 1
        elif self.refused:
            counters.refused += 1
        elif not self.will_retry:
            counters.completed += 1
            if error is not None or self.failed:
                counters.failed += 1
        if self._tracker.awaited is not None:
            self._tracker.ended()


class Draining:
    """A stop has begun: true from then on, and to be waited for.

    ```python
    while not runtime.draining:
        with anyio.move_on_after(1):
            await runtime.draining.wait()
    ```
    """

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began = anyio.Event()

    def __bool__(self) -> bool:
        return self._began.is_set()

    def __repr__(self) -> str:
        return f"<Draining: {bool(self)}>"

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()

    def is_set(self) -> bool:
        """Whether a stop has begun."""
        return self._began.is_set()

    async def wait(self) -> None:
        """Returns once a stop has begun, at once if it has."""
        await self._began.wait()

    def begin(self) -> None:
        """Notifies whoever waits; the runtime's own to call."""
        self._began.set()


async def stuck_threads() -> tuple[str, ...]:
    """Functions of user code that still run in worker threads after a grace, though nobody waits for them."""
    names: tuple[str, ...] = ()
    with anyio.CancelScope(shield=True):  # bounded by wait_idle's own timeout
        names = tuple(thread.function for thread in await worker_threads().wait_idle(THREAD_TIMEOUT))
    return names
