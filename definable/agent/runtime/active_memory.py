"""What requests and deliveries that are being handled hold in memory: bounded in bytes.

Their number is bounded too, but each may be a MiB of JSON that is 25 MiB of values. The HTTP endpoints refuse what
finds no room; workers, whose deliveries were accepted, wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from .run_registry import TooManyRuns


class ActiveMemory:
    """Bytes that are held for what is being handled.

    Args:
        max_bytes: How many there may be; a single request or delivery may hold more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._released: anyio.Event | None = None
        self._queue = anyio.Lock()
        """In arrival order: a large delivery is not passed by small ones for ever."""

    def hold(self, size: int) -> None:
        """Count bytes until `release`.

        Raises:
            TooManyRuns: There is no room; nothing was counted.
        """
        if not self._has_room(size):
            raise TooManyRuns(f"what is being handled holds {self._held} bytes already (max_memory_active)")
        self._held += size

    def release(self, size: int) -> None:
        """Count bytes no more."""
        self._held -= size
        if self._released is not None:
            self._released.set()
            self._released = None

    @asynccontextmanager
    async def held_in_turn(self, size: int) -> AsyncGenerator[None, None]:
        """Wait for room, and count bytes while the context is open."""
        async with self._queue:
            while not self._has_room(size):
                if self._released is None:
                    self._released = anyio.Event()
                await self._released.wait()
            self._held += size
        try:
            yield
        finally:
            self.release(size)

    def _has_room(self, size: int) -> bool:
        return not self._held or self._held + size <= self._max_bytes
