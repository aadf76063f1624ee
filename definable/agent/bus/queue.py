"""The queue engine of every bus: batched writes, prefetch, retry, dedupe, leases, drain and close, over one `Store`.

A `QueueSession` is one opening of a bus. Everything that is published, and every end
of a delivery, joins the next `WriteBatch`; one task flushes batch after batch, so that many callers share a commit or a
round trip. The same flush claims as many messages as consumers wait for: what waits stays in the store.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import EventBufferFull, EventBusClosed, StorageError

from .base import Delivery, Submission
from .codec import decode_data, encode_data
from .dedupe import DedupeWindow, digest
from .store import (
    BY_NAME,
    Applied,
    BatchRefused,
    Claim,
    Handle,
    ImmediateStore,
    Message,
    Publication,
    Store,
    WriteBatch,
)

logger: logging.Logger = logging.getLogger(__name__)

DEFAULT_BUFFER = 10_000
"""Messages: see `buffer` of each bus."""

MAX_BATCH_BYTES = 1024 * 1024
"""Of publications in one batch, unless a single one is larger: nothing else is written meanwhile."""

RETRY_PAUSE = 0.5
"""Seconds between two flushes while the store fails."""

CLOSE_TIMEOUT = 5.0
"""Seconds in which the last flushes begin when a bus is closed."""

CLOSE_PAUSE = 0.005
"""Seconds between two looks for what a shared store sends while it is being closed."""

DRAIN_SHARE = 0.5
"""Of the time that a drain has: the part in which what waits is still handed out."""

DRAIN_PAUSE = 0.05
"""Seconds between two looks at what a shared store still holds of ours."""

YIELD_EVERY = 32
"""Deliveries that are handed out before other tasks run."""

MAX_DELIVERIES = 5
"""Claims of one message that nothing came of, as when its handler ends the process; beyond it, it is a dead letter."""

UNKNOWN_TTL = 24 * 3600.0
"""Seconds for which a message waits for a process that has a handler for it, before it is a dead letter."""

SUSPECT = 3
"""From this claim on, messages that nothing came of are handled one at a time: the others were only unlucky."""

SUSPECT_DELAY = 1.0
"""Seconds for which the other ones go back."""


@dataclass(slots=True, eq=False)
class QueueDelivery:
    """One delivery of a message. Settling it returns at once and is written with the next batch."""

    queue: QueueSession
    handle: Handle
    id: str
    name: str
    data: Mapping[str, Any]
    attempt: int
    lease: anyio.CancelScope | None = None
    is_parked: bool = False
    is_suspect: bool = False

    def park(self) -> None:
        self.queue.park(self)

    def begin(self) -> None:
        self.queue.begin(self)

    async def ack(self) -> None:
        self.queue.ack(self)

    async def nack(self, delay: float = 0.0) -> None:
        self.queue.nack(self, delay)

    async def dead(self, why: str) -> None:
        self.queue.dead_letter(self, why)

    async def release(self) -> None:
        self.queue.release(self)


class QueueSession:
    """One opening of a bus, on one event loop.

    Args:
        store: Keeps the messages.
        buffer: How many messages may wait to be written; where the store is memory, how many may wait there.
        timeout: Seconds for which publishers wait while the store fails, if it keeps trying.
        max_deliveries: See `MAX_DELIVERIES`.
        waiting: What messages in a full buffer wait for, for the error.
    """

    def __init__(self, store: Store, *, buffer: int, timeout: float, max_deliveries: int, waiting: str) -> None:
        self.store: Store = store
        self.id: str = os.urandom(8).hex()
        self.accepting: bool = True
        self.failure: Exception | None = None
        """Why the last batch was not written; None when it was."""
        self.lost: list[QueueDelivery] = []
        """What was accepted and could not be written before the session had ended."""
        self._buffer = buffer
        self._timeout = timeout if store.keeps_trying else math.inf
        self._max_deliveries = max_deliveries
        self._waits_for = waiting
        self._memory: ImmediateStore | None = store if isinstance(store, ImmediateStore) else None
        """The store, if nothing of it takes time: what it is asked is done at once."""
        self._keys = DedupeWindow(self._key_evicted)
        self._claimed_keys: dict[str, float] = {}
        """Keys that no publication brought, and when they expire."""
        self._uncertain: dict[str, Publication] = {}
        """Dedupe keys whose publications are not written, and may yet fail."""
        self._numbers = itertools.count(1)
        self._batches: deque[WriteBatch] = deque([WriteBatch()])
        """Settlements join the first, which is flushed next, and publications the last."""
        self._flushing: WriteBatch | None = None
        self._batch_number = 0
        self._unwritten = 0
        """Publications in batches."""
        self._settles_first = False
        """Whether the next batch is without the publications that failed: what it settles may make the room that they
        need."""
        self._publishers: deque[anyio.Event] = deque()
        """Those who wait for capacity."""
        self._held: dict[Handle, QueueDelivery] = {}
        """What is claimed and not settled."""
        self._ready: deque[QueueDelivery] = deque()
        """Of it, what no consumer has."""
        self._suspects = 0
        self._asking = 0
        """Consumers that wait."""
        self._demanded: anyio.Event | None = None
        """What a store waits for that claims by itself."""
        self._next_consumer = anyio.Lock(fast_acquire=True)
        self._arrived: anyio.Event | None = None
        """What the first of them waits for."""
        self._handing_out = True
        self._resting = False
        """Whether a drain leaves to others what they bring."""
        self._has_more = True
        self._next_due: float = math.inf
        self._grants: dict[str, float] = {}
        self._known: Collection[str] | None = None
        self._wake = anyio.Event()
        self._progress: anyio.Event | None = None
        self._closing = anyio.Event()
        self._closed = False
        self._began = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    # --- publish

    @property
    def capacity(self) -> int:
        """How many publications would be accepted now; a consumer that waits in memory adds to it, unless it is 0."""
        if self.store.durable:
            return max(self._buffer - self._unwritten, 0)
        handed_out = min(self._asking, len(self._ready))
        capacity = self._buffer - self._unwritten - self.store.waiting - len(self._ready) + handed_out
        return capacity + self._asking - handed_out if capacity > 0 else 0

    async def publish(self, items: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages, together if one batch holds them; returns which of them were no repeats.

        Raises:
            StorageError: They were not accepted, as far as is known.
        """
        publications = [self._publication(item, is_awaited=True) for item in items]
        with anyio.move_on_after(self._timeout):
            await self._wait_for_keys(publications)
            try:
                self._enqueue(publications)
                for publication in publications:
                    while publication.outcome is None:
                        assert publication.batch is not None
                        await publication.batch.done.wait()
            finally:
                self._withdraw(publications)
        for publication in publications:
            self._check_outcome(publication)
        return [publication.outcome is True for publication in publications]

    async def publish_one(self, submission: Submission) -> bool:
        """As `publish`, at less cost where nothing need be waited for before it can be written."""
        if submission.dedupe_key is not None or self._publishers or self.capacity < 1:
            return (await self.publish([submission]))[0]
        if self._memory is not None:
            await checkpoint()
            if self.publish_now(submission.name, submission.data):
                return True
            return (await self.publish([submission]))[0]
        publication = self._publication(submission, is_awaited=True)
        self._append([publication])
        if self._timeout < math.inf:
            with anyio.move_on_after(self._timeout):
                await self._written_down(publication)
        else:
            await self._written_down(publication)
        self._check_outcome(publication)
        return publication.outcome is True

    async def _written_down(self, publication: Publication) -> None:
        try:
            while publication.outcome is None:
                assert publication.batch is not None
                await publication.batch.done.wait()
        finally:
            if publication.outcome is None:
                self._withdraw([publication])

    def publish_nowait(self, items: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages at once.

        Raises:
            EventBufferFull: There is no capacity; none was accepted.
        """
        if self.capacity < len(items):
            raise EventBufferFull(
                f"the event buffer is full ({self._buffer} {self._waits_for}{self.store.describe_waiting()}): try "
                "later, wait with `await agent.aemit(...)`, or raise event_buffer or the bus's buffer="
            )
        publications = [self._publication(item, is_awaited=False) for item in items]
        accepted: list[bool] = []
        for publication, item in zip(publications, items, strict=True):
            key = publication.key
            accepted.append(key is None or self._keys.claim(key, item.dedupe_ttl, anyio.current_time()))
            if key is not None and not self.store.shared and accepted[-1]:
                self._uncertain[key] = publication
        self._append([publication for publication, is_new in zip(publications, accepted, strict=True) if is_new])
        return accepted

    def publish_now(self, name: str, data: Mapping[str, Any]) -> bool:
        """Accept one message into memory at once; False when that is not possible, or it is not memory."""
        memory = self._memory
        if (
            memory is None
            or not self.accepting
            or (memory.waiting + len(self._ready) >= self._buffer and self.capacity < 1)
        ):
            return False
        memory.append_now(f"{self.id}-{next(self._numbers):x}", name, data)
        self._has_more = True
        if self._asking > len(self._ready):
            self._claim_now(self._asking - len(self._ready))
        return True

    def _publication(self, item: Submission, *, is_awaited: bool) -> Publication:
        self._check_accepting()
        data = encode_data(item.name, item.data) if self.store.durable else item.data
        return Publication(
            f"{self.id}-{next(self._numbers):x}",
            item.name,
            data,
            None if item.dedupe_key is None else digest(item.dedupe_key),
            item.dedupe_ttl,
            anyio.current_time() + item.delay if item.delay > 0 else 0.0,
            item.key,
            is_awaited,
        )

    def _check_accepting(self) -> None:
        if not self.accepting:
            raise EventBusClosed("the event bus is closing: nothing was accepted")

    async def _wait_for_keys(self, publications: Sequence[Publication]) -> None:
        """Wait for capacity, and until it is known what became of publications that have the same keys."""
        await checkpoint()
        wanted = len(publications)
        while True:
            await self._wait_for_capacity(wanted)
            uncertain = [self._uncertain[each.key] for each in publications if each.key in self._uncertain]
            if not uncertain:
                return
            batch = uncertain[0].batch
            assert batch is not None
            await batch.done.wait()

    async def _wait_for_capacity(self, wanted: int) -> None:
        while self.capacity < min(wanted, self._buffer):
            turn = anyio.Event()
            self._publishers.append(turn)
            try:
                await turn.wait()
            finally:
                if turn in self._publishers:
                    self._publishers.remove(turn)
            if not self.accepting:
                raise EventBusClosed("the event bus was closed while the event waited for room")

    def _capacity_grew(self) -> None:
        capacity = self.capacity
        while self._publishers and capacity > 0:
            capacity -= 1
            self._publishers.popleft().set()

    def _enqueue(self, publications: Sequence[Publication]) -> None:
        """Add them to a batch; where this process decides, those whose keys are taken are no more than repeats."""
        new: list[Publication] = []
        for each in publications:
            if each.key is not None and not self.store.shared:
                if not self._keys.claim(each.key, each.key_ttl, anyio.current_time()):
                    each.outcome = False
                    continue
                self._uncertain[each.key] = each
            new.append(each)
        self._append(new)
        self._capacity_grew()

    def _append(self, publications: Sequence[Publication]) -> None:
        """Add them to the last batch, or to new ones where it would be too large."""
        count, limit = len(publications), self.store.max_publications
        size = sum(len(each.data) for each in publications) if self.store.durable else 0
        batch = self._batches[-1]
        if batch.publications and (len(batch.publications) + count > limit or batch.size + size > MAX_BATCH_BYTES):
            batch = self._new_batch()
        fits_one = count <= limit and size <= MAX_BATCH_BYTES
        for each in publications:
            length = len(each.data) if self.store.durable else 0
            if (
                not fits_one
                and batch.publications
                and (len(batch.publications) >= limit or batch.size + length > MAX_BATCH_BYTES)
            ):
                batch = self._new_batch()
            each.batch = batch
            batch.publications.append(each)
            batch.size += length
        self._unwritten += count
        self._rest(False)
        self.notify()

    def _new_batch(self) -> WriteBatch:
        batch = WriteBatch()
        self._batches.append(batch)
        return batch

    def _withdraw(self, publications: Sequence[Publication]) -> None:
        """Do not write what its publisher does not wait for any more; a transaction under way cannot be changed."""
        for each in publications:
            batch = each.batch
            if each.outcome is not None or batch is None or (batch is self._flushing and not self.store.keeps_trying):
                continue
            if each in batch.publications:
                batch.publications.remove(each)
                self._unwritten -= 1
                self._forget_failed(each)
        self._capacity_grew()

    def _forget_failed(self, publication: Publication) -> None:
        if publication.key is not None and self._uncertain.pop(publication.key, None) is not None:
            self._keys.release(publication.key)

    def _check_outcome(self, publication: Publication) -> None:
        if isinstance(publication.outcome, bool):
            return
        if publication.outcome is not None:
            raise StorageError(str(publication.outcome)) from publication.outcome
        was_sent = publication.batch is not None and publication.batch.number > 0
        outcome = "whether the event was accepted is not known" if was_sent else "the event was not accepted"
        reason = self.failure or self.store.failure or f"{self.store!r} did not answer within {self._timeout:g} s"
        raise StorageError(f"{reason}: {outcome}")

    # --- keys, dead letters, messages that wait for their time

    async def claim_key(self, key: str, ttl: float) -> bool:
        """Remember a key for which nothing is published; False when it is remembered."""
        if self.store.shared:
            return await self.store.claim_key(key, ttl)
        while not self._keys.claim(key, ttl, anyio.current_time()):
            publication = self._uncertain.get(key)
            if publication is None:
                await checkpoint()
                return False
            await self.flushed()
        self._claimed_keys[key] = anyio.current_time() + ttl
        return True

    async def release_key(self, key: str) -> None:
        """Forget a key."""
        self._keys.release(key)
        if self.store.shared:
            await self.store.release_key(key)
        elif self._claimed_keys.pop(key, None) is None:
            self._key_evicted(key)

    def _key_evicted(self, key: str) -> None:
        if self._claimed_keys.pop(key, None) is not None or self.store.shared or not self.store.durable:
            return
        for batch in self._batches:
            for publication in batch.publications:
                if publication.key == key:
                    publication.key = None
        self._batches[0].forgotten.add(key)
        self.notify()

    async def replay(self, letter_id: str) -> bool:
        """Publish a dead letter anew; False when there is none of that id."""
        self._check_accepting()
        if not self.store.durable:
            await self._wait_for_capacity(1)
        if any(letter_id in batch.replayed for batch in self._batches):
            return False
        batch = self._batches[0]
        batch.replayed[letter_id] = None
        self._rest(False)
        applied = await self._written(batch)
        return letter_id in applied.replayed

    async def cancel(self, key: str) -> bool:
        """Remove the message that waits for its time under this key; False when there is none."""
        batch = self._batches[-1]
        if batch.publications:
            batch = self._new_batch()
        batch.cancelled[key] = None
        return key in (await self._written(batch)).cancelled

    async def flushed(self) -> None:
        """Return once everything that was accepted or settled before is written.

        Raises:
            StorageError: It could not be written.
        """
        batch = self._batches[-1]
        batch.is_barrier = True
        await self._written(batch)

    async def _written(self, batch: WriteBatch) -> Applied:
        batch.applied = None
        self.notify()
        with anyio.move_on_after(self._timeout):
            while batch.applied is None:
                await batch.done.wait()
                if batch.moved_to is not None and self.store.keeps_trying:
                    batch = batch.moved_to
                elif batch.failure is not None:
                    raise StorageError(str(batch.failure)) from batch.failure
            return batch.applied
        raise StorageError(str(self.failure or self.store.failure or f"{self.store!r} did not answer in time"))

    # --- hand out

    def __aiter__(self) -> QueueSession:
        return self

    async def __anext__(self) -> Delivery:
        self._count = (self._count + 1) % YIELD_EVERY
        if not self._count:
            await checkpoint()
        if self._ready or (self._memory is not None and self._has_more and self._claim_now(YIELD_EVERY - self._count)):
            return self._next_ready()
        self._asking += 1
        self._demand_changed()
        try:
            if self._has_more:
                self.notify()
            async with self._next_consumer:
                while not self._ready:
                    arrived = self._arrived = anyio.Event()
                    if self._has_more:
                        self.notify()
                    if not self._ready:
                        await arrived.wait()
        finally:
            self._asking -= 1
        return self._next_ready()

    def _next_ready(self) -> QueueDelivery:
        delivery = self._ready.popleft()
        if self._publishers and self._memory is not None:
            self._capacity_grew()
        return delivery

    _count = 0

    def _claim_now(self, count: int) -> bool:
        """Claim out of memory; whether something came of it."""
        assert self._memory is not None
        if not self._handing_out:
            return False
        messages = self._memory.claim_now(Claim(count, self._grants, self._known))
        self._has_more = len(messages) == count
        if messages:
            self.arrived(messages)
        return bool(messages)

    def only_names(self, names: Collection[str]) -> None:
        """Claim messages of these names alone."""
        self._known = frozenset(names)

    def grant_name(self, name: str, count: float) -> None:
        """Claim so many more of this name; from the first call on none without."""
        self._grants[name] = self._grants.get(name, 0) + count
        self._has_more = True
        self.notify()

    @property
    def demand(self) -> int:
        """How many messages consumers wait for beyond those that are claimed."""
        return max(self._asking - len(self._ready), 0) if self._handing_out and not self._resting else 0

    @property
    def claim(self) -> Claim:
        """What may be claimed now."""
        return Claim(self.demand, self._grants, self._known)

    async def demanded(self) -> bool:
        """Return once there is a demand; False when nothing more will be handed out."""
        while self._handing_out and not self.demand:
            self._demanded = anyio.Event()
            await self._demanded.wait()
        return self._handing_out

    def _demand_changed(self) -> None:
        if self._demanded is not None:
            self._demanded.set()
            self._demanded = None

    def dismiss(self, handle: Handle, *, by_name: bool) -> None:
        """What was claimed is not handed out."""
        if by_name:
            self._batches[0].released.append((handle, BY_NAME))
        else:
            self._batches[0].acked.append(handle)
        self.notify()

    def request_flush(self) -> None:
        """Have a flush made although nothing is to be written."""
        self._batches[0].is_barrier = True
        self.notify()

    def arrived(self, messages: Sequence[Message], *, next_due: float | None = None, has_more: bool = False) -> None:
        """These were claimed."""
        if next_due is not None and next_due != self._next_due:
            self._next_due = next_due
            self._wake.set()
        if has_more and self.demand > len(messages):
            self._has_more = True
            self._wake.set()
        grants, is_shared = self._grants, self.store.shared
        for handle, id, name, data, attempts, claims in messages:
            if name in grants:
                grants[name] -= 1
            lease = anyio.CancelScope() if is_shared else None
            delivery = QueueDelivery(self, handle, id, name, data, attempts + 1, lease)
            self._held[handle] = delivery
            if claims < SUSPECT or self._is_handed_out(delivery, claims):
                self._ready.append(delivery)
        if self._ready and self._arrived is not None:
            self._arrived.set()
            self._arrived = None
        if not self._handing_out:
            self._release_ready()

    def _is_handed_out(self, delivery: QueueDelivery, claims: int) -> bool:
        """Whether a message that was claimed again and again, and of which nothing came, is tried once more."""
        if self._closed:
            return True
        if claims > self._max_deliveries:
            why = f"nothing came of {claims - 1} deliveries: each time the process ended (max_deliveries)"
            logger.error("delivery %s (%s) is a dead letter: %s", delivery.id, delivery.name, why)
            delivery.attempt -= 1
            self.dead_letter(delivery, why)
        elif self._suspects:
            self.release(delivery, SUSPECT_DELAY)
        else:
            delivery.is_suspect = True
            self._suspects += 1
            return True
        return False

    def lease_lost(self, handle: Handle) -> None:
        """Another process has this message by now: cancel who works on it."""
        delivery = self._held.pop(handle, None)
        if delivery is None:
            return
        if delivery in self._ready:
            self._ready.remove(delivery)
        self._suspects -= delivery.is_suspect
        logger.warning("the lease of delivery %s (%s) is lost: another process has it now", delivery.id, delivery.name)
        if delivery.lease is not None:
            delivery.lease.cancel()

    @property
    def held(self) -> Collection[Handle]:
        """What is claimed and not settled."""
        return self._held.keys()

    # --- settle

    def park(self, delivery: QueueDelivery) -> None:
        """It is claimed and cannot be begun yet."""
        if not delivery.is_parked and self._held.get(delivery.handle) is delivery and self.store.durable:
            delivery.is_parked = True
            self._batches[0].parked[delivery.handle] = None
            self.notify()

    def begin(self, delivery: QueueDelivery) -> None:
        """Its handler begins: an attempt, as each claim is that was not parked."""
        if delivery.is_parked:
            delivery.is_parked = False
            if delivery.handle in self._batches[0].parked:
                del self._batches[0].parked[delivery.handle]
            else:
                self._batches[0].begun[delivery.handle] = None
                self.notify()

    def ack(self, delivery: QueueDelivery) -> None:
        """It is done."""
        if self._settle(delivery):
            if self._memory is not None:  # which has let go of it
                self._progressed()
                return
            self._batches[0].acked.append(delivery.handle)
            self.notify()

    def nack(self, delivery: QueueDelivery, delay: float) -> None:
        """It failed: hand it out again after `delay` seconds, behind all that waits then."""
        if self._settle(delivery):
            due_at = anyio.current_time() + delay
            self._batches[0].nacked.append((delivery.handle, due_at, delivery.attempt))
            self.notify()

    def dead_letter(self, delivery: QueueDelivery, why: str) -> None:
        """It failed for good."""
        if self._settle(delivery):
            self._batches[0].dead.append((delivery.handle, why, delivery.attempt))
            self.notify()

    def release(self, delivery: QueueDelivery, delay: float = 0.0) -> None:
        """It was not begun: let it be claimed again, here or elsewhere, as if it had not been."""
        if self._settle(delivery):
            due_at = anyio.current_time() + delay if delay else 0.0
            self._batches[0].released.append((delivery.handle, due_at))
            self.notify()

    def _settle(self, delivery: QueueDelivery) -> bool:
        """Whether it was still to be settled."""
        if self._closed:
            raise EventBusClosed("the event bus is closed: the delivery is handed out again when it is opened next")
        return self._let_go(delivery)

    def _let_go(self, delivery: QueueDelivery) -> bool:
        if self._held.get(delivery.handle) is not delivery:
            return False  # settled before, or another process's by now
        del self._held[delivery.handle]
        self._suspects -= delivery.is_suspect
        self.begin(delivery)
        return True

    # --- flush

    def notify(self) -> None:
        """There may be something to flush or to claim."""
        if self._memory is None:
            self._wake.set()
            return
        batch, due_before = self._batches[0], self._next_due
        self._has_more = False
        applied = self._memory.apply_now(batch, self.claim)
        self._unwritten -= len(batch.publications)
        self._applied(batch, applied)
        batch.clear()
        if self._publishers:
            self._capacity_grew()
        if self._next_due != due_before:
            self._wake.set()
        self._progressed()

    async def run(self) -> None:
        """Flush until closed, when all is written or the time for it is over; cancellation does not end it sooner."""
        with self._scope:  # shielded, since what was accepted must be written; `close` sets its deadline
            async with anyio.create_task_group() as beside:
                beside.start_soon(self.store.run)
                self._began.set()
                while not self._closing.is_set():
                    await self._until_needed()
                    await checkpoint()  # those who run now join the batch
                    await self._flush()
                while self.store.is_taking and self.store.failure is None:
                    await self.store.rest()
                    await anyio.sleep(CLOSE_PAUSE)
                while any(not batch.is_empty for batch in self._batches):
                    await self._flush()
                with suppress(StorageError):  # another process finds out by itself
                    await self.store.close([each.handle for each in self._held.values() if not each.is_parked])
                beside.cancel_scope.cancel()
        self._count_lost()

    async def _until_needed(self) -> None:
        if self._settles_first:
            self._settles_first = False
        elif self.failure is not None:
            with anyio.move_on_after(RETRY_PAUSE):
                await self._closing.wait()
        else:
            await self._notified()

    async def _notified(self) -> None:
        while not self._is_needed():
            if self._wake.is_set():
                self._wake = anyio.Event()
            with anyio.move_on_after(self._next_due - anyio.current_time()):
                await self._wake.wait()

    def _is_needed(self) -> bool:
        return (
            self._closing.is_set()
            or not self._batches[0].is_empty
            or len(self._batches) > 1
            or (self._has_more and self.demand > 0)
            or self._next_due <= anyio.current_time()
        )

    async def _flush(self) -> None:
        batch = self._flushing = self._batches.popleft()
        if not self._batches:
            self._new_batch()
        self._batch_number += 1
        batch.number = self._batch_number
        self._has_more = False
        try:
            applied = await self.store.apply(batch, self.claim)
        except Exception as error:  # a store that fails must not take the service along
            self._flushing = None
            self._failed(batch, error if isinstance(error, StorageError) else StorageError(repr(error)))
            if self._closing.is_set():
                await anyio.sleep(RETRY_PAUSE / 5)
        else:
            self._flushing = None
            self._unwritten -= len(batch.publications)
            self._applied(batch, applied)
            if self.failure is not None and (batch.publications or not self._unwritten):
                logger.warning("%r: events are written again", self.store)
                self.failure = None
        batch.done.set()
        self._capacity_grew()
        self._progressed()

    def _applied(self, batch: WriteBatch, applied: Applied) -> None:
        batch.applied = applied
        for publication in batch.publications:
            publication.outcome = publication.id not in applied.repeated
            if publication.key is not None:
                self._uncertain.pop(publication.key, None)
                if self.store.shared:
                    self._keys.claim(publication.key, publication.key_ttl, anyio.current_time())
        self._has_more = self._has_more or applied.has_more
        self._next_due = math.inf if applied.next_due is None else applied.next_due
        if applied.claimed:
            self.arrived(applied.claimed)

    def _failed(self, batch: WriteBatch, error: StorageError) -> None:
        """Nothing of it was written: tell those who are told at once, and keep the rest for the next flushes."""
        batch.failure = error
        if isinstance(error, BatchRefused) and batch.publications:
            parts = self._split(batch, error)
        else:
            if self.failure is None:
                logger.error("events cannot be written, next try every %g s: %s", RETRY_PAUSE, error)
            self.failure = error
            parts = [self._kept(batch, error)]
        rest = WriteBatch()
        rest.take_settlements(batch)
        if not self.store.keeps_trying:
            rest.is_barrier = False
            rest.replayed, rest.cancelled = {}, {}
        if not rest.is_empty and any(part.publications for part in parts):
            self._settles_first = True
            parts.insert(0, rest)
        elif not rest.is_empty:
            parts = [rest]
        batch.moved_to = rest if rest in parts else None
        self._batches.extendleft(reversed([part for part in parts if not part.is_empty]))

    def _kept(self, batch: WriteBatch, error: StorageError) -> WriteBatch:
        """A batch of the publications that are tried again."""
        kept = WriteBatch()
        for publication in batch.publications:
            if publication.is_awaited and not self.store.keeps_trying:
                self._fail(publication, error)
            else:
                self._move(publication, kept)
        return kept

    def _split(self, batch: WriteBatch, error: BatchRefused) -> list[WriteBatch]:
        """Two batches of half the publications; the one that caused it fails once it is alone."""
        if len(batch.publications) == 1:
            [publication] = batch.publications
            self._fail(publication, error)
            size = len(publication.data)
            logger.error("an event for %s (%d bytes) was not accepted: %s", publication.name, size, error)
            if not publication.is_awaited:
                self.lost.append(self._undelivered(publication))
            return []
        half = len(batch.publications) // 2
        parts = [WriteBatch(), WriteBatch()]
        for number, publication in enumerate(batch.publications):
            self._move(publication, parts[number >= half])
        return parts

    def _move(self, publication: Publication, batch: WriteBatch) -> None:
        publication.batch = batch
        batch.publications.append(publication)
        batch.size += len(publication.data)

    def _fail(self, publication: Publication, error: Exception) -> None:
        publication.outcome = error
        self._unwritten -= 1
        self._forget_failed(publication)

    # --- come to rest, and close

    async def drain(self) -> None:
        """See `QueueBus.drain`."""
        if self._memory is not None:
            deadline = anyio.current_effective_deadline()
            while self._held or self._ready or self._publishers or self._memory.waits_until(deadline):
                await self._next_progress()
            return
        grace = anyio.current_effective_deadline() - anyio.current_time()
        with anyio.move_on_after(grace * DRAIN_SHARE):
            while not await self._is_drained():
                await self._next_progress()
            return
        self.stop_handing_out()
        while not self._is_at_rest:
            await self._next_progress()

    async def _is_drained(self) -> bool:
        if not self.store.shared:
            return self._is_at_rest and await self.store.is_drained()
        is_all_handed_out = await self.store.is_drained()
        if not (is_all_handed_out and self._is_written):
            self._rest(False)
            return False
        self._rest(True)  # what others bring from now on is for them
        return await self.store.rest() and self._is_at_rest

    def _rest(self, resting: bool) -> None:
        if resting is not self._resting:
            self._resting = resting
            self._demand_changed()

    @property
    def _is_written(self) -> bool:
        return self._flushing is None and all(batch.is_empty for batch in self._batches)

    @property
    def _is_at_rest(self) -> bool:
        """Whether nothing is held, and all is written that can be."""
        is_gone = self.store.failure is not None and not self.store.keeps_trying
        return not self._held and (self._is_written or is_gone)

    async def _next_progress(self) -> None:
        if self._progress is None:
            self._progress = anyio.Event()
        with anyio.move_on_after(DRAIN_PAUSE if self.store.shared else None):
            await self._progress.wait()

    def _progressed(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def stop_handing_out(self) -> None:
        """Hand out nothing more; what is claimed and no consumer has goes back."""
        self._handing_out = False
        self._demand_changed()
        self._release_ready()

    def _release_ready(self) -> None:
        ready, self._ready = [*self._ready], deque()
        for delivery in ready:
            if self._let_go(delivery):  # also while the last batches are written
                self._batches[0].released.append((delivery.handle, 0.0))
        self.notify()

    def stop(self) -> None:
        """Accept nothing more, and hand nothing out."""
        self.accepting = False
        self.stop_handing_out()
        while self._publishers:
            self._publishers.popleft().set()

    def take_lost(self) -> Iterable[Delivery]:
        """Take out what is lost with this process, and accept nothing more; what is being written is known later."""
        self.stop()
        lost, self.lost = self.lost, []
        if not self.store.durable:
            for handle, id, name, data, attempts, _ in self.store.take_all():
                lost.append(QueueDelivery(self, handle, id, name, data, attempts + 1))
        return lost

    def close(self) -> None:
        """Have `run` end."""
        self.stop()
        if not self.store.shared and self.store.durable:
            self._batches[0].keys |= self._claimed_keys
        self._closed = True
        self._scope.deadline = anyio.current_time() + CLOSE_TIMEOUT
        self._closing.set()
        self._wake.set()

    def _count_lost(self) -> None:
        """Say what could not be written, and tell those who wait for it."""
        left = [*([] if self._flushing is None else [self._flushing]), *self._batches]
        error = self.failure or StorageError(f"{self.store!r} was closed before all was written")
        settlements = sum(batch.settlements for batch in left)
        lost: list[QueueDelivery] = []
        for batch in left:
            for publication in batch.publications:
                publication.outcome = error
                if not publication.is_awaited:
                    lost.append(self._undelivered(publication))
            batch.failure, batch.moved_to = error, None
            batch.done.set()
        if lost or settlements:
            logger.error(
                "%r was closed before all was written: %d events are lost, %d deliveries will be repeated",
                self.store,
                len(lost),
                settlements,
            )
        self.lost += lost
        for message in self.store.take_all():
            self.lost.append(QueueDelivery(self, message.handle, message.id, message.name, message.data, 1))

    def _undelivered(self, publication: Publication) -> QueueDelivery:
        data = decode_data(publication.data) if self.store.durable else publication.data
        return QueueDelivery(self, None, publication.id, publication.name, data, 1)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """Works while the context is open."""
        async with self.store.opened(self) as keys, anyio.create_task_group() as group:
            now = anyio.current_time()
            for key, ttl in keys:
                self._keys.claim(key, ttl, now)
            group.start_soon(self.run)  # `start`, cancelled, would wait for the end of what is shielded
            try:
                await self._began.wait()
                yield
            finally:
                self.close()
