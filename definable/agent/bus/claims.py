"""What an engine has claimed: handed out to consumers, held under a lease, and settled.

No more is claimed than consumers wait for: what waits stays in the store.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from definable.concurrency.logs import logger_named
from definable.errors import EventBusClosed

from .base import Delivery
from .batch import BY_NAME, Applied, Claim, Handle, Limit, Message, WriteBatch
from .store import Queue
from .suspects import SUSPECT, SUSPECT_DELAY, Suspects
from .writes import Writes

logger: logging.Logger = logger_named(__name__)

YIELD_EVERY = 32
"""Deliveries that are handed out before other tasks run."""

ASKED_AGAIN = 30
"""Turns of the event loop in which those who were handed something may ask for more before the next claim."""

MAX_DELIVERIES = 5
"""Claims of one message that nothing came of, as when its handler ends the process; beyond it, it is a dead letter."""


@dataclass(slots=True, eq=False)
class QueueDelivery:
    """One delivery of a message. Settling it returns at once and is written with the next batch."""

    claims: Claims
    handle: Handle
    id: str
    name: str
    data: Mapping[str, Any]
    attempt: int
    lease: anyio.CancelScope | None = None
    is_parked: bool = False
    is_suspect: bool = False
    is_surplus: bool = False
    group: str | None = None

    def park(self) -> None:
        self.claims.park(self)

    def begin(self) -> None:
        self.claims.begin(self)

    async def ack(self) -> None:
        self.claims.ack(self)

    async def nack(self, delay: float = 0.0) -> None:
        self.claims.nack(self, delay)

    async def dead(self, why: str) -> None:
        self.claims.dead_letter(self, why)

    async def release(self) -> None:
        self.claims.release(self)


class Claims(Queue):
    """What one opening has claimed and not settled; an iterator of deliveries for any number of consumers.

    Args:
        writes: Writes how they end.
        max_deliveries: See `MAX_DELIVERIES`.
        taken: Called when a consumer has taken one out of memory, which makes room there.
        settled_in_memory: Called when one was settled and nothing of it need be written.
    """

    def __init__(
        self, writes: Writes, *, max_deliveries: int, taken: Callable[[], None], settled_in_memory: Callable[[], None]
    ) -> None:
        self.asking: int = 0
        """Consumers that wait."""
        self.ready: deque[QueueDelivery] = deque()
        """What is claimed and no consumer has."""
        self.has_more: bool = True
        """Whether a flush could claim more."""
        self.next_due: float = math.inf
        self.is_handing_out: bool = True
        self._writes = writes
        self._memory, self._is_shared = writes.memory, writes.shared is not None
        self._max_deliveries = max_deliveries
        self._taken, self._settled_in_memory = taken, settled_in_memory
        self._held: dict[Handle, QueueDelivery] = {}
        self._suspects: Suspects[QueueDelivery] = Suspects()
        self._demanded: anyio.Event | None = None
        """What a store waits for that claims by itself."""
        self._next_consumer = anyio.Lock(fast_acquire=True)
        self._arrived: anyio.Event | None = None
        """What the first of them waits for."""
        self._is_resting = False
        """Whether a drain leaves to others what they bring."""
        self._grants: dict[str, float] = {}
        self._known: Collection[str] | None = None
        self._limits: dict[str, Limit] = {}
        self._count = 0

    # --- hand out

    def __aiter__(self) -> Claims:
        return self

    async def __anext__(self) -> Delivery:
        self._count = (self._count + 1) % YIELD_EVERY
        if not self._count:
            await checkpoint()
        if self.ready or (self._memory is not None and self.has_more and self.claim_now(YIELD_EVERY - self._count)):
            return self._next_ready()
        self.asking += 1
        self._demand_changed()
        try:
            if self.has_more:
                self.notify()
            async with self._next_consumer:
                while not self.ready:
                    arrived = self._arrived = anyio.Event()
                    if self.has_more:
                        self.notify()
                    if not self.ready:
                        await arrived.wait()
        finally:
            self.asking -= 1
        return self._next_ready()

    def _next_ready(self) -> QueueDelivery:
        delivery = self.ready.popleft()
        if self._memory is not None:
            self._taken()
        return delivery

    def claim_now(self, count: int) -> bool:
        """Claim out of memory; whether something came of it."""
        assert self._memory is not None
        if not self.is_handing_out:
            return False
        messages = self._memory.claim_now(Claim(count, self._grants, self._known))
        self.has_more = len(messages) == count
        if messages:
            self.arrived(messages)
        return bool(messages)

    def only_names(self, names: Collection[str]) -> None:
        """Claim messages of these names alone."""
        self._known = frozenset(names)

    def limit_name(self, name: str, limit: Limit) -> None:
        """Claim messages of this name while it has slots, which processes share."""
        self._limits[name] = limit

    def grant_name(self, name: str, count: float) -> None:
        """Claim so many more of this name; from the first call on none without."""
        self._grants[name] = self._grants.get(name, 0) + count
        self.has_more = True
        self.notify()

    @property
    def demand(self) -> int:
        return max(self.asking - len(self.ready), 0) if self.is_handing_out and not self._is_resting else 0

    @property
    def claim(self) -> Claim:
        return Claim(self.demand, self._grants, self._known, self._limits)

    async def asked_again(self, count: int) -> None:
        """Let those who were just handed so many messages ask for more, if they are quick.

        A claim takes what is asked for when it begins: one that does not wait for most of them goes back and forth with
        a few, again and again, as many times as with all.
        """
        for _ in range(ASKED_AGAIN):
            if self.demand >= count:
                return
            await checkpoint()

    async def demanded(self) -> bool:
        while self.is_handing_out and not self.demand:
            self._demanded = anyio.Event()
            await self._demanded.wait()
        return self.is_handing_out

    def _demand_changed(self) -> None:
        if self._demanded is not None:
            self._demanded.set()
            self._demanded = None

    def rest(self, is_resting: bool) -> None:
        """Claim nothing more for now, or again."""
        if is_resting is not self._is_resting:
            self._is_resting = is_resting
            self._demand_changed()

    def stop_handing_out(self) -> None:
        """Hand out nothing more; what is claimed and no consumer has goes back."""
        self.is_handing_out = False
        self._demand_changed()
        self._release_ready()

    def _release_ready(self) -> None:
        ready, self.ready = [*self._suspects.take_waiting(), *self.ready], deque()
        for delivery in ready:
            if self._let_go(delivery):  # also while the last batches are written
                self._writes.next.released.append((delivery.handle, 0.0))
        self.notify()

    # --- what a store has claimed

    def applied(self, batch: WriteBatch, applied: Applied) -> None:
        """A flush was written, and these were claimed with it."""
        self.has_more = self.has_more or applied.has_more
        self.next_due = math.inf if applied.next_due is None else applied.next_due
        begun = self._suspects.beginning
        if begun is not None and begun.handle in batch.begun:
            self._suspects.beginning = None
            self._hand_out(begun)
        if applied.claimed:
            self.arrived(applied.claimed)

    def _hand_out(self, *deliveries: QueueDelivery) -> None:
        self.ready.extend(deliveries)
        if self.ready and self._arrived is not None:
            self._arrived.set()
            self._arrived = None
        if not self.is_handing_out:
            self._release_ready()

    def arrived(self, messages: Sequence[Message], *, next_due: float | None = None, has_more: bool = False) -> None:
        if next_due is not None and next_due != self.next_due:
            self.next_due = next_due
            self._writes.wake.set()
        if has_more and self.demand > len(messages):
            self.has_more = True
            self._writes.wake.set()
        grants, is_shared = self._grants, self._is_shared
        if is_shared and self._suspects.queue and self._suspects.is_slow():
            for delivery in self._suspects.take_waiting():
                self._give_back(delivery)
        found: list[QueueDelivery] = []
        for handle, id, name, data, attempts, claims, is_surplus, group in messages:
            if is_shared and handle in self._held:
                continue  # two answers have told of it
            if name in grants:
                grants[name] -= 1
            lease = anyio.CancelScope() if is_shared else None
            delivery = QueueDelivery(self, handle, id, name, data, attempts + 1, lease, False, False, is_surplus, group)
            self._held[handle] = delivery
            if claims < SUSPECT or self._is_handed_out(delivery, claims):
                found.append(delivery)
        self._hand_out(*found)

    def _is_handed_out(self, delivery: QueueDelivery, claims: int) -> bool:
        """Whether a message that was claimed again and again, and of which nothing came, is tried once more now."""
        if self._writes.is_closed:
            return True
        if claims > self._max_deliveries:
            why = f"nothing came of {claims - 1} deliveries: each time the process ended (max_deliveries)"
            logger.error("delivery %s (%s) is a dead letter: %s", delivery.id, delivery.name, why)
            delivery.attempt -= 1
            self._grant_again(delivery)
            self.dead_letter(delivery, why)
            return False
        delivery.is_suspect = True
        if self._suspects.add(delivery):
            return True
        if self._is_shared and self._suspects.is_slow():
            self._suspects.remove(delivery)
            self._give_back(delivery)
        else:
            self.park(delivery)
        return False

    def _begin_suspect(self, delivery: QueueDelivery) -> None:
        """The one before has ended. Its handler may end the process at once: the attempt is written before."""
        self.begin(delivery)
        if delivery.handle in self._writes.next.begun:
            self._suspects.beginning = delivery
        else:  # that it is parked was not written: it still counts
            self._hand_out(delivery)

    def _give_back(self, delivery: QueueDelivery) -> None:
        """Let others try a suspect."""
        self._grant_again(delivery)
        self.release(delivery, SUSPECT_DELAY)

    def _grant_again(self, delivery: QueueDelivery) -> None:
        """No consumer gets it: another one of its name may be claimed."""
        if delivery.name in self._grants:
            self._grants[delivery.name] += 1
            self.has_more = True

    def dismiss(self, handle: Handle, *, by_name: bool) -> None:
        if by_name:
            self._writes.next.released.append((handle, BY_NAME))
        else:
            self._writes.next.acked.append(handle)
        self.notify()

    def request_flush(self) -> None:
        self._writes.next.is_barrier = True
        self.notify()

    def notify(self) -> None:
        self._writes.notify()

    def lease_lost(self, handle: Handle) -> None:
        delivery = self._held.pop(handle, None)
        if delivery is None:
            return
        if delivery in self.ready:
            self.ready.remove(delivery)
            self._grant_again(delivery)
        elif delivery.is_suspect and self._suspects.is_waiting(delivery):
            self._grant_again(delivery)
        self._forget_suspect(delivery)
        logger.warning("the lease of delivery %s (%s) is lost: another process has it now", delivery.id, delivery.name)
        if delivery.lease is not None:
            delivery.lease.cancel()

    @property
    def held(self) -> Collection[Handle]:
        return self._held.keys()

    @property
    def claimed(self) -> Collection[Handle]:
        return {*self._held, *self._writes.unwritten_settlements}

    @property
    def begun(self) -> Sequence[Handle]:
        """Of it, what is not parked."""
        return [each.handle for each in self._held.values() if not each.is_parked]

    # --- settle

    def park(self, delivery: QueueDelivery) -> None:
        """It is claimed and cannot be begun yet."""
        if not delivery.is_parked and self._held.get(delivery.handle) is delivery and self._writes.store.durable:
            delivery.is_parked = True
            self._writes.next.parked[delivery.handle] = None
            self.notify()

    def begin(self, delivery: QueueDelivery) -> None:
        """Its handler begins: an attempt, as each claim is that was not parked."""
        if delivery.is_parked:
            delivery.is_parked = False
            if delivery.handle in self._writes.next.parked:
                del self._writes.next.parked[delivery.handle]
            else:
                self._writes.next.begun[delivery.handle] = None
                self.notify()

    def ack(self, delivery: QueueDelivery) -> None:
        """It is done."""
        if self._settle(delivery):
            if self._memory is not None and delivery.group is None:  # it has let go of it
                self._settled_in_memory()
                return
            self._writes.next.acked.append(delivery.handle)
            self._group_advances(delivery)
            self.notify()

    def nack(self, delivery: QueueDelivery, delay: float) -> None:
        """It failed: hand it out again after `delay` seconds, behind all that waits then."""
        if self._settle(delivery):
            due_at = anyio.current_time() + delay
            self._writes.next.nacked.append((delivery.handle, due_at, delivery.attempt))
            self.notify()

    def dead_letter(self, delivery: QueueDelivery, why: str) -> None:
        """It failed for good."""
        if self._settle(delivery):
            self._writes.next.dead.append((delivery.handle, why, delivery.attempt))
            self._group_advances(delivery)
            self.notify()

    def _group_advances(self, delivery: QueueDelivery) -> None:
        if delivery.group is not None:
            self._writes.next.groups.add(delivery.group)

    def release(self, delivery: QueueDelivery, delay: float = 0.0) -> None:
        """It was not begun: let it be claimed again, here or elsewhere, as if it had not been."""
        if self._settle(delivery):
            due_at = anyio.current_time() + delay if delay else 0.0
            self._writes.next.released.append((delivery.handle, due_at))
            self.notify()

    def _settle(self, delivery: QueueDelivery) -> bool:
        """Whether it was still to be settled."""
        if self._writes.is_closed:
            raise EventBusClosed("the event bus is closed: the delivery is handed out again when it is opened next")
        return self._let_go(delivery)

    def _let_go(self, delivery: QueueDelivery) -> bool:
        if self._held.get(delivery.handle) is not delivery:
            return False  # settled before, or another process's by now
        del self._held[delivery.handle]
        self._forget_suspect(delivery)
        self.begin(delivery)
        return True

    def _forget_suspect(self, delivery: QueueDelivery) -> None:
        """It has ended; the next one begins."""
        if delivery.is_suspect and (following := self._suspects.remove(delivery)) is not None:
            self._begin_suspect(following)
