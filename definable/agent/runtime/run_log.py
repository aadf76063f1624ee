"""What the service remembers of runs: their records and events, and ended runs within bounds.

`runs.py` makes the records, `/runs` shows them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio

from definable.agent.run.output import Listener, RunEvent, RunOutput, RunStatus, event_size
from definable.concurrency.event_loop import Cancellable
from definable.errors import ServeError


class TooManyRuns(ServeError):
    """`max_concurrent_runs` are under way, those that wait hold `max_memory_queued`, or what is handled holds
    `max_memory_active`; try again later."""


MAX_LOGGED = 10_000
"""Events that are kept of one run; the oldest are forgotten beyond it."""

MAX_LOGGED_BYTES = 4 * 1024 * 1024
"""Bytes of one run's events that are kept, its newest event in any case."""


class RunLog:
    """One run's events, numbered from 1.

    Args:
        last_id: The number of the last event that an attempt before had.
        on_growth: Is told how many bytes of events were added, or forgotten (negative).
    """

    __slots__ = ("_bytes", "_changed", "_events", "_on_growth", "ended", "last_id")

    def __init__(self, last_id: int = 0, on_growth: Callable[[int], None] | None = None) -> None:
        self._events: deque[RunEvent] | tuple[RunEvent, ...] = ()  # most runs are never followed, and a deque is large
        self._bytes = 0
        self._on_growth = on_growth
        self.last_id: int = last_id
        """The number of the last event so far."""
        self.ended: bool = False
        """Whether there will be no more."""
        self._changed: anyio.Event | None = None

    async def tell(self, event: RunEvent) -> None:
        """Keep an event; a run's listener."""
        if isinstance(self._events, tuple):
            self._events = deque(self._events)
        self.last_id += 1
        self._events.append(event)
        self._grow(event_size(event) - self._forget_oldest(self._events, event_size(event)))
        self._wake()

    def begin(self, last_id: int, on_growth: Callable[[int], None]) -> None:
        """Have the ids of events, of which there is none yet, begin behind `last_id`."""
        self.last_id, self._on_growth = last_id, on_growth

    def counted(self, listener: Listener) -> Listener:
        """A listener whose events are counted here and not kept."""

        async def tell(event: RunEvent) -> None:
            await listener(event)
            self.last_id += 1  # not before: what the listener never had needs no number

        return tell

    def shrink(self) -> None:
        """Forget all events but the last."""
        if self._events:
            self._events = (self._events[-1],)
            self._grow(event_size(self._events[0]) - self._bytes)

    def forget(self) -> None:
        """Count for nothing more: the run is forgotten. Who follows it still has what there is."""
        self._grow(-self._bytes)
        self._on_growth = None

    def end(self, last: RunEvent | None = None) -> None:
        """There will be no more.

        Args:
            last: The last event, of a run whose events are not kept: where they were counted, it was one of them.
        """
        if last is not None:
            self.last_id = max(self.last_id, 1)
            self._events = (last,)
        self.ended = True
        self._wake()

    async def after(self, last_id: int) -> tuple[int, RunEvent] | None:
        """Wait for the first kept event after an id; None when there is none and will be none."""
        while not self._events or last_id >= self.last_id:
            if self.ended:
                return None
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()
        oldest = self.last_id - len(self._events) + 1
        number = max(last_id + 1, oldest)
        return number, self._events[number - oldest]

    def _forget_oldest(self, events: deque[RunEvent], added: int) -> int:
        """Forget what is beyond the bounds, and return its bytes."""
        forgotten = 0
        while len(events) > 1 and (len(events) > MAX_LOGGED or self._bytes + added - forgotten > MAX_LOGGED_BYTES):
            forgotten += event_size(events.popleft())
        return forgotten

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._on_growth is not None and size:
            self._on_growth(size)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class RunRecord:
    """A run that the service made or is making."""

    run_id: str
    source: str
    session_id: str | None
    user_id: str | None
    created_at: float
    """Unix seconds."""
    status: RunStatus = RunStatus.RUNNING
    output: RunOutput | None = None
    """Of a run that completed."""
    failure: Exception | None = None
    """Why it failed, or was cancelled; without a traceback."""
    log: RunLog = field(default_factory=RunLog)
    """Its events, where somebody may ask for them later; at least its end."""
    is_logged: bool = False
    """Whether all of its events are logged."""
    is_kept: bool = False
    """Whether its delivery outlives this process, so that it is made again when it is cut off."""
    scope: Cancellable | None = None
    """Around the run while it is under way."""
    size: int = 0
    """Bytes that are held for it, less its log: of what it was asked while it is queued, of its output at last."""
    namespace: str = ""
    """Of whoever asked for it; empty: the service itself."""
    place: int = 0
    """Its place among the queued, the active or the ended runs: higher than that of those before."""

    @property
    def will_go_on(self) -> bool:
        """Whether it has not ended, and will be made also if this process ends."""
        return self.is_kept and self.status in (RunStatus.QUEUED, RunStatus.RUNNING)


class RecentRuns:
    """Ended runs by their ids, with their outputs and logs.

    Args:
        max_bytes: What they may hold, together with the logs of runs under way; the newest one is kept in any case.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: int = max_bytes
        self._bytes = 0
        self._records: OrderedDict[str, RunRecord] = OrderedDict()
        self._logged: deque[RunRecord] = deque()
        """Those whose events are kept, not their last one alone."""

    def get(self, run_id: str) -> RunRecord | None:
        """The run of that id."""
        return self._records.get(run_id)

    def newest_first(self) -> Iterator[RunRecord]:
        """All of them."""
        return reversed(self._records.values())

    def add(self, record: RunRecord, size: int, *, max_runs: int, max_logs: int) -> None:
        """Remember a run that has ended.

        Args:
            record: The run.
            size: Bytes of its output.
            max_runs: How many are remembered.
            max_logs: Of how many all events are remembered.
        """
        self.pop(record.run_id)
        record.size = size
        self._bytes += size
        self._records[record.run_id] = record
        if record.is_logged:
            self._logged.append(record)
            if len(self._logged) > max_logs:
                self._logged.popleft().log.shrink()
        while len(self._records) > max_runs:
            self._forget_oldest()
        self.grow(0)

    def pop(self, run_id: str) -> RunRecord | None:
        """Forget a run, which is made again; its log stays, as a part of what is held."""
        record = self._records.pop(run_id, None)
        if record is not None:
            self._bytes -= record.size
        return record

    def grow(self, size: int) -> None:
        """The logs hold so many bytes more, or fewer."""
        self._bytes += size
        while self._bytes > self.max_bytes and len(self._records) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, record = self._records.popitem(last=False)
        self._bytes -= record.size
        if record.is_logged and self._logged and self._logged[0] is record:
            self._logged.popleft()
        record.log.forget()
