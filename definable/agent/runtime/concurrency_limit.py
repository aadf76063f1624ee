"""One trigger's lane: how many of its deliveries are handled at once, and who waits in line.

Pure bookkeeping, one event loop: the workers take from it and put into it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import anyio

from definable.agent.bus.base import Delivery
from definable.agent.trigger.base import BaseTrigger
from definable.agent.trigger.cron import TimeTrigger


class Entry(Enum):
    """What became of a delivery that came to its lane."""

    GO = auto()
    """It has a place: handle it now."""
    PARKED = auto()
    """It stands in line; whoever leaves the lane takes it along."""
    SKIPPED = auto()
    """The last one is still handled, and this trigger wants no second: it is done with."""
    FULL = auto()
    """The line is full: wait for `room`, then come again."""


@dataclass(slots=True)
class Lane:
    """The lane of one trigger."""

    trigger: BaseTrigger
    limit: int | None
    """How many are handled at once; None for no limit of the lane's own."""
    skip_when_busy: bool
    line_limit: int
    """How many may stand in line."""
    active: int = 0
    line: deque[Delivery] | None = None
    room: anyio.Event | None = None
    """Set when a place in a full line comes free."""

    def enter(self, delivery: Delivery, *, over_limit: bool = False) -> Entry:
        """Bring a delivery; `over_limit` lets it into a line that is full."""
        if self.limit is None or self.active < self.limit:
            self.active += 1
            return Entry.GO
        if self.skip_when_busy and delivery.attempt == 1:  # a retry was promised: it waits for its turn
            return Entry.SKIPPED
        if self.line is None:
            self.line = deque()
        if len(self.line) >= self.line_limit and not over_limit:
            return Entry.FULL
        self.line.append(delivery)
        return Entry.PARKED

    def leave(self) -> Delivery | None:
        """Give the place to the next in line, which is returned, or back."""
        if self.line:
            delivery = self.line.popleft()
            if self.room is not None:
                self.room.set()
            return delivery
        self.active -= 1
        return None

    async def wait_for_room(self) -> None:
        """Wait until a place in the full line has come free."""
        if self.room is None or self.room.is_set():
            self.room = anyio.Event()
        await self.room.wait()


def lane_of(trigger: BaseTrigger, line_limit: int) -> Lane:
    """The lane for a trigger: a cron job's `overlap` is one of its lane."""
    limit, skip = trigger.max_concurrency, False
    if isinstance(trigger, TimeTrigger) and trigger.overlap != "allow":
        limit, skip = 1, trigger.overlap == "skip"
    return Lane(trigger, limit, skip, line_limit)
