"""How many bytes of memory may be held at once: of bodies, of answers, of messages.

What does not fit is refused (`take`), or waits in arrival order (`acquire`), so that many small ones do not keep a
large one waiting for ever. For one event loop. Where one takes as much as another, an `anyio.Semaphore` does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio


class ByteLimit:
    """So many bytes that may be held together.

    Args:
        limit: How many.
        one_may_exceed: Whether a single one may hold more than the limit, while no other holds anything.
    """

    __slots__ = ("_one_may_exceed", "_waiting", "held", "limit")

    def __init__(self, limit: int, *, one_may_exceed: bool = False) -> None:
        self.limit: int = limit
        self.held: int = 0
        """How many are held now."""
        self._one_may_exceed = one_may_exceed
        self._waiting: OrderedDict[anyio.Event, int] = OrderedDict()
        """How many each waits for, oldest first; the event is set once it holds that."""

    def has(self, size: int) -> bool:
        """Whether so many could be taken now."""
        return self.held + size <= self.limit or (self._one_may_exceed and not self.held)

    def take(self, size: int) -> bool:
        """Hold so many until `release`; False, and nothing is held, where they do not fit."""
        if not self.has(size):
            return False
        self.held += size
        return True

    async def acquire(self, size: int) -> None:
        """Hold so many until `release`, once they fit; without a checkpoint where they do."""
        if not self._waiting and self.take(size):
            return
        granted = anyio.Event()
        self._waiting[granted] = size
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():  # cancelled in the moment in which it was granted
                self.release(size)
            else:
                del self._waiting[granted]
                self._grant()  # those behind it may be smaller
            raise

    def release(self, size: int) -> None:
        """Hold so many no longer; those who wait may have them."""
        self.held -= size
        self._grant()

    @contextmanager
    def held_anyway(self, size: int) -> Generator[None]:
        """Hold so many while the context is open, also beyond the limit."""
        self.held += size
        try:
            yield
        finally:
            self.release(size)

    @asynccontextmanager
    async def acquired(self, size: int) -> AsyncGenerator[None]:
        """Hold so many while the context is open; wait for them first."""
        await self.acquire(size)
        try:
            yield
        finally:
            self.release(size)

    def _grant(self) -> None:
        while self._waiting:
            granted, size = next(iter(self._waiting.items()))
            if not self.take(size):
                return
            del self._waiting[granted]
            granted.set()
