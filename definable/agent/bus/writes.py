"""What an engine writes: one batch after the other, each with everything that came since the last flush.

Publications join the last batch, settlements the first. What a store refuses is split until what causes it stands
alone; what fails is kept for the next flush, or its publisher is told, as the store wants it.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import anyio

from definable.concurrency.logs import logger_named
from definable.errors import StorageError

from .batch import Applied, BatchRefused, Claim, Handle, Publication, WriteBatch
from .store import ImmediateStore, SharedStore, Store

logger: logging.Logger = logger_named(__name__)

MAX_BATCH_BYTES = 1024 * 1024
"""Of publications in one batch, unless a single one is larger: nothing else is written meanwhile."""

RETRY_PAUSE = 0.5
"""Seconds between two flushes while the store fails."""


class FlushListener(Protocol):
    """Whoever claims with each flush, and learns what came of it."""

    def next_claim(self) -> Claim:
        """What the next flush may claim."""
        ...

    def applied(self, batch: WriteBatch, applied: Applied) -> None:
        """A batch was written."""
        ...

    def failed(self, publication: Publication) -> None:
        """A publication was not written and is not tried again."""
        ...

    def flushed(self) -> None:
        """A flush has come to its end."""
        ...


class Writes:
    """The batches of one opening.

    Args:
        store: Keeps the messages.
        listener: See `FlushListener`.
        timeout: Seconds for which a caller waits while a store fails that keeps trying.
    """

    def __init__(self, store: Store, listener: FlushListener, timeout: float) -> None:
        self.store: Store = store
        self.memory: ImmediateStore | None = store if isinstance(store, ImmediateStore) else None
        """The store, if nothing of it takes time: what it is asked is done at once."""
        self.shared: SharedStore | None = store if isinstance(store, SharedStore) else None
        """The store, if other processes claim from it."""
        self.timeout: float = timeout if store.keeps_trying else math.inf
        self.failure: Exception | None = None
        """Why the last batch was not written; None when it was."""
        self.unwritten: int = 0
        """Publications in batches."""
        self.lost: list[Publication] = []
        """What was accepted and could not be written."""
        self.is_closed: bool = False
        self.settles_first: bool = False
        """Whether the next batch is without the publications that failed: what it settles may free the capacity that
        they need."""
        self.wake: anyio.Event = anyio.Event()
        """Set when there may be something to flush."""
        self._listener = listener
        self._batches: deque[WriteBatch] = deque([WriteBatch()])
        self._flushing: WriteBatch | None = None
        self._number = 0

    @property
    def next(self) -> WriteBatch:
        """The batch that is flushed next."""
        return self._batches[0]

    @property
    def batches(self) -> Sequence[WriteBatch]:
        """Those that are not being flushed."""
        return self._batches

    @property
    def unwritten_settlements(self) -> Iterator[Handle]:
        """What was settled without that being written yet."""
        for batch in (*self._batches, *([] if self._flushing is None else [self._flushing])):
            yield from batch.ended

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to flush."""
        return len(self._batches) > 1 or not self._batches[0].is_empty

    @property
    def is_written(self) -> bool:
        """Whether nothing is left to flush, or being flushed."""
        return self._flushing is None and all(batch.is_empty for batch in self._batches)

    def append(self, publications: Sequence[Publication]) -> None:
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
        self.unwritten += count

    def withdraw(self, publication: Publication) -> None:
        """Do not write what its publisher does not wait for any more; a transaction under way cannot be changed."""
        batch = publication.batch
        if publication.outcome is not None or batch is None:
            return
        if batch is self._flushing and not self.store.keeps_trying:
            return
        if publication in batch.publications:
            batch.publications.remove(publication)
            self.unwritten -= 1
            self._listener.failed(publication)

    def _new_batch(self) -> WriteBatch:
        batch = WriteBatch()
        self._batches.append(batch)
        return batch

    async def cancelled(self, key: str) -> bool:
        """Have the message removed that waits for its time under this key; False when there is none."""
        batch = self._batches[-1]
        if batch.publications:
            batch = self._new_batch()
        batch.cancelled[key] = None
        return key in (await self.written(batch)).cancelled

    async def all_written(self) -> None:
        """Return once everything that was accepted or settled before is written.

        Raises:
            StorageError: It could not be written.
        """
        batch = self._batches[-1]
        batch.is_barrier = True
        await self.written(batch)

    async def written(self, batch: WriteBatch) -> Applied:
        """What came of a batch, once it is written.

        Raises:
            StorageError: It could not be written.
        """
        batch.applied = None
        self.notify()
        with anyio.move_on_after(self.timeout):
            while batch.applied is None:
                await batch.done.wait()
                if batch.moved_to is not None and self.store.keeps_trying:
                    batch = batch.moved_to
                elif batch.failure is not None:
                    raise StorageError(str(batch.failure)) from batch.failure
            return batch.applied
        raise StorageError(str(self.failure or self.store.failure or f"{self.store!r} did not answer in time"))

    # --- flush

    def notify(self) -> None:
        """There may be something to flush or to claim."""
        if self.memory is None:
            self.wake.set()
            return
        batch = self._batches[0]
        applied = self.memory.apply_now(batch, self._listener.next_claim())
        self.unwritten -= len(batch.publications)
        self._applied(batch, applied)
        batch.clear()
        self._listener.flushed()

    async def flush(self) -> None:
        """Write the next batch, and claim with it."""
        batch = self._flushing = self._batches.popleft()
        if not self._batches:
            self._new_batch()
        self._number += 1
        batch.number = self._number
        try:
            applied = await self.store.apply(batch, self._listener.next_claim())
        except Exception as error:  # a store that fails must not take the service along
            self._flushing = None
            self._failed(batch, error if isinstance(error, StorageError) else StorageError(repr(error)))
            if self.is_closed:
                await anyio.sleep(RETRY_PAUSE / 5)
        else:
            self._flushing = None
            self.unwritten -= len(batch.publications)
            self._applied(batch, applied)
            if self.failure is not None and (batch.publications or not self.unwritten):
                logger.warning("%r: events are written again", self.store)
                self.failure = None
        batch.done.set()
        self._listener.flushed()

    def _applied(self, batch: WriteBatch, applied: Applied) -> None:
        batch.applied = applied
        for publication in batch.publications:
            publication.outcome = publication.id not in applied.repeated
        self._listener.applied(batch, applied)

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
            self.settles_first = True
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
                _move(publication, kept)
        return kept

    def _split(self, batch: WriteBatch, error: BatchRefused) -> list[WriteBatch]:
        """Two batches of half the publications; the one that caused it fails once it is alone."""
        if len(batch.publications) == 1:
            [publication] = batch.publications
            self._fail(publication, error)
            size = len(publication.data)
            logger.error("an event for %s (%d bytes) was not accepted: %s", publication.name, size, error)
            if not publication.is_awaited:
                self.lost.append(publication)
            return []
        half = len(batch.publications) // 2
        parts = [WriteBatch(), WriteBatch()]
        for number, publication in enumerate(batch.publications):
            _move(publication, parts[number >= half])
        return parts

    def _fail(self, publication: Publication, error: Exception) -> None:
        publication.outcome = error
        self.unwritten -= 1
        self._listener.failed(publication)

    def give_up(self) -> None:
        """Say what could not be written, and tell those who wait for it."""
        left = [*([] if self._flushing is None else [self._flushing]), *self._batches]
        error = self.failure or StorageError(f"{self.store!r} was closed before all was written")
        settlements = sum(batch.settlements for batch in left)
        lost: list[Publication] = []
        for batch in left:
            for publication in batch.publications:
                publication.outcome = error
                if not publication.is_awaited:
                    lost.append(publication)
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


def _move(publication: Publication, batch: WriteBatch) -> None:
    publication.batch = batch
    batch.publications.append(publication)
    batch.size += len(publication.data)
