"""Where an engine accepts messages: within the bound of its buffer, and no key twice within its time to live."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import ConfigurationError, EventBufferFull, EventBusClosed, StorageError

from .base import Submission
from .batch import Publication, encode_data
from .claims import Claims
from .dedupe import DedupeWindow, digest
from .writes import Writes


class Publisher:
    """Accepts messages for one opening.

    Args:
        writes: Writes them.
        claims: What it claims makes room in memory.
        buffer: How many messages may wait to be written; where the store is memory, how many may wait there.
        waiting: What messages in a full buffer wait for, for the error.
    """

    def __init__(self, writes: Writes, claims: Claims, *, buffer: int, waiting: str) -> None:
        self.is_accepting: bool = True
        self.waiting: deque[anyio.Event] = deque()
        """Those who wait for capacity."""
        self._writes, self._claims = writes, claims
        self._store, self._memory, self._shared = writes.store, writes.memory, writes.shared
        self._buffer = buffer
        self._waits_for = waiting
        self._keys = DedupeWindow(self._key_evicted)
        self._claimed_keys: dict[str, float] = {}
        """Keys that no publication brought, and when they expire."""
        self._uncertain: dict[str, Publication] = {}
        """Dedupe keys whose publications are not written, and may yet fail."""
        self._opening = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    @property
    def capacity(self) -> int:
        """How many publications would be accepted now; a consumer that waits in memory adds to it, unless it is 0."""
        if self._memory is None:
            return max(self._buffer - self._writes.unwritten, 0)
        claims = self._claims
        handed_out = min(claims.asking, len(claims.ready))
        taken = self._writes.unwritten + self._memory.waiting + len(claims.ready) - handed_out
        capacity = self._buffer - taken
        return capacity + claims.asking - handed_out if capacity > 0 else 0

    async def publish(self, items: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages, together if one batch holds them; returns which of them were no repeats.

        Raises:
            StorageError: They were not accepted, as far as is known.
        """
        publications = [self._publication(item, is_awaited=True) for item in items]
        with anyio.move_on_after(self._writes.timeout):
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
        if submission.dedupe_key is not None or self.waiting or self.capacity < 1:
            return (await self.publish([submission]))[0]
        if self._memory is not None:
            await checkpoint()
            if self.publish_now(submission.name, submission.data):
                return True
            return (await self.publish([submission]))[0]
        publication = self._publication(submission, is_awaited=True)
        self._append([publication])
        with anyio.move_on_after(self._writes.timeout):
            try:
                while publication.outcome is None:
                    assert publication.batch is not None
                    await publication.batch.done.wait()
            finally:
                if publication.outcome is None:
                    self._withdraw([publication])
        self._check_outcome(publication)
        return publication.outcome is True

    def publish_nowait(self, items: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages at once.

        Raises:
            EventBufferFull: There is no capacity; none was accepted.
        """
        if self.capacity < len(items):
            waiting = "" if self._memory is None else self._memory.describe_waiting()
            raise EventBufferFull(
                f"the event buffer is full ({self._buffer} {self._waits_for}{waiting}): try "
                "later, wait with `await agent.aemit(...)`, or raise event_buffer or the bus's buffer="
            )
        publications = [self._publication(item, is_awaited=False) for item in items]
        accepted: list[bool] = []
        for publication, item in zip(publications, items, strict=True):
            key = publication.key
            accepted.append(key is None or self._keys.claim(key, item.dedupe_ttl, anyio.current_time()))
            if key is not None and self._shared is None and accepted[-1]:
                self._uncertain[key] = publication
        self._append([publication for publication, is_new in zip(publications, accepted, strict=True) if is_new])
        return accepted

    def publish_now(self, name: str, data: Mapping[str, Any]) -> bool:
        """Accept one message into memory at once; False when that is not possible, or it is not memory."""
        memory, claims = self._memory, self._claims
        if (
            memory is None
            or not self.is_accepting
            or (memory.waiting + len(claims.ready) >= self._buffer and self.capacity < 1)
        ):
            return False
        memory.append_now(f"{self._opening}-{next(self._numbers):x}", name, data)
        claims.has_more = True
        if claims.asking > len(claims.ready):
            claims.claim_now(claims.asking - len(claims.ready))
        return True

    def _publication(self, item: Submission, *, is_awaited: bool) -> Publication:
        self.check_accepting()
        if item.group is not None and (item.delay > 0 or item.key is not None):
            raise ConfigurationError(f"what is for {item.name!r} has a group, or waits for its time: not both")
        if item.group is not None and not self._store.orders_groups:
            raise ConfigurationError(f"{self._store!r} cannot keep what is for {item.name!r} in the order of a key")
        data = encode_data(item.name, item.data) if self._store.durable else item.data
        return Publication(
            f"{self._opening}-{next(self._numbers):x}",
            item.name,
            data,
            None if item.dedupe_key is None else digest(item.dedupe_key),
            item.dedupe_ttl,
            anyio.current_time() + item.delay if item.delay > 0 else 0.0,
            item.key,
            item.keeps_time,
            None if item.group is None else digest(f"{item.name}\x1f{item.group}"),
            is_awaited,
        )

    def check_accepting(self) -> None:
        """Raise if it accepts nothing more.

        Raises:
            EventBusClosed: It does not.
        """
        if not self.is_accepting:
            raise EventBusClosed("the event bus is closing: nothing was accepted")

    def stop(self) -> None:
        """Accept nothing more."""
        self.is_accepting = False
        while self.waiting:
            self.waiting.popleft().set()

    # --- capacity

    async def _wait_for_keys(self, publications: Sequence[Publication]) -> None:
        """Wait for capacity, and until it is known what became of publications that have the same keys."""
        await checkpoint()
        wanted = len(publications)
        while True:
            await self.wait_for_capacity(wanted)
            uncertain = [self._uncertain[each.key] for each in publications if each.key in self._uncertain]
            if not uncertain:
                return
            batch = uncertain[0].batch
            assert batch is not None
            await batch.done.wait()

    async def wait_for_capacity(self, wanted: int) -> None:
        """Return once so many messages would be accepted.

        Raises:
            EventBusClosed: None is any more.
        """
        while self.capacity < min(wanted, self._buffer):
            turn = anyio.Event()
            self.waiting.append(turn)
            try:
                await turn.wait()
            finally:
                if turn in self.waiting:
                    self.waiting.remove(turn)
            if not self.is_accepting:
                raise EventBusClosed("the event bus was closed while the event waited for room")

    def capacity_grew(self) -> None:
        """Go on with those who wait for capacity, as far as there is some."""
        if not self.waiting:
            return
        capacity = self.capacity
        while self.waiting and capacity > 0:
            capacity -= 1
            self.waiting.popleft().set()

    def _enqueue(self, publications: Sequence[Publication]) -> None:
        """Add them to a batch; where this process decides, those whose keys are taken are no more than repeats."""
        new: list[Publication] = []
        for each in publications:
            if each.key is not None and self._shared is None:
                if not self._keys.claim(each.key, each.key_ttl, anyio.current_time()):
                    each.outcome = False
                    continue
                self._uncertain[each.key] = each
            new.append(each)
        self._append(new)
        self.capacity_grew()

    def _append(self, publications: Sequence[Publication]) -> None:
        self._writes.append(publications)
        self._claims.rest(False)
        self._writes.notify()

    def _withdraw(self, publications: Sequence[Publication]) -> None:
        for each in publications:
            self._writes.withdraw(each)
        self.capacity_grew()

    def _check_outcome(self, publication: Publication) -> None:
        if isinstance(publication.outcome, bool):
            return
        if publication.outcome is not None:
            raise StorageError(str(publication.outcome)) from publication.outcome
        was_sent = publication.batch is not None and publication.batch.number > 0
        outcome = "whether the event was accepted is not known" if was_sent else "the event was not accepted"
        silence = f"{self._store!r} did not answer within {self._writes.timeout:g} s"
        raise StorageError(f"{self._writes.failure or self._store.failure or silence}: {outcome}")

    # --- keys

    def remember(self, keys: Iterable[tuple[str, float]]) -> None:
        """Remember keys of earlier openings, each for so many seconds."""
        for key, ttl in keys:
            self._keys.claim(key, ttl, anyio.current_time())

    async def claim_key(self, key: str, ttl: float) -> bool:
        """Remember a key for which nothing is published; False when it is remembered."""
        if self._shared is not None:
            return await self._shared.claim_key(key, ttl)
        while not self._keys.claim(key, ttl, anyio.current_time()):
            publication = self._uncertain.get(key)
            if publication is None:
                await checkpoint()
                return False
            await self._writes.all_written()
        self._claimed_keys[key] = anyio.current_time() + ttl
        return True

    async def release_key(self, key: str) -> None:
        """Forget a key."""
        self._keys.release(key)
        if self._shared is not None:
            await self._shared.release_key(key)
        elif self._claimed_keys.pop(key, None) is None:
            self._key_evicted(key)

    def write_claimed_keys(self) -> None:
        """Have the keys written that no publication brought: the process ends in order."""
        if self._shared is None and self._store.durable:
            self._writes.next.keys |= self._claimed_keys

    def written(self, publications: Sequence[Publication]) -> None:
        """These were written, or refused as repeats."""
        for publication in publications:
            if publication.key is not None:
                self._uncertain.pop(publication.key, None)
                if self._shared is not None:
                    self._keys.claim(publication.key, publication.key_ttl, anyio.current_time())

    def failed(self, publication: Publication) -> None:
        """This one was not written and is not tried again."""
        if publication.key is not None and self._uncertain.pop(publication.key, None) is not None:
            self._keys.release(publication.key)

    def _key_evicted(self, key: str) -> None:
        if self._claimed_keys.pop(key, None) is not None or self._shared is not None or not self._store.durable:
            return
        for batch in self._writes.batches:
            for publication in batch.publications:
                if publication.key == key:
                    publication.key = None
        self._writes.next.forgotten.add(key)
        self._writes.notify()
