"""The events of a run that nobody may be listening to yet: kept, so that one who comes later can follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

from definable.agent.memory_size import event_size
from definable.agent.run_event import Listener, RunEvent

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
