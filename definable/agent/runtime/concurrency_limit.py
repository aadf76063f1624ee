"""How many deliveries of one trigger are handled at once, and which wait behind them.

Pure bookkeeping of one event loop: the workers admit deliveries to it and release them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

import anyio

from definable.agent.bus.base import Delivery
from definable.agent.trigger.base import BaseTrigger
from definable.agent.trigger.cron import TimeTrigger


class Admission(Enum):
    """What became of a delivery that asked its trigger's limit for admission."""

    ADMITTED = auto()
    """Handle it now, and release it at its end."""
    QUEUED = auto()
    """It waits; the `release` of an earlier one returns it."""
    SKIPPED = auto()
    """The one before is still handled, and this trigger wants no second: acknowledge it."""
    FULL = auto()
    """As many wait as may: wait for `capacity`, then ask again."""


@dataclass(slots=True)
class ConcurrencyLimit:
    """The limit of one trigger."""

    trigger: BaseTrigger
    max_active: int | None
    """How many are handled at once; None for no limit of the trigger's own."""
    skip_when_busy: bool
    max_queued: int
    """How many may wait."""
    active: int = 0
    queue: deque[Delivery] = field(default_factory=deque[Delivery])
    _has_capacity: anyio.Event | None = None
    """Set when a full queue has become shorter."""

    @classmethod
    def of(cls, trigger: BaseTrigger, max_queued: int) -> ConcurrencyLimit:
        """The limit of a trigger: a time trigger's `overlap` is one of 1."""
        if isinstance(trigger, TimeTrigger) and trigger.overlap != "allow":
            return cls(trigger, 1, trigger.overlap == "skip", max_queued)
        return cls(trigger, trigger.max_concurrency, False, max_queued)

    def admit(self, delivery: Delivery, *, over_limit: bool = False) -> Admission:
        """Admit a delivery or queue it; `over_limit` queues it also behind a full queue."""
        if self.max_active is None or self.active < self.max_active:
            self.active += 1
            return Admission.ADMITTED
        if self.skip_when_busy and delivery.attempt == 1:  # a retry was promised: it waits
            return Admission.SKIPPED
        if len(self.queue) >= self.max_queued and not over_limit:
            return Admission.FULL
        self.queue.append(delivery)
        return Admission.QUEUED

    def release(self) -> Delivery | None:
        """End a delivery: the next one in the queue is admitted in its place, and returned."""
        if not self.queue:
            self.active -= 1
            return None
        delivery = self.queue.popleft()
        if self._has_capacity is not None:
            self._has_capacity.set()
        return delivery

    async def capacity(self) -> None:
        """Wait until a full queue has become shorter."""
        if self._has_capacity is None or self._has_capacity.is_set():
            self._has_capacity = anyio.Event()
        await self._has_capacity.wait()
