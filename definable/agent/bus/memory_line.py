"""What a `MemoryBus` holds while it is open: its stream of deliveries, who waits for room, what waits to be retried."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypeAlias

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from definable.errors import EventBusClosed

from .base import DeadLetter, Delivery
from .dedupe import DedupeWindow

YIELD_EVERY = 32
"""Deliveries that are handed out before other tasks get their turn."""


@dataclass(slots=True, eq=False)
class MemoryDelivery:
    """One attempt at a delivery of the `MemoryBus`."""

    line: MemoryLine
    id: str
    name: str
    data: Mapping[str, Any]
    attempt: int = 1

    @property
    def lease(self) -> None:
        return None

    async def ack(self) -> None:
        self.line.settle(self)

    async def nack(self, delay: float = 0.0) -> None:
        self.line.redeliver(self, delay)

    async def dead(self, why: str) -> None:
        self.line.bury(self, why)


DeliveryStreams: TypeAlias = tuple[MemoryObjectSendStream[MemoryDelivery], MemoryObjectReceiveStream[MemoryDelivery]]


class MemoryLine:
    """The deliveries of one opening of a `MemoryBus`.

    Args:
        streams: Where deliveries wait for a worker.
        buffer: How many deliveries may wait, for a worker or for their next attempt.
        dead: The dead letters.
    """

    def __init__(self, streams: DeliveryStreams, buffer: int, dead: deque[DeadLetter]) -> None:
        self.send: MemoryObjectSendStream[MemoryDelivery] = streams[0]
        self.receive: MemoryObjectReceiveStream[MemoryDelivery] = streams[1]
        self.dedupe: DedupeWindow = DedupeWindow()
        self._buffer = buffer
        self._dead = dead
        self._closed = False
        self._opening = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self._publishers: deque[anyio.Event] = deque()
        """Those who wait for room. A stream's own `send` can put an item in and yet raise a cancellation."""
        self._unsettled: set[str] = set()
        """The ids of what has not come to its end."""
        self._retries: list[tuple[float, int, MemoryDelivery]] = []
        """A heap of what waits for its next attempt: when it is due, how many failed before it, the delivery."""
        self._failures = itertools.count()
        self._retries_changed = anyio.Event()
        """Set when another retry is the next, or there will be none."""
        self._room_for_retry: anyio.Event | None = None
        """Set when a worker took a delivery; None while no retry that is due waits for it."""
        self._uncertain: dict[str, anyio.Event] = {}
        """Dedupe keys of those who wait for room, and may yet leave without having been accepted."""
        self._settled: anyio.Event | None = None
        """What `all_settled` waits for."""

    def new(self, name: str, data: Mapping[str, Any], dedupe_key: str | None, ttl: float) -> MemoryDelivery | None:
        """A delivery that is about to be accepted; None when its key is a repeat."""
        if self._closed:
            raise EventBusClosed("the event bus is closing: nothing was accepted")
        if dedupe_key is not None and not self.dedupe.claim(dedupe_key, ttl, anyio.current_time()):
            return None
        delivery = MemoryDelivery(self, f"{self._opening}-{next(self._numbers)}", name, data)
        self._unsettled.add(delivery.id)
        return delivery

    async def bring(self, delivery: MemoryDelivery, dedupe_key: str | None) -> None:
        """Put it, or withdraw it; until that is known its key is uncertain."""
        known = anyio.Event()
        if dedupe_key is not None:
            self._uncertain[dedupe_key] = known
        try:
            await checkpoint()
            await self.put(delivery)
        except BaseException:
            self.withdraw(delivery, dedupe_key)
            raise
        finally:
            known.set()
            if dedupe_key is not None and self._uncertain.get(dedupe_key) is known:  # else it was taken anew since
                del self._uncertain[dedupe_key]

    async def certain(self, dedupe_key: str | None) -> bool:
        """Whether the key is taken by what was accepted; False when it was uncertain, once that may have changed."""
        known = None if dedupe_key is None else self._uncertain.get(dedupe_key)
        if known is None:
            await checkpoint()
            return True
        await known.wait()
        return False

    def withdraw(self, delivery: MemoryDelivery, dedupe_key: str | None) -> None:
        """It was not accepted after all."""
        self.dedupe.release(dedupe_key)
        self.settle(delivery)

    async def put(self, delivery: MemoryDelivery) -> None:
        """Bring it to the workers, waiting for room."""
        while not self._closed:
            try:
                return self.put_nowait(delivery)
            except anyio.WouldBlock:
                await self._wait_for_room()
        raise EventBusClosed("the event bus was closed while the event waited for room")

    def put_nowait(self, delivery: MemoryDelivery) -> None:
        """Bring it to the workers.

        Raises:
            anyio.WouldBlock: There is no room.
        """
        if self._retries and self.room <= 0:
            raise anyio.WouldBlock
        self.send.send_nowait(delivery)

    @property
    def room(self) -> int:
        """How many new deliveries would be accepted now.

        A consumer that waits adds to it only while the buffer has room besides: what it takes may fail, and would then
        wait beyond the bound.
        """
        statistics = self.send.statistics()
        room = self._buffer - statistics.current_buffer_used - len(self._retries)
        return room + statistics.tasks_waiting_receive if room > 0 else 0

    @property
    def waiting_retries(self) -> int:
        """How many deliveries wait for their next attempt."""
        return len(self._retries)

    def taken(self) -> None:
        """A worker took a delivery: there is room for another, first of all for a retry that is due."""
        if self._room_for_retry is not None and not self._room_for_retry.is_set():
            self._room_for_retry.set()
        elif self._publishers and not (self._retries and self.room <= 0):
            self._publishers.popleft().set()

    def settle(self, delivery: MemoryDelivery) -> None:
        """It has come to its end."""
        self._unsettled.discard(delivery.id)
        if self._settled is not None and not self._unsettled:
            self._settled.set()
            self._settled = None

    def redeliver(self, delivery: MemoryDelivery, delay: float) -> None:
        """Hand it out again after `delay` seconds."""
        again = replace(delivery, attempt=delivery.attempt + 1)
        heapq.heappush(self._retries, (anyio.current_time() + delay, next(self._failures), again))
        if self._retries[0][2] is again:
            self._retries_changed.set()

    async def run_retries(self) -> None:
        """Bring what waits for its next attempt to the workers, each at its time, until closed."""
        while not self._closed:
            delay = self._retries[0][0] - anyio.current_time() if self._retries else math.inf
            if delay > 0:
                self._retries_changed = anyio.Event()
                with anyio.move_on_after(delay):
                    await self._retries_changed.wait()
            else:
                await self._bring_next_retry()

    async def _bring_next_retry(self) -> None:
        try:
            self.send.send_nowait(self._retries[0][2])
        except anyio.WouldBlock:
            self._room_for_retry = anyio.Event()
            await self._room_for_retry.wait()
            self._room_for_retry = None
        else:
            heapq.heappop(self._retries)

    def bury(self, delivery: MemoryDelivery, why: str) -> None:
        """Keep it among the dead letters."""
        self._dead.append(DeadLetter(delivery.id, delivery.name, delivery.data, delivery.attempt, why, time.time()))
        self.settle(delivery)

    def close(self) -> None:
        """Accept nothing more, neither from those who wait for room."""
        self._closed = True
        self._retries_changed.set()
        if self._room_for_retry is not None:
            self._room_for_retry.set()
        while self._publishers:
            self._publishers.popleft().set()

    def take_out(self) -> Iterable[MemoryDelivery]:
        """Everything that waits, for a worker or for its next attempt."""
        retries, self._retries = self._retries, []
        left = [delivery for _, _, delivery in sorted(retries, key=itemgetter(1))]
        with suppress(anyio.WouldBlock):
            while True:
                left.append(self.receive.receive_nowait())
        return left

    async def all_settled(self) -> None:
        """Return once everything accepted has come to its end."""
        while self._unsettled:
            if self._settled is None:
                self._settled = anyio.Event()
            await self._settled.wait()

    async def _wait_for_room(self) -> None:
        turn = anyio.Event()
        self._publishers.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn in self._publishers:
                self._publishers.remove(turn)
            else:
                self.taken()  # the room was for this one: the next may have it
            raise


class MemoryDeliveries:
    """A line's deliveries in their order, for any number of tasks, without a turn of the event loop for each.

    One task at a time waits on the stream: if several did, each would be handed a delivery, and trio lets tasks that it
    wakes together go in any order.

    Args:
        line: Told what was taken.
        receive: The consumer's own end of the stream.
    """

    def __init__(self, line: MemoryLine, receive: MemoryObjectReceiveStream[MemoryDelivery]) -> None:
        self._line = line
        self._receive = receive
        self._count = 0
        self._turn = anyio.Lock(fast_acquire=True)
        self._waiting = False
        """Whether a task waits on the stream; it may have been handed a delivery that is first in order."""

    def __aiter__(self) -> MemoryDeliveries:
        return self

    async def __anext__(self) -> Delivery:
        self._count += 1
        delivery = self._at_once() if self._count % YIELD_EVERY else None
        if delivery is None:
            delivery = await self._wait()
        self._line.taken()
        return delivery

    async def _wait(self) -> MemoryDelivery:
        async with self._turn:
            self._waiting = True
            try:
                return await self._receive.__anext__()
            finally:
                self._waiting = False

    def _at_once(self) -> MemoryDelivery | None:
        if self._waiting:
            return None
        try:
            return self._receive.receive_nowait()
        except (anyio.WouldBlock, anyio.EndOfStream):
            return None
