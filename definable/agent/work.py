"""Accepted work: each piece a value that its owner closes, and the count of all from their begin to their end.

Every source begins its work at the `WorkTracker` (HTTP requests, workers, interface messages): a drain waits until it
is idle, and the `ShutdownReport` holds its counts. What a piece of work permits ends with it: `Emitter` and
`AgentRuntime.fire` ask which one they are called in. The context variable only points to the piece: a task that a
handler left behind inherits the pointer, and finds it closed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields
from types import TracebackType

import anyio

from definable.concurrency.isolation import is_cut_off


class AcceptedWork:
    """One piece of accepted work: `with` holds it open.

    Args:
        owner: Whose work it is: what stops waits for its own work and takes events from it alone.
        occupies_worker: Whether one of the bus's workers is busy with it until its end.
    """

    __slots__ = ("_outer", "_token", "is_open", "occupies_worker", "owner")

    def __init__(self, owner: object, *, occupies_worker: bool = False) -> None:
        self.owner: object = owner
        self.occupies_worker: bool = occupies_worker
        self.is_open: bool = False
        self._outer: AcceptedWork | None = None
        """The piece in which it was begun, as a handler that calls the agent's own application in process does."""
        self._token: Token[AcceptedWork | None] | None = None

    def open(self) -> None:
        """Begin it; code that runs in this task, and tasks begun here, are in it until it is closed."""
        outer = _innermost.get()
        if outer is not None:  # only what is open: tasks that begin work in turn must not hold an ever longer chain
            self._outer = next(_open_from(outer), None)
        self._token = _innermost.set(self)
        self.is_open = True

    def close(self) -> None:
        """End it, in the task that opened it: from now on it permits nothing, whoever still points to it."""
        assert self._token is not None
        self.is_open = False
        _innermost.reset(self._token)

    def __enter__(self) -> AcceptedWork:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_innermost: ContextVar[AcceptedWork | None] = ContextVar("definable_accepted_work", default=None)


def is_in_work_of(owner: object) -> bool:
    """Whether the current code is part of accepted work of this owner that has not ended."""
    return any(work.owner is owner for work in _open_from(_innermost.get()))


def work_on_worker(owner: object) -> AcceptedWork | None:
    """The work on one of the owner's workers that the current code is part of and that has not ended."""
    return next((work for work in _open_from(_innermost.get()) if work.occupies_worker and work.owner is owner), None)


def _open_from(work: AcceptedWork | None) -> Iterator[AcceptedWork]:
    while work is not None:
        if work.is_open:
            yield work
        work = work._outer  # pyright: ignore[reportPrivateUsage]


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

    def skipped(self, source: str, count: int) -> None:
        """Count firings that came too late to be made."""
        self.counters(source).skipped += count

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
            source: WorkCount(**{field.name: getattr(each, field.name) for field in fields(WorkCount)})
            for source, each in self._counters.items()
        }


class Counters:
    """One source's work: what is under way, and the ends that it came to."""

    __slots__ = ("active", "cancelled", "completed", "failed", "never_started", "refused", "skipped", "withdrawn")

    def __init__(self) -> None:
        self.active: int = 0
        self.completed: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self.never_started: int = 0
        self.refused: int = 0
        self.skipped: int = 0
        self.withdrawn: int = 0


class Work(AcceptedWork):
    """One piece of accepted work, counted as long as it is under way and by the end that it comes to."""

    __slots__ = ("_counters", "_tracker", "failed", "refused", "skipped", "will_retry", "withdrawn")

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
        self.withdrawn: bool = False
        """Set it when who asked for the work gave it up: it was cut off."""
        self.skipped: bool = False
        """Set it when the work was a firing that its trigger does not want handled beside another."""

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
        elif self.withdrawn:
            counters.withdrawn += 1
        elif self.skipped:
            counters.skipped += 1
        elif not self.will_retry:
            counters.completed += 1
            if error is not None or self.failed:
                counters.failed += 1
        if self._tracker.awaited is not None:
            self._tracker.ended()


@dataclass(frozen=True, slots=True)
class WorkCount:
    """The ends that one source's accepted work came to."""

    completed: int = 0
    """Came to an end of its own, good or bad."""
    failed: int = 0
    """Of the completed: ended in an error."""
    cancelled: int = 0
    """Was begun and cut off by the stop."""
    never_started: int = 0
    """Was accepted and never begun."""
    refused: int = 0
    """Came from somebody who is not let in (messages of chats), and was not answered; in none of the other numbers."""
    withdrawn: int = 0
    """Was given up by who asked for it: its client went away, or its run was cancelled by its id; in none of the other
    numbers."""
    skipped: int = 0
    """Cron firings that were not handled: the one before was (`overlap="skip"`), or they came too late; in none of the
    other numbers."""

    def __add__(self, other: WorkCount) -> WorkCount:
        return WorkCount(
            self.completed + other.completed,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.never_started + other.never_started,
            self.refused + other.refused,
            self.withdrawn + other.withdrawn,
            self.skipped + other.skipped,
        )

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off and nothing left undone."""
        return not (self.cancelled or self.never_started)

    def __str__(self) -> str:
        parts = [f"{self.completed} completed"]
        parts += [f"{count} {word}" for word, count in self._others() if count]
        return ", ".join(parts)

    def _others(self) -> tuple[tuple[str, int], ...]:
        return (
            ("failed", self.failed),
            ("refused", self.refused),
            ("withdrawn", self.withdrawn),
            ("skipped", self.skipped),
            ("cancelled", self.cancelled),
            ("never started", self.never_started),
        )
