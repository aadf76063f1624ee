"""The engine of every bus, over the store that each brings along: what drain, close, retry and dead letter mean.

A `QueueSession` is one opening of a `QueueBus`. Everything that is published (`publisher.py`), and every end of a
delivery (`claims.py`), joins the next batch (`writes.py`); one task flushes batch after batch, so that many callers
share a commit or a round trip. The same flush claims as many messages as consumers wait for: what waits stays in the
store.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import ConfigurationError, EventBusClosed, StorageError

from .base import DEDUPE_TTL, DeadLetter, Delivery, EventBus, Submission
from .batch import Applied, Claim, Publication, WriteBatch, decode_data, encode_data
from .claims import MAX_DELIVERIES, Claims, QueueDelivery
from .dedupe import digest
from .publisher import Publisher
from .store import Store
from .writes import RETRY_PAUSE, Writes

DEFAULT_BUFFER = 10_000
"""Messages: see `buffer` of each bus."""

CLOSE_TIMEOUT = 5.0
"""Seconds in which the last flushes begin when a bus is closed."""

CLOSE_PAUSE = 0.005
"""Seconds between two looks for what a shared store sends while it is being closed."""

DRAIN_SHARE = 0.5
"""Of the time that a drain has: the part in which what waits is still handed out."""

DRAIN_PAUSE = 0.05
"""Seconds between two looks at what a shared store still holds of ours."""

UNKNOWN_TTL = 24 * 3600.0
"""Seconds for which a message waits for a process that has a handler for it, before it is a dead letter."""


class QueueSession:
    """One opening of a bus, on one event loop; listens to its flushes (`FlushListener`).

    Args:
        store: Keeps the messages.
        buffer: How many messages may wait to be written; where the store is memory, how many may wait there.
        timeout: Seconds for which publishers wait while the store fails, if it keeps trying.
        max_deliveries: See `MAX_DELIVERIES`.
        waiting: What messages in a full buffer wait for, for the error.
    """

    def __init__(self, store: Store, *, buffer: int, timeout: float, max_deliveries: int, waiting: str) -> None:
        self.store: Store = store
        self.writes: Writes = Writes(store, self, timeout)
        self.claims: Claims = Claims(
            self.writes, max_deliveries=max_deliveries, taken=self._capacity_grew, settled_in_memory=self._progressed
        )
        self.publisher: Publisher = Publisher(self.writes, self.claims, buffer=buffer, waiting=waiting)
        self.left: Sequence[Delivery] = ()
        """Once it is closed: what was accepted and is lost."""
        self._progress: anyio.Event | None = None
        self._claimed = 0
        """Messages, with the last flush."""
        self._closing = anyio.Event()
        self._began = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    async def replay(self, letter_id: str) -> bool:
        """Publish a dead letter anew; False when there is none of that id."""
        self.publisher.check_accepting()
        if not self.store.durable:
            await self.publisher.wait_for_capacity(1)
        if any(letter_id in batch.replayed for batch in self.writes.batches):
            return False
        batch = self.writes.next
        batch.replayed[letter_id] = None
        self.claims.rest(False)
        applied = await self.writes.written(batch)
        return letter_id in applied.replayed

    # --- flush

    def next_claim(self) -> Claim:
        """What the next flush may claim."""
        self.claims.has_more = False
        return self.claims.claim

    def applied(self, batch: WriteBatch, applied: Applied) -> None:
        """A batch was written."""
        self.publisher.written(batch.publications)
        due_before = self.claims.next_due
        self.claims.applied(batch, applied)
        self._claimed = len(applied.claimed)
        if self.claims.next_due != due_before:
            self.writes.wake.set()

    def failed(self, publication: Publication) -> None:
        """A publication was not written and is not tried again."""
        self.publisher.failed(publication)

    def flushed(self) -> None:
        """A flush has come to its end."""
        self.publisher.capacity_grew()
        self._progressed()

    def _capacity_grew(self) -> None:
        self.publisher.capacity_grew()

    async def run(self) -> None:
        """Flush until closed, when all is written or the time for it is over; cancellation does not end it sooner."""
        shared, writes = self.writes.shared, self.writes
        with self._scope:  # shielded, since what was accepted must be written; `close` sets its deadline
            async with anyio.create_task_group() as beside:
                if shared is not None:
                    beside.start_soon(shared.run)
                self._began.set()
                while not self._closing.is_set():
                    await self._until_needed()
                    await checkpoint()  # those who run now join the batch
                    if self._claimed:
                        await self.claims.asked_again(self._claimed)
                    await writes.flush()
                while shared is not None and shared.is_taking and shared.failure is None:
                    await shared.rest()
                    await anyio.sleep(CLOSE_PAUSE)
                while not writes.is_written:
                    await writes.flush()
                with suppress(StorageError):  # another process finds out by itself
                    await self.store.close(self.claims.begun)
                beside.cancel_scope.cancel()
        writes.give_up()

    async def _until_needed(self) -> None:
        writes = self.writes
        if writes.settles_first:
            writes.settles_first = False
        elif writes.failure is not None:
            with anyio.move_on_after(RETRY_PAUSE):
                await self._closing.wait()
        else:
            while not self._is_needed():
                if writes.wake.is_set():
                    writes.wake = anyio.Event()
                with anyio.move_on_after(self.claims.next_due - anyio.current_time()):
                    await writes.wake.wait()

    def _is_needed(self) -> bool:
        claims = self.claims
        return (
            self._closing.is_set()
            or self.writes.is_waiting
            or (claims.has_more and claims.demand > 0)
            or claims.next_due <= anyio.current_time()
        )

    # --- come to rest, and close

    async def drain(self) -> None:
        """See `QueueBus.drain`."""
        memory, claims = self.writes.memory, self.claims
        if memory is not None:
            deadline = anyio.current_effective_deadline()
            while claims.held or claims.ready or self.publisher.waiting or memory.waits_until(deadline):
                await self._next_progress()
            return
        grace = anyio.current_effective_deadline() - anyio.current_time()
        with anyio.move_on_after(grace * DRAIN_SHARE):
            while not await self._is_drained():
                await self._next_progress()
            return
        claims.stop_handing_out()
        while not self._is_at_rest:
            await self._next_progress()

    async def _is_drained(self) -> bool:
        if self.writes.shared is None:
            return self._is_at_rest and await self.store.is_drained()
        is_all_handed_out = await self.store.is_drained()
        if not (is_all_handed_out and self.writes.is_written):
            self.claims.rest(False)
            return False
        self.claims.rest(True)  # what others bring from now on is for them
        return await self.writes.shared.rest() and self._is_at_rest

    @property
    def _is_at_rest(self) -> bool:
        """Whether nothing is held, and all is written that can be."""
        is_gone = self.store.failure is not None and not self.store.keeps_trying
        return not self.claims.held and (self.writes.is_written or is_gone)

    async def _next_progress(self) -> None:
        if self._progress is None:
            self._progress = anyio.Event()
        with anyio.move_on_after(None if self.writes.shared is None else DRAIN_PAUSE):
            await self._progress.wait()

    def _progressed(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def stop(self) -> None:
        """Accept nothing more, and hand nothing out."""
        self.claims.stop_handing_out()
        self.publisher.stop()

    def take_lost(self) -> Iterable[Delivery]:
        """Take out what is lost with this process, and accept nothing more; what is being written is known later."""
        self.stop()
        return self.lost() if self.writes.memory is not None else self._unwritten()

    def lost(self) -> Sequence[Delivery]:
        """What was accepted and could not be written, or waits where it is lost with this opening."""
        gone = [
            QueueDelivery(self.claims, message.handle, message.id, message.name, message.data, message.attempts + 1)
            for message in self.store.take_all()
        ]
        return [*self._unwritten(), *gone]

    def _unwritten(self) -> Sequence[Delivery]:
        lost, self.writes.lost = self.writes.lost, []
        found = [(each, decode_data(each.data) if self.store.durable else each.data) for each in lost]
        return [QueueDelivery(self.claims, None, each.id, each.name, data, 1) for each, data in found]

    def close(self) -> None:
        """Have `run` end."""
        self.stop()
        self.publisher.write_claimed_keys()
        self.writes.is_closed = True
        self._scope.deadline = anyio.current_time() + CLOSE_TIMEOUT
        self._closing.set()
        self.writes.wake.set()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """Works while the context is open."""
        async with self.store.opened(self.claims) as keys:
            self.publisher.remember(keys)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self.run)  # `start`, cancelled, would wait for the end of what is shielded
                    try:
                        await self._began.wait()
                        yield
                    finally:
                        self.close()
            finally:
                self.left = self.lost()  # the store still knows why it failed


class QueueBus(EventBus):
    """What all buses have in common: they differ in the store that an opening of them has.

    Args:
        buffer: See `QueueSession`.
        timeout: See `QueueSession`.
        max_deliveries: See `MAX_DELIVERIES`.
        waiting: See `QueueSession`.
    """

    def __init__(
        self, *, buffer: int, timeout: float = math.inf, max_deliveries: int = MAX_DELIVERIES, waiting: str = "wait"
    ) -> None:
        for name, number in (("buffer", buffer), ("max_deliveries", max_deliveries)):
            if number < 1:
                raise ConfigurationError(f"{name}={number!r}: at least 1")
        self._options: dict[str, Any] = {
            "buffer": buffer,
            "timeout": timeout,
            "max_deliveries": max_deliveries,
            "waiting": waiting,
        }
        self._is_open = False
        self._queue: QueueSession | None = None
        self._lost: list[Delivery] = []

    @abstractmethod
    def new_store(self) -> Store:
        """The store of the next opening.

        Raises:
            StorageError: There is none.
        """

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """The bus works while the context is open; leaving it writes what is left, within a bound.

        Raises:
            ConfigurationError: This bus is open already.
            StorageError: What keeps the work cannot be opened.
        """
        if self._is_open:
            raise ConfigurationError(f"this {type(self).__name__} is open already: one agent that serves, one bus")
        self._is_open, self._lost = True, []
        queue: QueueSession | None = None
        try:
            queue = QueueSession(self.new_store(), **self._options)
            async with queue.opened():
                self._queue = queue
                try:
                    yield
                finally:
                    self._queue = None
        finally:
            self._is_open = False
            self._lost = [] if queue is None else [*queue.left]

    async def publish(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        return await self._opened().publisher.publish_one(Submission(name, data, dedupe_key, dedupe_ttl))

    def publish_nowait(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        publisher = self._opened().publisher
        if dedupe_key is None and publisher.publish_now(name, data):
            return True
        return publisher.publish_nowait([Submission(name, data, dedupe_key, dedupe_ttl)])[0]

    async def publish_many(self, items: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages together: in one transaction, up to 500 of them and 1 MiB; see `PublishesMany`."""
        return await self._opened().publisher.publish(items)

    def submit_nowait(self, submissions: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages at once; see `PublishesMany`."""
        return self._opened().publisher.publish_nowait(submissions)

    async def cancel(self, key: str) -> bool:
        """Withdraw the message that waits for its time under this key; False when none does."""
        return await self._opened().writes.cancelled(key)

    async def claim(self, key: str, ttl: float) -> bool:
        return await self._opened().publisher.claim_key(digest(key), ttl)

    async def release(self, key: str) -> None:
        await self._opened().publisher.release_key(digest(key))

    @property
    def capacity(self) -> float:
        return 0 if self._queue is None else self._queue.publisher.capacity

    @property
    def failure(self) -> Exception | None:
        return None if self._queue is None else self._queue.writes.failure or self._queue.store.failure

    def check(self, name: str, data: Mapping[str, Any]) -> None:
        if self.durable:
            encode_data(name, data)

    @asynccontextmanager
    async def consume(self) -> AsyncGenerator[AsyncIterator[Delivery], None]:
        yield self._opened().claims

    def only_names(self, names: Collection[str]) -> None:
        """Hand out messages of these names alone; see `ClaimsByName`."""
        self._opened().claims.only_names(names)

    def grant_name(self, name: str, count: float) -> None:
        """Hand out so many more of this name; see `ClaimsByName`."""
        self._opened().claims.grant_name(name, count)

    def take_undone(self) -> Iterable[Delivery]:
        """Take out what was accepted and is lost with this process; once the bus is closed: what it could not write."""
        if self._queue is not None:
            return self._queue.take_lost()
        lost, self._lost = self._lost, []
        return lost

    async def drain(self) -> None:
        """Finish what is accepted: in memory all of it, else as far as the caller's deadline allows.

        On a durable bus, half of the time until the deadline is for what waits: then nothing more is handed out, so
        that what is held has the other half to come to its end. What is not handed out, or waits for a later attempt,
        stays in the store; what other processes brought into a shared one is for them.
        """
        await self._opened().drain()

    async def dead_letters(self) -> Sequence[DeadLetter]:
        queue = self._opened()
        await queue.writes.all_written()
        return await queue.store.dead_letters()

    async def replay(self, letter_id: str) -> bool:
        return await self._opened().replay(letter_id)

    def _opened(self) -> QueueSession:
        if self._queue is None:
            raise EventBusClosed("the event bus is not open: it works while the agent serves")
        return self._queue
