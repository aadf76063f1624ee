"""Takes from Redis, for an open `RedisBus`, what is asked for, and renews the leases of what it took."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast

import anyio

from definable.errors import StorageError
from definable.storage.redis_address import list_of, stream_entry
from definable.storage.redis_link import RedisAway, RedisLink

from .redis_hands import RedisHands
from .redis_scripts import HEARTBEAT, SWEEP
from .redis_turn import milliseconds

logger: logging.Logger = logging.getLogger(__name__)

MAX_BLOCK = 1.0
"""Seconds between two looks for what nobody cares for any more."""

BEATS = 3
"""Heartbeats in the time of a lease."""

HELD_AT_ONCE = 500
"""Leases that are renewed in one call."""

Entry: TypeAlias = tuple[bytes, list[bytes], int]
"""An entry of the stream, its fields, and how often it was handed out, this time included."""


class TakerHost(Protocol):
    """Whom the taker works for."""

    async def prepare(self) -> None:
        """Make in Redis what is missing there."""
        ...

    def due_in(self, milliseconds: int) -> None:
        """So soon something comes due; negative when nothing does."""
        ...

    def arrived(self, entries: Sequence[Entry]) -> None:
        """These were taken."""
        ...


class RedisTaker:
    """Takes, for one opening of a bus.

    Args:
        commands: A connection.
        reads: Another, which it blocks.
        keys: Of every script; the first is the line.
        args: The first of every script.
        lease: Seconds.
        hands: What was taken is in there, and who asks for more.
        host: Whom it works for.
    """

    def __init__(
        self,
        commands: RedisLink,
        reads: RedisLink,
        keys: Sequence[str],
        args: Sequence[Any],
        lease: float,
        hands: RedisHands,
        host: TakerHost,
    ) -> None:
        self.is_taking: bool = False
        """Whether something may be on its way from Redis."""
        self._commands, self._reads = commands, reads
        self._keys, self._args = keys, args
        self._lease = lease
        self._hands = hands
        self._host = host
        self._next_sweep = 0.0
        self._last_beat = 0.0
        self._cursor = b"0-0"

    async def read(self) -> None:
        """Take what comes, as much as is asked for, until nothing more will be."""
        while await self._hands.asked():
            self.is_taking = True
            try:
                await self._take()
            except RedisAway:
                await self._reads.is_up()
                self._let_others_renew()
            except StorageError as refusal:
                logger.warning("nothing can be taken at present: %s", refusal)
                with suppress(StorageError):
                    await self._host.prepare()
                await anyio.sleep(MAX_BLOCK)
                self._let_others_renew()
            finally:
                self.is_taking = False

    def _let_others_renew(self) -> None:
        """Those who hold something renew their leases first: they were not dead, Redis was not to be had."""
        self._next_sweep = anyio.current_time() + self._lease / BEATS

    async def beat(self) -> None:
        """Renew leases until cancelled, and as soon as Redis is back."""
        while True:
            pause = self._lease / BEATS
            try:
                await self.renew()
            except RedisAway:
                pass
            except StorageError:  # it is there, and will not say when it takes writes again
                pause = min(pause, MAX_BLOCK)
            with anyio.move_on_after(pause):
                await self._commands.is_down()
                await self._commands.is_up()

    async def renew(self) -> None:
        """Renew the leases of what is in hand, and let go of what was lost."""
        held = [*self._hands.held]
        for begin in range(0, max(len(held), 1), HELD_AT_ONCE):
            some = held[begin : begin + HELD_AT_ONCE]
            for entry in await self._commands.script(HEARTBEAT, self._keys, [*self._args, len(some), *some]):
                if (lost := self._hands.lose(entry)) is not None:
                    logger.warning("the lease of delivery %s (%s) is lost: another has it now", lost.id, lost.name)
        self._last_beat = anyio.current_time()

    async def _take(self) -> None:
        pause = self._next_sweep - anyio.current_time()
        entries = await self._sweep() if pause <= 0 else await self._await_new(pause)
        if entries:
            self._host.arrived(entries)

    async def _sweep(self) -> Sequence[Entry]:
        """What others have left."""
        if anyio.current_time() - self._last_beat > self._lease / 2:
            await self.renew()  # its own are not others'
        args = [*self._args, self._cursor, self._count]
        self._cursor, swept, due = await self._commands.script(SWEEP, self._keys, args)
        self._host.due_in(due)
        if self._cursor == b"0-0":
            # By chance: Redis gives to whoever waits longest, and of replicas that began anew each second that would be
            # the same one for all that comes each second.
            pause = min(MAX_BLOCK, self._lease / BEATS) * random.uniform(0.5, 1.0)
            self._next_sweep = anyio.current_time() + pause
        return [(entry, fields, times) for entry, fields, times in swept if entry not in self._hands.held]

    async def _await_new(self, seconds: float) -> Sequence[Entry]:
        words = ("GROUP", "workers", self._args[1], "COUNT", self._count, "BLOCK", milliseconds(seconds), "STREAMS")
        entries = await self._reads.call(
            b"XREADGROUP", *words, self._keys[0], ">", read=self._new_entries, blocks=seconds
        )
        return [(id, fields, 1) for id, fields in entries]

    def _new_entries(self, answer: Any) -> list[tuple[bytes, list[bytes]]]:
        """What XREADGROUP answers: nothing, or the entries by the stream's name."""
        if answer is None or answer == {}:
            return []
        if not isinstance(answer, dict):
            raise ValueError("a stream was expected")
        return list_of(stream_entry)(cast("dict[object, Any]", answer).get(self._keys[0].encode()))

    @property
    def _count(self) -> int:
        return max(self._hands.demand, 1)
