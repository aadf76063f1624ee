"""The event bus in memory: needs nothing; what it holds goes with the process."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from .base import Backlog, DeadLetter
from .batch import Applied, Claim, Handle, Message, Publication, WriteBatch
from .queue import DEFAULT_BUFFER, QueueBus
from .store import ImmediateStore, Queue

MAX_DEAD_LETTERS = 1_000
"""The oldest are forgotten beyond it."""


class MemoryBus(QueueBus):
    """The default event bus: needs nothing, keeps nothing over the end of the process.

    Args:
        buffer: How many messages may wait, for a worker, for their time or for their next attempt; beyond it
            `publish_nowait` raises and `publish` waits. What fails in a worker's hands is kept also then.

    Raises:
        ConfigurationError: `buffer` is less than 1.
    """

    def __init__(self, buffer: int = DEFAULT_BUFFER) -> None:
        super().__init__(buffer=buffer)
        self._dead: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)

    def new_store(self) -> MemoryStore:
        return MemoryStore(self._dead)

    @property
    def durable(self) -> bool:
        return False

    @property
    def shared(self) -> bool:
        return False

    async def dead_letters(self) -> Sequence[DeadLetter]:
        return tuple(self._dead)

    async def backlog(self) -> Backlog:
        """What waits for a worker; see `MeasuresBacklog`."""
        await checkpoint()
        queue = self._opened()
        assert isinstance(queue.store, MemoryStore)
        lines = [queue.claims.ready, *queue.store.lines]
        return Backlog.of(sum(map(len, lines)), [line[0].data for line in lines if line])


@dataclass(slots=True, eq=False)
class _Entry:
    id: str
    name: str
    data: Mapping[str, Any]
    attempts: int = 0
    replaces: str | None = None
    group: str | None = None

    def claimed(self) -> Message:
        return Message(self, self.id, self.name, self.data, self.attempts, 1, False, self.group)


class MemoryStore(ImmediateStore):
    """What one opening holds; batches are applied at once, by `apply_now`.

    Args:
        dead: The dead letters, which outlive an opening.
    """

    durable: bool = False
    keeps_trying: bool = False
    max_publications: int = 1_000_000
    orders_groups: bool = True

    def __init__(self, dead: deque[DeadLetter]) -> None:
        self._dead = dead
        self._ready: deque[_Entry] = deque()
        self._limited: dict[str, deque[_Entry]] = {}
        """What may not be claimed at present, by name."""
        self._later: list[tuple[float, int, _Entry]] = []
        """A heap: when each is due, in the order in which they came."""
        self._by_key: dict[str, _Entry] = {}
        """What waits for its time and has a name for `cancel`."""
        self._order = itertools.count()
        self._groups: dict[str, deque[_Entry]] = {}
        """What waits behind the first one of its group, which is claimed or in one of those above."""
        self._behind = 0
        """How many these are."""

    @property
    def failure(self) -> None:
        return None

    @property
    def waiting(self) -> int:
        limited = sum(map(len, self._limited.values())) if self._limited else 0
        return len(self._ready) + len(self._later) + limited + self._behind

    @property
    def lines(self) -> Iterable[Sequence[_Entry]]:
        """What waits for a worker, oldest first in each."""
        return self._ready, *self._limited.values(), *self._groups.values()

    def waits_until(self, deadline: float) -> bool:
        """Whether something waits that is due by then (seconds of the event loop's clock)."""
        could_begin = self.waiting - len(self._later) - self._behind
        return could_begin > 0 or bool(self._later and self._later[0][0] <= deadline)

    def describe_waiting(self) -> str:
        return f", {len(self._later)} of them for their next attempt" if self._later else ""

    @asynccontextmanager
    async def opened(self, queue: Queue) -> AsyncGenerator[Sequence[tuple[str, float]], None]:
        yield ()

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        return self.apply_now(batch, claim)

    def apply_now(self, batch: WriteBatch, claim: Claim) -> Applied:
        for name in batch.cancelled:
            if not self._cancel(name):
                batch.cancelled = {key: None for key in batch.cancelled if key != name}
        for publication in batch.publications:
            self._add(publication)
        for handle in batch.acked:  # those of a group alone
            self._advance(_entry(handle))
        for handle, due_at, attempts in batch.nacked:
            entry = _entry(handle)
            entry.attempts = attempts
            self._wait(entry, due_at)
        for handle, why, attempts in batch.dead:
            entry = _entry(handle)
            letter = DeadLetter(entry.id, entry.name, entry.data, attempts, why, time.time(), entry.group)
            self._dead.append(letter)
            self._advance(entry)
        for handle, due_at in reversed(batch.released):
            if due_at:
                self._wait(_entry(handle), due_at)
            else:
                self._ready.appendleft(_entry(handle))
        replayed = [id for id in batch.replayed if self._replay(id)] if batch.replayed else ()
        next_due = self._move_due() if self._later else None
        claimed = self.claim_now(claim) if claim.demand else ()
        return Applied(claimed, bool(self._ready), next_due, (), replayed, tuple(batch.cancelled))

    def _add(self, publication: Publication) -> None:
        key = publication.replaces
        if key is not None and publication.keeps_time and (kept := self._by_key.get(key)) is not None:
            kept.id, kept.name, kept.data = publication.id, publication.name, publication.data
            return
        entry = _Entry(publication.id, publication.name, publication.data, 0, key, publication.group)
        if key is not None:
            self._cancel(key)
        if publication.due_at:
            self._wait(entry, publication.due_at)
            if key is not None:
                self._by_key[key] = entry
        else:
            self._append(entry)

    def _append(self, entry: _Entry) -> None:
        """Have it wait for a worker, or behind the others of its group."""
        if entry.group is None:
            self._ready.append(entry)
        elif (behind := self._groups.get(entry.group)) is not None:
            behind.append(entry)
            self._behind += 1
        else:
            self._groups[entry.group] = deque()
            self._ready.append(entry)

    def _advance(self, ended: _Entry) -> None:
        """The first one of a group has come to its end: the next one is the first."""
        if ended.group is None:
            return
        behind = self._groups[ended.group]
        if behind:
            self._ready.append(behind.popleft())
            self._behind -= 1
        else:
            del self._groups[ended.group]

    def _wait(self, entry: _Entry, due_at: float) -> None:
        heapq.heappush(self._later, (due_at, next(self._order), entry))

    def _cancel(self, name: str) -> bool:
        entry = self._by_key.pop(name, None)
        if entry is None:
            return False
        self._later = [due for due in self._later if due[2] is not entry]
        heapq.heapify(self._later)
        return True

    def _replay(self, letter_id: str) -> bool:
        letter = next((letter for letter in self._dead if letter.id == letter_id), None)
        if letter is None:
            return False
        self._dead.remove(letter)
        self._append(_Entry(letter.id, letter.name, letter.data, group=letter.group))
        return True

    def _move_due(self) -> float | None:
        now = anyio.current_time()
        while self._later and self._later[0][0] <= now:
            entry = heapq.heappop(self._later)[2]
            if entry.replaces is not None and self._by_key.get(entry.replaces) is entry:
                del self._by_key[entry.replaces]
            self._ready.append(entry)
        return self._later[0][0] if self._later else None

    def append_now(self, id: str, name: str, data: Any) -> None:
        """Keep one message."""
        self._ready.append(_Entry(id, name, data))

    def claim_now(self, claim: Claim) -> Sequence[Message]:
        """Claim what is asked for."""
        if not claim.grants:
            ready = self._ready
            return [ready.popleft().claimed() for _ in range(min(claim.demand, len(ready)))]
        claimed: list[Message] = []
        left = dict(claim.grants)
        for name, entries in [*self._limited.items()]:
            while entries and left[name] >= 1 and len(claimed) < claim.demand:
                left[name] -= 1
                claimed.append(entries.popleft().claimed())
            if not entries:
                del self._limited[name]
        while self._ready and len(claimed) < claim.demand:
            entry = self._ready.popleft()
            if left.get(entry.name, 1) < 1:
                self._limited.setdefault(entry.name, deque()).append(entry)
                continue
            if entry.name in left:
                left[entry.name] -= 1
            claimed.append(entry.claimed())
        return claimed

    async def is_drained(self) -> bool:
        return not self.waiting

    async def dead_letters(self) -> Sequence[DeadLetter]:
        return tuple(self._dead)

    async def close(self, held: Sequence[Handle]) -> None:
        pass

    def take_all(self) -> Sequence[Message]:
        later = [entry for _, _, entry in sorted(self._later, key=itemgetter(0, 1))]
        limited = [entry for entries in self._limited.values() for entry in entries]
        behind = itertools.chain(*self._groups.values())
        left = [entry.claimed() for entry in (*self._ready, *limited, *later, *behind)]
        self._ready.clear()
        self._limited.clear()
        self._later.clear()
        self._by_key.clear()
        self._groups.clear()
        self._behind = 0
        return left


def _entry(handle: Handle) -> _Entry:
    assert isinstance(handle, _Entry)
    return handle
