"""The line of one opening of a `SQLiteBus`: what is published into it, handed out of it and settled.

Every wish ends up in the writer's next batch; the writer's turns bring the deliveries that are asked for. The line in
the file is cut in two by a cursor: before it is what this opening has handed out and what is not settled yet, behind it
what waits.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence

import anyio

from definable.errors import EventBusClosed
from definable.storage import SQLiteFile

from .event_json import decode_data
from .sqlite_batch import Batch, Row
from .sqlite_delivery import SQLiteDelivery
from .sqlite_keys import SQLiteKeys
from .sqlite_tables import MOVED_AT_ONCE, Order, Receipt, Stored, storable
from .sqlite_writer import SQLiteWriter

logger: logging.Logger = logging.getLogger(__name__)

DRAIN_SHARE = 0.5
"""Of the time that a drain has: the part in which what waits is still handed out."""


class SQLiteLine:
    """The deliveries of one opening, on one event loop.

    Args:
        file: Where they are.
        stored: What it held when it was opened.
        now: Tells Unix seconds, and does not step.
    """

    def __init__(self, file: SQLiteFile, stored: Stored, now: Callable[[], float]) -> None:
        self.writer: SQLiteWriter = SQLiteWriter(file, self)
        self.keys: SQLiteKeys = SQLiteKeys(stored.keys, self.writer, now)
        self._file = file
        self._now = now
        self._opening = os.urandom(8).hex()
        self._position = stored.last_position
        """The last that was given away. They only grow, so that nothing new is before the cursor."""
        self._cursor = 0
        self._grants: dict[str, float] = {}
        """Names of which so many more may be handed out."""
        self._cursors: dict[str, int] = {}
        """As the common cursor, for those names."""
        self._only_ungranted_wait = False
        """Whether all that waits is known to be of names without a grant."""
        self._was_granted = False
        """Whether a grant came since the turn under way began: it has not looked for what waits of that name."""
        self._waiting = stored.in_line
        """How many rows are behind the cursor."""
        self._next_due = math.inf if stored.next_due is None else stored.next_due
        self._ready: deque[SQLiteDelivery] = deque()
        """Taken out of the file for those who ask."""
        self._held: set[int] = set()
        """The positions of what was taken out of the file and is not settled."""
        self._asking = 0
        self._turn = anyio.Lock(fast_acquire=True)
        self._arrived = anyio.Event()
        self._handing_out = True
        self.accepting: bool = True
        self._closed = False

    # --- publish

    async def publish(self, name: str, data: bytes, key: str | None, ttl: float) -> None:
        """Write a delivery down, whose key has been taken; return once it is."""
        batch, row = self.writer.pending, self._new(name, data)
        batch.awaited.append(row)
        if key is not None:
            batch.awaited_keys.append(key)
            batch.keys[key] = self._now() + ttl
        self.writer.wish()
        try:
            await batch.done.wait()
        except BaseException:
            if batch is self.writer.pending:  # else it is being written
                self._take_back(batch, row, key)
            raise
        if batch.failure is not None:
            await batch.written()

    def publish_soon(self, name: str, data: bytes, key: str | None, ttl: float) -> None:
        """Have a delivery written soon, whose key has been taken."""
        batch = self.writer.pending
        batch.unawaited.append(self._new(name, data))
        if key is not None:
            batch.keys[key] = self._now() + ttl
        self.writer.wish()

    async def replay(self, letter_id: str) -> bool:
        """Accept a dead letter anew; False when there is none of that id."""
        batch = self.writer.pending
        if letter_id in batch.replays:
            return False
        batch.replays[letter_id] = self._new_position()
        self.writer.wish()
        await batch.written()
        return letter_id in batch.replayed

    def _new(self, name: str, data: bytes) -> Row:
        position = self._new_position()
        return position, f"{self._opening}-{position:x}", storable(name), data

    def _new_position(self) -> int:
        self._position += 1
        return self._position

    def _take_back(self, batch: Batch, row: Row, key: str | None) -> None:
        batch.awaited.remove(row)
        if key is not None:
            batch.awaited_keys.remove(key)
            self.keys.release(key)

    # --- hand out

    def take(self) -> SQLiteDelivery | None:
        """The first delivery that is at hand."""
        return self._ready.popleft() if self._ready else None

    async def wait_and_take(self) -> SQLiteDelivery:
        """The first delivery, once there is one."""
        self._asking += 1
        try:
            async with self._turn:
                while not self._ready:
                    if self._waiting and not self._only_ungranted_wait:
                        self.writer.wish()
                    await self._arrived.wait()
                return self._ready.popleft()
        finally:
            self._asking -= 1

    def _demand(self) -> int:
        """How many to take out of the file: none but for those who ask, since taking counts as an attempt."""
        return max(self._asking - len(self._ready), 0) if self._handing_out else 0

    def grant(self, name: str, count: float) -> None:
        """Hand out so many more of this name, and from now on no others."""
        name = storable(name)
        self._grants[name] = self._grants.get(name, 0) + count
        self._only_ungranted_wait, self._was_granted = False, True
        if self._waiting:
            self.writer.wish()

    def stop_handing_out(self) -> None:
        """Hand out nothing more; what was taken out for nobody goes back, and was no attempt."""
        self._handing_out = False
        positions = [delivery.position for delivery in self._ready]
        self._ready.clear()
        self._held.difference_update(positions)
        self.writer.pending.untaken += [(position,) for position in positions]
        self.writer.wish()

    # --- settle

    def ack(self, position: int) -> None:
        """It is done."""
        if self._let_go(position):
            self.writer.pending.acked.append((position,))

    def nack(self, position: int, delay: float) -> None:
        """Hand it out again after `delay` seconds, behind all that waits then."""
        if self._let_go(position):
            self.writer.pending.later.append((self._now() + delay, position))

    def bury(self, position: int, why: str) -> None:
        """Keep it among the dead letters."""
        if self._let_go(position):
            self.writer.pending.dead.append((storable(why), self._now(), position))

    def _let_go(self, position: int) -> bool:
        if self._closed:
            raise EventBusClosed("the event bus is closed: the delivery is handed out again when it is opened next")
        if position not in self._held:
            return False  # settled before
        self._held.discard(position)
        self.writer.wish()
        return True

    # --- come to rest

    async def drain(self) -> None:
        """See `SQLiteBus.drain`."""
        grace = anyio.current_effective_deadline() - anyio.current_time()
        with anyio.move_on_after(grace * DRAIN_SHARE):
            await self._until(lambda: self._is_at_rest() and (self._is_gone() or self._nothing_waits()))
            return
        self.stop_handing_out()
        await self._until(self._is_at_rest)

    def take_out_the_lost(self) -> Sequence[SQLiteDelivery]:
        """Take out what was accepted and cannot be written, and what waited in a file that is gone."""
        gone = self._file.failure
        if self.writer.failure is None and gone is None:
            return ()
        unwritten = self.writer.take_out_unwritten()
        lost = [
            SQLiteDelivery(self, position, id, name, 1, decode_data(data)) for position, id, name, data in unwritten
        ]
        if gone is not None and self._waiting:
            logger.error(
                "%d events that waited are not handled, unless the file is brought back: %s", self._waiting, gone
            )
            lost += [SQLiteDelivery(self, 0, "", "", 1, {}) for _ in range(self._waiting)]
            self._waiting = 0
        return lost

    def stop(self) -> None:
        """Accept nothing more, and hand nothing out."""
        self.accepting = False
        self.stop_handing_out()

    def close(self) -> None:
        """Have the writer end."""
        self.stop()
        self.keys.write_claims()
        self._closed = True
        self.writer.close()

    def _is_at_rest(self) -> bool:
        """Whether nothing is in hand, and all is written that can be: a file that is gone takes nothing more."""
        return not self._held and (self.writer.is_at_rest or self._is_gone())

    def _is_gone(self) -> bool:
        return self._file.failure is not None

    def _nothing_waits(self) -> bool:
        return not self._waiting and self._next_due > self._now()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.writer.turned()

    # --- what the writer asks and tells

    def time_to_turn(self) -> float:
        if self._waiting and not self._only_ungranted_wait and self._demand():
            return 0.0
        return max(self._next_due - self._now(), 0.0)

    def order(self) -> Order:
        now, due_position = self._now(), None
        if self._next_due <= now:
            due_position = self._position + 1
            self._position += MOVED_AT_ONCE
        self._was_granted, demand = False, self._demand()
        self._cursors = dict.fromkeys(self._grants, self._cursor) | self._cursors
        named = {name: (cursor, int(min(self._grants[name], demand))) for name, cursor in self._cursors.items()}
        return Order(self._cursor, demand, now, due_position, self._position, named)

    def carried_out(self, receipt: Receipt) -> None:
        self._waiting += receipt.joined - len(receipt.taken)
        self._next_due = math.inf if receipt.next_due is None else receipt.next_due
        self._only_ungranted_wait = receipt.all_looked_through and not self._was_granted
        self._cursor, self._cursors = receipt.cursor, dict(receipt.named)
        if not receipt.taken:
            return
        for taken in receipt.taken:
            self._held.add(taken.position)
            if taken.name in self._grants:
                self._grants[taken.name] -= 1
        self._ready.extend(SQLiteDelivery(self, *taken) for taken in receipt.taken)
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()
        if not self._handing_out:
            self.stop_handing_out()

    def failed(self, batch: Batch) -> None:
        for key in batch.awaited_keys:
            self.keys.untake(key)
