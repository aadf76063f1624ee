"""What large answers hold in memory while their clients read them, over all clients: bounded.

A client that does not read holds its answer until the server's write time-out. Many of them, on connections that cost
them nothing, must not add up to more than the bound.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio

from .problem import Problem

LARGE = 64 * 1024
"""Bytes from which an answer counts: the server hands smaller ones to the operating system in one piece."""

COPIES = 2
"""An answer is in memory as such, and as what the server has still to send."""

BUSY = Problem(503, "too many large answers are on their way: try again later", headers=[(b"retry-after", b"5")])


class AnswerMemory:
    """Bytes of large answers that are on their way.

    Args:
        max_bytes: How many there may be; a single answer may be larger.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._freed: anyio.Event | None = None

    @contextmanager
    def held(self, size: int, *, refusable: bool) -> Generator[None, None, None]:
        """Count an answer while the context is open.

        Args:
            size: Bytes of its body.
            refusable: Whether the client may as well ask again; else it is counted in any case.

        Raises:
            Problem: 503, there is no room.
        """
        if refusable and not self._has_room(size):
            raise BUSY
        self._held += size * COPIES
        try:
            yield
        finally:
            self._held -= size * COPIES
            if self._freed is not None:
                self._freed.set()
                self._freed = None

    @asynccontextmanager
    async def waited_for(self, size: int) -> AsyncGenerator[None, None]:
        """Count a part of a stream while the context is open; wait for room first.

        Args:
            size: Bytes of the part, about; what is not large does not wait.
        """
        if size < LARGE:
            yield
            return
        while not self._has_room(size):
            if self._freed is None:
                self._freed = anyio.Event()
            await self._freed.wait()
        with self.held(size, refusable=False):
            yield

    def _has_room(self, size: int) -> bool:
        return not self._held or self._held + size * COPIES <= self._max_bytes
