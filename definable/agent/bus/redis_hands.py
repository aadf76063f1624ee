"""What an open `RedisBus` has taken and not settled: handed out to those who ask, under a lease."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from .base import Delivery
from .codec import decode_data
from .redis_turn import readable

if TYPE_CHECKING:
    from .redis_line import RedisLine

YIELD_EVERY = 32
"""Deliveries that are handed out before other tasks get their turn."""


@dataclass(slots=True, eq=False)
class RedisDelivery:
    """One attempt at a delivery of the `RedisBus`.

    Settling returns at once and is told to Redis in the next turn: what a crash loses of it is a repeat.
    """

    line: RedisLine
    entry: bytes
    """In the stream."""
    id: str
    name: str
    attempt: int
    data: Mapping[str, Any]
    lease: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def ack(self) -> None:
        self.line.ack(self)

    async def nack(self, delay: float = 0.0) -> None:
        self.line.nack(self, delay)

    async def dead(self, why: str) -> None:
        self.line.bury(self, why)


class RedisHands:
    """Deliveries in hand, in the order in which they came, for any number of tasks.

    One task at a time waits for what comes: trio lets tasks that are woken together go in any order.
    """

    def __init__(self) -> None:
        self.held: dict[bytes, RedisDelivery] = {}
        """What is not settled, by its entry."""
        self._ready: deque[RedisDelivery] = deque()
        """What nobody has taken yet."""
        self._asking = 0
        self._count = 0
        self._turn = anyio.Lock(fast_acquire=True)
        self._arrived = anyio.Event()
        self._asked = anyio.Event()
        self.closed: bool = False
        """Whether nothing more will be handed out."""
        self._resting = False

    @property
    def demand(self) -> int:
        """How many are asked for: no more is taken from Redis, since that counts as an attempt."""
        return max(self._asking - len(self._ready), 0)

    async def asked(self) -> bool:
        """Return once something is asked for; False when nothing more will be handed out."""
        while not self.closed and (self._resting or not self.demand):
            self._asked = anyio.Event()
            await self._asked.wait()
        return not self.closed

    def rest(self, resting: bool) -> None:
        """Ask for nothing more, or do so again."""
        self._resting = resting
        self._asked.set()

    def close(self) -> None:
        """Nothing more will be handed out."""
        self.closed = True
        self._asked.set()

    def put(self, deliveries: Sequence[RedisDelivery]) -> None:
        """These were taken from Redis."""
        self._ready.extend(deliveries)
        self.held.update((delivery.entry, delivery) for delivery in deliveries)
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()

    def lose(self, entry: bytes) -> RedisDelivery | None:
        """Somebody else has it: cut off who works on it."""
        delivery = self.held.pop(entry, None)
        if delivery is None:
            return None
        if delivery in self._ready:
            self._ready.remove(delivery)
        delivery.lease.cancel()
        return delivery

    def take_back(self) -> Sequence[RedisDelivery]:
        """Take out what nobody has taken."""
        back = [*self._ready]
        self._ready.clear()
        for delivery in back:
            del self.held[delivery.entry]
        return back

    def __aiter__(self) -> RedisHands:
        return self

    async def __anext__(self) -> Delivery:
        self._count += 1
        if self._count % YIELD_EVERY == 0:
            await checkpoint()
        if self._ready:
            return self._ready.popleft()
        self._asking += 1
        self._asked.set()
        try:
            async with self._turn:
                while not self._ready:
                    await self._arrived.wait()
                return self._ready.popleft()
        finally:
            self._asking -= 1


def delivery_of(line: RedisLine, entry: bytes, fields: Sequence[bytes], times: int) -> RedisDelivery:
    """The delivery of an entry of the stream.

    Args:
        line: Told how it ends.
        entry: Its id in the stream.
        fields: Names and values, in turns.
        times: How often the entry was handed out, this time included.

    Raises:
        StorageError: Its data is no event's.
    """
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    attempt = int(found.get(b"a", 0)) + times
    return RedisDelivery(line, entry, found[b"i"].decode(), readable(found[b"n"]), attempt, decode_data(found[b"d"]))
