"""What all buses have in common, as the runtime sees them: one queue engine over the store that each brings along."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from definable.errors import ConfigurationError, EventBusClosed

from .base import DEDUPE_TTL, DeadLetter, Delivery, EventBus, Submission
from .codec import encode_data
from .dedupe import digest
from .queue import MAX_DELIVERIES, QueueSession
from .store import Store


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

    def new_store(self) -> Store:
        """The store of the next opening.

        Raises:
            StorageError: There is none.
        """
        raise NotImplementedError

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
            self._lost = [] if queue is None else [*queue.lost]

    async def publish(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        return await self._opened().publish_one(Submission(name, data, dedupe_key, dedupe_ttl))

    def publish_nowait(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        queue = self._opened()
        if dedupe_key is None and queue.publish_now(name, data):
            return True
        return queue.publish_nowait([Submission(name, data, dedupe_key, dedupe_ttl)])[0]

    async def publish_many(self, items: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages together: in one transaction, up to 500 of them and 1 MiB; see `PublishesMany`."""
        return await self._opened().publish(items)

    def submit_nowait(self, submissions: Sequence[Submission]) -> Sequence[bool]:
        """Accept messages at once; see `PublishesMany`."""
        return self._opened().publish_nowait(submissions)

    async def cancel(self, key: str) -> bool:
        """Withdraw the message that waits for its time under this key; False when none does."""
        return await self._opened().cancel(key)

    async def claim(self, key: str, ttl: float) -> bool:
        return await self._opened().claim_key(digest(key), ttl)

    async def release(self, key: str) -> None:
        await self._opened().release_key(digest(key))

    @property
    def room(self) -> float:
        return 0 if self._queue is None else self._queue.capacity

    @property
    def failure(self) -> Exception | None:
        return None if self._queue is None else self._queue.failure or self._queue.store.failure

    def check(self, name: str, data: Mapping[str, Any]) -> None:
        if self.durable:
            encode_data(name, data)

    @asynccontextmanager
    async def consume(self) -> AsyncGenerator[AsyncIterator[Delivery], None]:
        yield self._opened()

    def only_names(self, names: Collection[str]) -> None:
        """Hand out messages of these names alone; see `ClaimsByName`."""
        self._opened().only_names(names)

    def grant_name(self, name: str, count: float) -> None:
        """Hand out so many more of this name; see `ClaimsByName`."""
        self._opened().grant_name(name, count)

    def leftovers(self) -> Iterable[Delivery]:
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
        await queue.flushed()
        return await queue.store.dead_letters()

    async def replay(self, letter_id: str) -> bool:
        return await self._opened().replay(letter_id)

    def _opened(self) -> QueueSession:
        if self._queue is None:
            raise EventBusClosed("the event bus is not open: it works while the agent serves")
        return self._queue
