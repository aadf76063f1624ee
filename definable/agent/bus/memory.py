"""The event bus in memory: an anyio memory object stream, bounded; what it holds goes with the process."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from definable.errors import ConfigurationError, EventBufferFull, EventBusClosed

from .base import DEDUPE_TTL, DeadLetter, Delivery, EventBus
from .dedupe import digest
from .memory_line import DeliveryStreams, MemoryDeliveries, MemoryDelivery, MemoryLine

DEFAULT_BUFFER = 10_000
"""Deliveries that wait, for a worker or for their next attempt."""

MAX_DEAD_LETTERS = 1_000
"""The oldest are forgotten beyond it."""


class MemoryBus(EventBus):
    """The default event bus: needs nothing, keeps nothing over the end of the process.

    Args:
        buffer: How many deliveries may wait, for a worker or for their next attempt; beyond it `publish_nowait` raises
            and `publish` waits. What fails in a worker's hands is kept also then.

    Raises:
        ConfigurationError: `buffer` is less than 1.
    """

    def __init__(self, buffer: int = DEFAULT_BUFFER) -> None:
        if buffer < 1:
            raise ConfigurationError(f"buffer={buffer!r}: at least 1")
        self._buffer = buffer
        self._dead: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)
        self._line: MemoryLine | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        if self._line is not None:
            raise ConfigurationError("this MemoryBus is open already: one agent that serves, one bus")
        streams: DeliveryStreams = anyio.create_memory_object_stream[MemoryDelivery](self._buffer)
        with streams[0], streams[1]:
            async with anyio.create_task_group() as group:
                self._line = line = MemoryLine(streams, self._buffer, self._dead)
                group.start_soon(line.run_retries)
                try:
                    yield
                finally:
                    self._line = None
                    line.close()

    async def publish(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        line = self._opened()
        key = None if dedupe_key is None else digest(dedupe_key)
        while (delivery := line.new(name, data, key, dedupe_ttl)) is None:
            if await line.certain(key):
                return False
        await line.bring(delivery, key)
        return True

    def publish_nowait(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        line = self._opened()
        key = None if dedupe_key is None else digest(dedupe_key)
        delivery = line.new(name, data, key, dedupe_ttl)
        if delivery is None:
            return False
        try:
            line.put_nowait(delivery)
        except anyio.WouldBlock:
            line.withdraw(delivery, key)
            retries = f", {line.waiting_retries} of them for their next attempt" if line.waiting_retries else ""
            raise EventBufferFull(
                f"the event buffer is full ({self._buffer} wait{retries}): try later, wait with "
                "`await agent.aemit(...)`, or raise event_buffer"
            ) from None
        return True

    async def claim(self, key: str, ttl: float) -> bool:
        line, key = self._opened(), digest(key)
        while not line.dedupe.claim(key, ttl, anyio.current_time()):
            if await line.certain(key):
                return False
        return True

    async def release(self, key: str) -> None:
        self._opened().dedupe.release(digest(key))

    @property
    def room(self) -> float:
        return 0 if self._line is None else self._line.room

    @property
    def durable(self) -> bool:
        return False

    @property
    def shared(self) -> bool:
        return False

    @property
    def failure(self) -> Exception | None:
        return None

    def check(self, name: str, data: Mapping[str, Any]) -> None:
        """Memory carries anything."""

    @asynccontextmanager
    async def consume(self) -> AsyncGenerator[AsyncIterator[Delivery], None]:
        line = self._opened()
        with line.receive.clone() as receive:
            yield MemoryDeliveries(line, receive)

    def leftovers(self) -> Iterable[Delivery]:
        line = self._opened()
        line.close()
        return line.take_out()

    async def drain(self) -> None:
        await self._opened().all_settled()

    async def dead_letters(self) -> Sequence[DeadLetter]:
        return tuple(self._dead)

    async def replay(self, letter_id: str) -> bool:
        letter = next((letter for letter in self._dead if letter.id == letter_id), None)
        if letter is None:
            return False
        self._dead.remove(letter)  # first, so that nobody else replays it while this call waits for room
        try:
            await self.publish(letter.name, letter.data)
        except BaseException:
            self._dead.append(letter)
            raise
        return True

    def _opened(self) -> MemoryLine:
        if self._line is None:
            raise EventBusClosed("the event bus is not open: it works while the agent serves")
        return self._line
