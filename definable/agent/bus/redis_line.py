"""One opening of a `RedisBus`: its two connections, and how it begins, comes to rest and ends.

`_commands` carries the writer's turns, the heartbeats and whatever else is asked; `_reads` is blocked most of the time,
waiting for what comes. The writer tells Redis, the taker takes from it, the hands hold what was taken.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio

from definable.errors import EventBusClosed, StorageError
from definable.storage.redis_address import RedisAddress, integer
from definable.storage.redis_link import RedisAway, RedisLink, Script, linked

from .base import DeadLetter, WaitingRun
from .codec import decode_data
from .redis_hands import RedisDelivery, RedisHands, delivery_of
from .redis_scripts import CLAIM, CLOSE, LIST_DEAD, OPEN, PASSED, RELEASE, REPLAY, SCRIPTS
from .redis_taker import Entry, RedisTaker
from .redis_turn import Publication, Turn, milliseconds, readable
from .redis_waiting import waiting_runs
from .redis_writer import RedisWriter

Answer = TypeVar("Answer")

logger: logging.Logger = logging.getLogger(__name__)

DRAIN_SHARE = 0.5
"""Of the time that a drain has: the part in which what waits is still handed out."""

DRAIN_PAUSE = 0.05
"""Seconds between two questions for what others have taken."""

CLOSE_TIMEOUT = 5.0
"""Seconds that closing may take."""


class RedisLine:
    """The deliveries of one opening, on one event loop.

    Args:
        prefix: What every key begins with.
        lease: Seconds.
        timeout: Seconds for which a claim waits for those before it.
        commands: A connection.
        reads: Another.
    """

    def __init__(self, prefix: str, lease: float, timeout: float, commands: RedisLink, reads: RedisLink) -> None:
        self.opening: str = os.urandom(8).hex()
        self.hands: RedisHands = RedisHands()
        self.accepting: bool = True
        self.began: anyio.Event = anyio.Event()
        """Set when `run` runs."""
        self._prefix = tag = f"{{{prefix}}}"
        self._commands, self._reads = commands, reads
        self._timeout = timeout
        self._keys = [f"{tag}:line", f"{tag}:later", f"{tag}:dead", f"{tag}:dead:order"]
        self._args = [tag, self.opening, milliseconds(lease)]
        turn_keys = [*self._keys, f"{tag}:turn:{self.opening}"]
        self.writer: RedisWriter = RedisWriter(commands, turn_keys, self._args, self.prepare)
        self._taker = RedisTaker(commands, reads, self._keys, self._args, lease, self.hands, self)
        self._numbers = itertools.count(1)
        self._closed = False
        self._closing = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)
        self._claimed_until = 0.0
        self._forgetting: Turn | None = None
        """The last turn in which keys are to be forgotten."""

    def _key(self, name: bytes) -> bytes:
        """The key in Redis of a dedupe key."""
        return f"{self._prefix}:key:".encode() + name

    async def _ask(self, script: Script[Answer], *args: Any, keys: Sequence[Any] = ()) -> Answer:
        """A script's answer, waiting for a Redis that is away; for scripts that may be run twice."""
        return await self._commands.insist(script, [*self._keys, *keys], [*self._args, *args])

    @property
    def failure(self) -> StorageError | None:
        """Why it does not work at present."""
        return self.writer.failure or self._reads.failure

    # --- publish

    def publication(self, name: str, data: bytes, key: bytes | None, ttl: float, *, is_awaited: bool) -> Publication:
        """New work, which the writer is to tell Redis of."""
        id = f"{self.opening}-{next(self._numbers)}"
        publication = Publication(id, name, data, None if key is None else self._key(key), ttl, is_awaited)
        self.writer.publish(publication)
        self.hands.rest(False)
        return publication

    def undelivered(self, left: Publication) -> RedisDelivery:
        """What would have been delivered, for the last account."""
        return RedisDelivery(self, b"", left.id, left.name, 1, decode_data(left.data))

    # --- claim

    async def claim(self, key: bytes, ttl: float) -> bool:
        """Take a key without a publication; False when it is taken."""
        self._claimed_until = max(self._claimed_until, anyio.current_time() + ttl)
        await self._forgotten()
        value = f"claim:{self.opening}:{next(self._numbers)}"
        args = (value, milliseconds(ttl))
        try:
            return bool(await self._ask(CLAIM, *args, keys=[self._key(key)]))
        except BaseException:  # Redis may have it all the same, and nobody would ever release it
            self._forget_later(key, value)
            raise

    async def release(self, key: bytes) -> None:
        """Forget a key."""
        try:
            await self._ask(RELEASE, keys=[self._key(key)])
        except BaseException:
            self._forget_later(key, "")
            raise

    async def _forgotten(self) -> None:
        """Wait until Redis has forgotten what it is to forget: that might take a new claim along."""
        if self._forgetting is None:
            return
        with anyio.move_on_after(self._timeout):
            return await self._forgetting.done.wait()
        raise RedisAway(str(self.failure or f"Redis did not answer within {self._timeout:g} s"))

    def _forget_later(self, key: bytes, value: str) -> None:
        self._forgetting = self.writer.pending
        self._forgetting.unclaimed.append((self._key(key), value))
        self.writer.wish()

    # --- settle

    def ack(self, delivery: RedisDelivery) -> None:
        """It is done."""
        if self._let_go(delivery):
            self.writer.pending.acked.append(delivery.entry)

    def give_back(self, delivery: RedisDelivery) -> None:
        """It was not begun."""
        if self._let_go(delivery):
            self.writer.pending.untaken.append(delivery.entry)

    def nack(self, delivery: RedisDelivery, delay: float) -> None:
        """Hand it out again after `delay` seconds, behind all that waits then."""
        if self._let_go(delivery):
            self.writer.pending.later.append((delivery.entry, delay))

    def bury(self, delivery: RedisDelivery, why: str) -> None:
        """Keep it among the dead letters."""
        if self._let_go(delivery):
            self.writer.pending.dead.append((delivery.entry, why))

    def _let_go(self, delivery: RedisDelivery) -> bool:
        if self._closed:
            raise EventBusClosed("the event bus is closed: the delivery is handed out again")
        if self.hands.held.get(delivery.entry) is not delivery:
            return False  # settled before, or somebody else's by now
        del self.hands.held[delivery.entry]
        self.writer.wish()
        return True

    # --- dead letters

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Oldest first."""
        letters = await self._ask(LIST_DEAD)
        return [
            DeadLetter(id.decode(), readable(name), decode_data(data), attempt, readable(why), at / 1000)
            for id, name, data, attempt, why, at in letters
        ]

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The promised runs that are not settled."""
        return await waiting_runs(self._commands, self._keys, self._args, names, limit)

    async def replay(self, letter_id: str) -> bool:
        """Bring a dead letter back to life."""
        entry = await self._commands.script(REPLAY, self._keys, [*self._args, letter_id])
        self.writer.last_entry = entry or self.writer.last_entry
        self.hands.rest(False)
        return bool(entry)

    # --- what the taker asks and tells

    async def prepare(self) -> None:
        """Make in Redis what is missing there."""
        await self._ask(OPEN)

    def due_in(self, milliseconds: int) -> None:
        self.writer.due_in(milliseconds)

    def arrived(self, entries: Sequence[Entry]) -> None:
        deliveries: list[RedisDelivery] = []
        for entry, fields, times in entries:
            try:
                deliveries.append(delivery_of(self, entry, fields, times))
            except (StorageError, KeyError, ValueError, TypeError):
                logger.exception("the entry %s is no event of ours: it is dropped", entry)
                self.writer.pending.acked.append(entry)
                self.writer.wish()
        self.hands.put(deliveries)
        if self.hands.closed:
            self._give_back_untaken()

    # --- come to rest

    def stop_handing_out(self) -> None:
        """Hand out nothing more."""
        self.hands.close()
        self._give_back_untaken()

    def _give_back_untaken(self) -> None:
        """What was taken for nobody was no attempt."""
        self.writer.pending.untaken += [delivery.entry for delivery in self.hands.take_back()]
        self.writer.wish()

    def stop(self) -> None:
        """Accept nothing more, and hand nothing out."""
        self.accepting = False
        self.stop_handing_out()

    async def drain(self) -> None:
        """See `RedisBus.drain`."""
        grace = anyio.current_effective_deadline() - anyio.current_time()
        with anyio.move_on_after(grace * DRAIN_SHARE):
            while not await self._is_drained():
                await self._next_change()
            return
        self.stop_handing_out()
        while not self._is_at_rest:
            await self._next_change()

    async def _is_drained(self) -> bool:
        entry = self.writer.last_entry
        try:
            passed, in_hand = await self._commands.script(PASSED, self._keys, [*self._args, entry or b"0-0"])
        except RedisAway:
            return False
        except StorageError as refusal:  # somebody has removed the line: what is in hand is finished all the same
            logger.warning("what is left cannot be told at present: %s", refusal)
            with suppress(StorageError):
                await self.prepare()
            return False
        if not (passed and self.writer.is_at_rest and self.writer.last_entry == entry):
            self.hands.rest(False)
            return False
        self.hands.rest(True)  # what others bring from now on is for them
        if self._taker.is_taking:
            await self._end_read()
        return not (in_hand or self._taker.is_taking) and self._is_at_rest

    async def _end_read(self) -> None:
        """A read that was cut off rather than ended may have taken what nobody would know of."""
        with suppress(StorageError):
            await self._commands.call(b"CLIENT UNBLOCK", self._reads.client_id, read=integer)

    async def _next_change(self) -> None:
        with anyio.move_on_after(DRAIN_PAUSE):
            await self.writer.turned()

    @property
    def _is_at_rest(self) -> bool:
        return not self.hands.held and self.writer.is_at_rest

    async def run(self) -> None:
        """Work until closed; cancellation does not end it sooner."""
        with self._scope:  # shielded, since what was accepted must be told; `close` sets its deadline
            self.began.set()
            async with anyio.create_task_group() as holding:
                holding.start_soon(self._taker.beat)
                async with anyio.create_task_group() as telling:
                    telling.start_soon(self.writer.run)
                    await self._read_until_closing()
                    self.writer.close()
                with suppress(StorageError):
                    claims = max(self._claimed_until - anyio.current_time(), 0.001)
                    await self._commands.script(CLOSE, self._keys, [*self._args, milliseconds(claims)])
                holding.cancel_scope.cancel()
        self.writer.give_up()

    async def _read_until_closing(self) -> None:
        async with anyio.create_task_group() as reading:
            reading.start_soon(self._taker.read)
            await self._closing.wait()
            await self._end_read()
            if self._commands.failure or self._reads.failure:
                reading.cancel_scope.cancel()

    def close(self) -> None:
        """Have `run` end: tell Redis what is left to be told, and give back what is in hand."""
        self.stop()
        self._closed = True
        self._scope.deadline = anyio.current_time() + CLOSE_TIMEOUT
        self._closing.set()


@asynccontextmanager
async def opened_line(
    address: RedisAddress, prefix: str, lease: float, timeout: float
) -> AsyncGenerator[RedisLine, None]:
    """A line that works while the context is open.

    Raises:
        StorageError: Redis cannot be reached, or does not know what is needed of it.
    """
    async with linked(address, SCRIPTS, timeout=timeout) as commands, linked(address, timeout=timeout) as reads:
        line = RedisLine(prefix, lease, timeout, commands, reads)
        await line.prepare()
        async with anyio.create_task_group() as group:
            group.start_soon(line.run)  # `start`, cancelled, would wait for the end of what is shielded
            try:
                await line.began.wait()
                yield line
            finally:
                line.close()
