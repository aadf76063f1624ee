"""What the `SQLiteBus` hands out, and the iterator that hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from .base import Delivery

if TYPE_CHECKING:
    from .sqlite_line import SQLiteLine

YIELD_EVERY = 32
"""Deliveries that are handed out before other tasks get their turn."""


@dataclass(slots=True, eq=False)
class SQLiteDelivery:
    """One attempt at a delivery of the `SQLiteBus`.

    Settling returns at once and is written with the next group commit: what a crash loses of it is a repeat.
    """

    line: SQLiteLine
    position: int
    id: str
    name: str
    attempt: int
    data: Mapping[str, Any]

    @property
    def lease(self) -> None:
        return None

    async def ack(self) -> None:
        self.line.ack(self.position)

    async def nack(self, delay: float = 0.0) -> None:
        self.line.nack(self.position, delay)

    async def dead(self, why: str) -> None:
        self.line.bury(self.position, why)


class SQLiteDeliveries:
    """A line's deliveries in their order, for any number of tasks.

    One task at a time waits for what comes: trio lets tasks that are woken together go in any order.
    """

    def __init__(self, line: SQLiteLine) -> None:
        self._line = line
        self._count = 0

    def __aiter__(self) -> SQLiteDeliveries:
        return self

    async def __anext__(self) -> Delivery:
        self._count += 1
        if self._count % YIELD_EVERY == 0:
            await checkpoint()
        return self._line.take() or await self._line.wait_and_take()
