"""What one replica claims out of Redis: entries that come, what others have left, and the leases of what it holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio

from definable.concurrency.logs import logger_named
from definable.errors import StorageError
from definable.storage.redis_address import RedisAway, data, integer, list_of, stream_entry
from definable.storage.redis_link import RedisLink

from .batch import Claim, Handle, Limit, Message, decode_data
from .redis_script import (
    BusScript,
    claimed_entry,
    due_time,
    milliseconds,
    passed_answer,
    readable,
    slot_args,
    storable,
    swept_answer,
)
from .shared import SharedConsumer
from .store import Queue

logger: logging.Logger = logger_named(__name__)

WAITS, HAS_SLOT, IS_SURPLUS = range(3)
"""What `admit` answers of a message."""

HELD_AT_ONCE = 500
"""Leases that are renewed in one call."""


class RedisConsumer(SharedConsumer):
    """Claims for one opening of a bus, and renews the leases of what is claimed.

    Args:
        script: What Redis does.
        commands: The connection of the script.
        reads: A connection that is blocked most of the time, waiting for what comes.
        queue: The engine.
        opening: The name of this consumer in Redis.
        lease: Seconds.
        unknown_ttl: Seconds after which messages without a handler are dead letters.
    """

    def __init__(
        self,
        script: BusScript,
        commands: RedisLink,
        reads: RedisLink,
        queue: Queue,
        *,
        opening: str,
        lease: float,
        unknown_ttl: float,
    ) -> None:
        super().__init__(queue, opening=opening, lease=lease, unknown_ttl=unknown_ttl)
        self.last_entry: bytes = b"0-0"
        """The last that this opening has brought into the stream."""
        self._script, self._commands, self._reads = script, commands, reads
        self._parked: set[str] = set()
        """Names with a list of their own, as far as is known."""
        self._blocked: set[str] = set()
        """Of them, those that had no free slot when they were last asked for."""
        self.slots: dict[Handle, str] = {}
        """What is held of a limited name, and the name."""
        self.answers_lost: bool = False
        """Whether a connection may have taken along what Redis had claimed for this consumer."""
        self._held_in_redis = False
        self._last_beat = 0.0
        self._cursor = b"0-0"

    @property
    def failure(self) -> Exception | None:
        """Why nothing can be read at present; None while it can."""
        return self._reads.failure

    def wanted(self, claim: Claim) -> Sequence[tuple[str, int]]:
        """From which lists of names a batch claims, and how many."""
        left, wanted = claim.demand, list[tuple[str, int]]()
        for name in self._parked:
            count = int(min(claim.grants.get(name, left), left))
            if count > 0 and (claim.known is None or name in claim.known):
                wanted.append((name, count))
                left -= count
        return wanted

    def claimed(self, answer: Sequence[Any], claim: Claim) -> tuple[Sequence[Message], bool]:
        """What a batch claimed, as `applied_answer` read it, and whether more could be claimed."""
        _, _, _, last, claimed, empty, _, _, blocked = answer
        self.last_entry = last or self.last_entry
        self._parked -= {readable(name) for name in empty}
        self._blocked = {readable(name) for name in blocked}
        messages = [message for entry in claimed if (message := self._message(*entry)) is not None]
        self.slots |= {message.handle: message.name for message in messages if message.name in claim.limits}
        has_more = any(
            (claim.known is None or name in claim.known)
            and name not in self._blocked
            and claim.grants.get(name, math.inf) - sum(message.name == name for message in messages) >= 1
            for name in self._parked
        )
        return messages, has_more

    # --- claims

    async def _take(self) -> None:
        if self.answers_lost:
            await self._recover()
        await super()._take()

    async def recover_connection(self) -> None:
        self.answers_lost = True
        await self._reads.is_up()

    async def prepare(self) -> None:
        await self._script.prepare()

    async def connection_changed(self) -> None:
        await self._commands.is_down()
        await self._commands.is_up()

    async def sweep(self) -> None:
        if anyio.current_time() - self._last_beat > self._lease / 2:
            await self.renew()  # its own are not others'
        known = self._queue.claim.known
        unknown = [] if known is None else [storable(name) for name in self._parked if name not in known]
        args = (self._cursor, max(self._queue.demand, 1), milliseconds(self._unknown_ttl), len(unknown), *unknown)
        self._cursor, swept, due, parked = await self._script.call("sweep", *args, read=swept_answer)
        self._parked = {readable(name) for name in parked}
        if self._cursor == b"0-0":
            self.sweep_is_done()
        has_more = any(known is None or name in known for name in self._parked)
        await self._arrived([entry for entry in swept if entry[0] not in self._queue.held], due, has_more=has_more)

    async def _recover(self) -> None:
        """What Redis has claimed for this consumer, whose answers were lost: else it would wait for a lease to end."""
        await self._commands.is_up()
        known = self._queue.claimed
        entries = await self._script.call("recover", len(known), *known, read=list_of(claimed_entry))
        self.answers_lost = False
        await self._arrived(entries)

    async def take_new(self, seconds: float) -> None:
        count = max(self._queue.demand, 1)
        words = ("GROUP", "workers", self._opening, "COUNT", count, "BLOCK", milliseconds(seconds), "STREAMS")
        entries = await self._reads.call(
            b"XREADGROUP", *words, self._script.stream, ">", read=self._new_entries, blocks=seconds
        )
        await self._arrived([(entry, fields, 1, 0) for entry, fields in entries])
        await self._queue.asked_again(len(entries))

    def _new_entries(self, answer: Any) -> list[tuple[bytes, list[bytes]]]:
        """What XREADGROUP answers: nothing, or the entries by the stream's name."""
        if answer is None or answer == {}:
            return []
        if not isinstance(answer, dict):
            raise ValueError("a stream was expected")
        return list_of(stream_entry)(cast("dict[object, Any]", answer).get(self._script.stream.encode()))

    async def _arrived(
        self, entries: Sequence[tuple[bytes, list[bytes], int, int]], due: int | None = None, *, has_more: bool = False
    ) -> None:
        """Pass on what can be begun; all else goes to the list of its name, for whoever can."""
        found = [message for entry in entries if (message := self._message(*entry)) is not None]
        _, grants, known, limits = self._queue.claim
        if limits:
            found = await self._admitted(found, grants, limits)
        messages: list[Message] = []
        used: dict[str, int] = {}
        for message in found:
            name = message.name
            is_known = known is None or name in known
            # What waits in the list of its name comes before what is new, and behind what was given back.
            is_behind = name in self._parked and due is None and name not in limits
            if not is_known or is_behind or grants.get(name, math.inf) - used.get(name, 0) < 1:
                if not is_known and name not in self._parked:
                    logger.warning(
                        "no handler is registered for %r: its deliveries wait for a process that has one", name
                    )
                self._parked.add(name)
                self._queue.dismiss(message.handle, by_name=True)
                continue
            used[name] = used.get(name, 0) + 1
            messages.append(message)
        self._queue.arrived(messages, next_due=None if due is None else due_time(due), has_more=has_more)

    # --- slots of limited names

    async def _admitted(
        self, messages: list[Message], grants: Mapping[str, float], limits: Mapping[str, Limit]
    ) -> list[Message]:
        """Those that need no slot or have one, and surplus ones; the others are in the lists of their names now."""
        left = dict(grants)
        args: list[Any] = []
        for handle, _, name, _, attempts, *_ in messages:
            if name in limits:
                size, skip = limits[name]
                args += (handle, storable(name), size if left.get(name, 1) >= 1 else 0, int(skip and not attempts))
                left[name] = left.get(name, math.inf) - 1
        if not args:
            return messages
        verdicts = iter(await self._script.call("admit", len(args) // 4, *args, read=list_of(integer)))
        admitted: list[Message] = []
        for message in messages:
            verdict = next(verdicts, WAITS) if message.name in limits else None
            if verdict == WAITS:
                self._parked.add(message.name)
                continue
            if verdict == HAS_SLOT:
                self.slots[message.handle] = message.name
            admitted.append(message if verdict != IS_SURPLUS else message._replace(is_surplus=True))
        return admitted

    def slots_of(self, handles: Iterable[Handle]) -> Mapping[Handle, str]:
        """Those that these hold."""
        return {handle: self.slots[handle] for handle in handles if handle in self.slots}

    def forget_slots(self, handles: Iterable[Handle]) -> None:
        """They are free: Redis has been told."""
        for handle in handles:
            self.slots.pop(handle, None)

    # --- messages and leases

    def _message(self, handle: bytes, fields: Sequence[bytes], claims: int, extra: int) -> Message | None:
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        try:
            earlier = int(found.get(b"a", 0)) + extra + claims - 1
            name, decoded = readable(found[b"n"]), decode_data(found[b"d"])
            group = found[b"g"].decode() if b"g" in found else None
            return Message(handle, found[b"i"].decode(), name, decoded, earlier, claims, False, group)
        except (StorageError, KeyError, ValueError, TypeError):
            logger.exception("the entry %s is no event of ours: it is dropped", handle)
            self._queue.dismiss(handle, by_name=False)
            return None

    async def renew(self) -> None:
        """Renew the leases of what is held, and let go of what was lost."""
        held = [*self._queue.held]
        for begin in range(0, max(len(held), 1), HELD_AT_ONCE):
            some = held[begin : begin + HELD_AT_ONCE]
            slots = slot_args(self.slots_of(some))
            for handle in await self._script.call("heartbeat", len(some), *some, *slots, read=list_of(data)):
                self.slots.pop(handle, None)
                self._queue.lease_lost(handle)
        self._last_beat = anyio.current_time()

    # --- come to rest

    async def is_drained(self) -> bool:
        try:
            passed, held, parked = await self._script.call("passed", self.last_entry, read=passed_answer)
        except RedisAway:
            return False
        except StorageError as refusal:  # somebody has removed the stream: what is held is finished all the same
            logger.warning("what is left cannot be told at present: %s", refusal)
            with suppress(StorageError):
                await self._script.prepare()
            return False
        self._held_in_redis = held
        known = self._queue.claim.known
        self._parked = {readable(name) for name in parked}
        # What waits for a slot of another process is for that one.
        others = self._blocked - {*self.slots.values()}
        return passed and not any(known is None or name in known for name in self._parked - others)

    async def rest(self) -> bool:
        if self.is_taking:  # a read that was cut off rather than ended may have claimed what nobody would know of
            with suppress(StorageError):
                await self._commands.call(b"CLIENT UNBLOCK", self._reads.client_id, read=integer)
        return not (self._held_in_redis or self.is_taking)
