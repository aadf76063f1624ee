"""The event bus on Redis Streams: any number of processes share it. `RedisBus`, and its store.

`redis.lua` is what the server does whole.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import random
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import ConfigurationError, StorageError
from definable.storage.redis_address import (
    KeyPrefix,
    RedisAddress,
    RedisAway,
    anything,
    data,
    integer,
    items,
    list_of,
    nothing,
    stream_entry,
)

from .base import MAX_SCANNED, DeadLetter, WaitingRun
from .codec import decode_data
from .queue import DEFAULT_BUFFER, MAX_DELIVERIES, UNKNOWN_TTL
from .queue_bus import QueueBus
from .store import Applied, BatchRefused, Claim, Handle, Message, Queue, WriteBatch

if TYPE_CHECKING:
    from definable.storage.redis_link import RedisLink, Script

Answer = TypeVar("Answer")

logger: logging.Logger = logging.getLogger(__name__)

DEFAULT_LEASE = 30.0
"""Seconds."""

DEFAULT_TIMEOUT = 5.0
"""Seconds."""

MAX_PUBLICATIONS = 500
"""In one batch: while Redis runs a script, nobody else is served."""

MAX_BLOCK = 1.0
"""Seconds between two looks for what no process cares for any more."""

BEATS = 3
"""Heartbeats in the time of a lease."""

HELD_AT_ONCE = 500
"""Leases that are renewed in one call."""

PAGE = 100
"""Entries of the stream that are read at once."""

LARGE = 64 * 1024
"""Bytes of an event that may itself be why the connection is lost whenever it is sent."""

MAX_LOSSES = 3
"""Times that a connection is lost while one large event is sent, before it is refused."""

TOO_LARGE = ("exceeds", "too large", "too big", "invalid bulk length")
"""In an error of Redis: it will say the same again."""


class RedisBus(QueueBus):
    """Shares events over replicas: each is handled by one of them. For Redis or Valkey from 6.2 on.

    - What `await publish` accepted is with Redis, and as safe as Redis keeps it (`appendonly yes` survives the death of
      Redis). `publish_nowait` never blocks; what it accepted is sent to Redis with everything else that has come
      together, a round trip later, or when Redis is back.
    - Who is handed a delivery holds it under a lease, which is renewed while its process lives. What a process that
      dies held, others take over when the lease has run out: at least once, as the next attempt, and after
      `max_deliveries` it is a dead letter. A handler whose lease is lost (the process hung, Redis was out of its reach)
      is cancelled.
    - A process that stops gives back what it holds, and others have it within a second.
    - What a process cannot begin goes back to all: messages behind the limit of a trigger or for a chat, and those
      without a handler here, which wait `unknown_ttl` seconds for a process that has one and are dead letters then.
    - A key of `publish` or `claim` is taken for all replicas, so that a cron tick fires once whatever their clocks say.
    - While Redis is away the service lives on: `failure` says why, `publish` waits for `timeout` seconds and then
      raises `StorageError`, `publish_nowait` accepts as much as the buffer holds, handlers go on, and the connection is
      made again, with backoff. A batch whose answer got lost is repeated under its number, and written once. One event
      that Redis will never take fails alone.
    - The last 10,000 dead letters are kept.
    - A delivery names its trigger by the source and the handler's qualified name.

    Args:
        url: `redis://[user:password@]host[:port][/db]`, `rediss://...` for TLS, `unix:///path`. Any node of a cluster:
            all keys are on one, which is found.
        prefix: Replicas that share events have it in common; services that share a Redis do not. None: `"definable"`,
            followed by the agent's name where it has one.
        lease: Seconds after which the work of a process that has died moves on.
        timeout: Seconds for which callers wait for a Redis that does not answer, and after which it counts as away.
        buffer: How many publications may wait to be sent to Redis; beyond it `publish_nowait` raises and `publish`
            waits.
        max_deliveries: How often a message is handed out although nothing came of it, as when its handler ends the
            process.
        unknown_ttl: Seconds.

    Raises:
        ConfigurationError: A value is out of its range, or the URL is none of Redis's.
        MissingExtra: coredis is not installed.

    Example:
        >>> from definable.agent import Agent
        >>> from definable.agent.bus import RedisBus
        >>> agent = Agent("offline", bus=RedisBus("redis://localhost:6379"))
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        *,
        prefix: str | None = None,
        lease: float = DEFAULT_LEASE,
        timeout: float = DEFAULT_TIMEOUT,
        buffer: int = DEFAULT_BUFFER,
        max_deliveries: int = MAX_DELIVERIES,
        unknown_ttl: float = UNKNOWN_TTL,
    ) -> None:
        for name, seconds in (("lease", lease), ("timeout", timeout)):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ConfigurationError(f"{name}={seconds!r}: seconds, greater than 0")
        super().__init__(buffer=buffer, timeout=timeout, max_deliveries=max_deliveries, waiting="wait for Redis")
        self._address = RedisAddress(url, "RedisBus")
        self._prefix = KeyPrefix(prefix, "RedisBus")
        self._store_options: dict[str, Any] = {
            "lease": lease,
            "timeout": timeout,
            "unknown_ttl": unknown_ttl,
        }

    def __repr__(self) -> str:
        return f"RedisBus({self._address!r})"

    def new_store(self) -> RedisStore:
        return RedisStore(self._address, prefix=str(self._prefix), **self._store_options)

    def belongs_to(self, agent: str | None) -> None:
        """Keep events under an agent's name, where no prefix was given; called when an agent is given the bus.

        Raises:
            ConfigurationError: Agents of several names share it.
        """
        self._prefix.follow(agent)

    @property
    def durable(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        return True

    async def dead_letters(self) -> Sequence[DeadLetter]:
        queue = self._opened()
        with suppress(StorageError):  # while Redis refuses what is new, it still lists what it has
            await queue.flushed()
        return await queue.store.dead_letters()

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        store = self._opened().store
        assert isinstance(store, RedisStore)
        return await store.waiting_runs(names, limit)


class RedisStore:
    """The messages in Redis, for one opening.

    `_commands` carries batches, heartbeats and questions; `_reads` is blocked most of the time, waiting for what comes.

    Args:
        address: Where Redis is.
        prefix: What every key begins with, in braces: a cluster keeps all keys on one node.
        lease: Seconds.
        timeout: Seconds for Redis to answer.
        unknown_ttl: Seconds after which messages without a handler are dead letters.
    """

    durable: bool = True
    shared: bool = True
    keeps_trying: bool = True
    max_publications: int = MAX_PUBLICATIONS
    waiting: int = 0

    def __init__(self, address: RedisAddress, *, prefix: str, lease: float, timeout: float, unknown_ttl: float) -> None:
        self.opening: str = os.urandom(8).hex()
        """The name of this consumer in Redis."""
        self.is_taking: bool = False
        """Whether messages may be on their way from Redis."""
        self._address = address
        self._prefix = prefix
        self._stream = f"{self._prefix}:line"
        self._lease, self._timeout, self._unknown_ttl = lease, timeout, unknown_ttl
        self._links: tuple[RedisLink, RedisLink] | None = None
        self._queue: Queue | None = None
        self._script: Script[Any]
        self._numbers = itertools.count(1)
        self._last_entry = b"0-0"
        """The last that this opening has brought into the stream."""
        self._parked: set[str] = set()
        """Names with a list of their own, as far as is known."""
        self._held_in_redis = False
        self._next_sweep = self._last_beat = 0.0
        self._cursor = b"0-0"
        self._claimed_until = 0.0
        self._unclaimed: list[tuple[bytes, str]] = []
        """Dedupe keys that Redis is to forget, with the values that they must have; empty for any."""
        self._forgetting: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"Redis at {self._address}"

    @property
    def _commands(self) -> RedisLink:
        assert self._links is not None
        return self._links[0]

    @property
    def _reads(self) -> RedisLink:
        assert self._links is not None
        return self._links[1]

    @property
    def queue(self) -> Queue:
        """The engine."""
        assert self._queue is not None
        return self._queue

    @property
    def failure(self) -> Exception | None:
        return None if self._links is None else self._commands.failure or self._reads.failure

    def describe_waiting(self) -> str:
        return ""

    def take_all(self) -> Sequence[Message]:
        return ()

    @asynccontextmanager
    async def opened(self, queue: Queue) -> AsyncGenerator[Sequence[tuple[str, float]], None]:
        from definable.storage.redis_link import Script, linked  # loads coredis

        source = files("definable.agent.bus").joinpath("redis.lua").read_text("utf-8")
        self._script = Script[Any](source, anything)
        async with (
            linked(self._address, (self._script,), timeout=self._timeout) as commands,
            linked(self._address, timeout=self._timeout) as reads,
        ):
            self._links, self._queue = (commands, reads), queue
            await self._prepare()
            yield ()

    async def run(self) -> None:
        """Claim what comes, and renew leases, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat)
            while await self.queue.demanded():
                self.is_taking = True
                try:
                    await self._take()
                except RedisAway:
                    await self._reads.is_up()
                    self._let_others_renew()
                except StorageError as refusal:
                    logger.warning("nothing can be claimed at present: %s", refusal)
                    with suppress(StorageError):
                        await self._prepare()
                    await anyio.sleep(MAX_BLOCK)
                    self._let_others_renew()
                finally:
                    self.is_taking = False

    # --- what is asked of Redis

    def _script_args(self, function: str, args: Sequence[Any]) -> list[Any]:
        return [function, self._prefix, self.opening, _milliseconds(self._lease), *args]

    async def _call(
        self, function: str, *args: Any, keys: Sequence[Any] = (), read: Callable[[Any], Answer] = anything
    ) -> Answer:
        """A function's answer, once.

        Raises:
            RedisAway: There was none; it may have run.
            StorageError: Redis has refused.
        """
        call_args = self._script_args(function, args)
        keys = [self._stream, *keys]
        return await self._commands.call(b"EVALSHA", self._script.digest, len(keys), *keys, *call_args, read=read)

    async def _insist(
        self, function: str, *args: Any, keys: Sequence[Any] = (), read: Callable[[Any], Answer] = anything
    ) -> Answer:
        """A function's answer, waiting for a Redis that is away; for those that may run twice."""
        script = type(self._script)(self._script.source, read)
        return await self._commands.insist(script, [self._stream, *keys], self._script_args(function, args))

    async def _prepare(self) -> None:
        """Make in Redis what is missing there."""
        await self._insist("open", read=nothing)

    # --- batches

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        losses = 0
        while True:
            await self._commands.is_up()
            try:
                return await self._apply(batch, claim)
            except RedisAway as away:
                losses += 1
                await checkpoint()
                if losses >= MAX_LOSSES and batch.size >= LARGE:
                    applied = await self._give_up(batch)
                    if applied is not None:
                        return applied
                    raise BatchRefused(f"the connection was lost {losses} times while it was sent: {away}") from away
            except StorageError as refusal:  # it is full, or somebody has removed the stream
                if batch.publications and any(words in str(refusal) for words in TOO_LARGE):
                    raise BatchRefused(str(refusal)) from refusal
                with suppress(StorageError):
                    await self._prepare()
                raise

    async def _apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        keys, unclaimed = [self._key(each.key) for each in batch.publications if each.key is not None], self._unclaimed
        wanted = self._wanted(claim)
        args = [batch.number, 0, *_batch_args(batch, unclaimed, first_key=2), len(wanted)]
        for name, count in wanted:
            args += (_storable(name), count)
        answer = await self._call("apply", *args, keys=[*keys, *[key for key, _ in unclaimed]], read=_applied_answer)
        self._unclaimed = self._unclaimed[len(unclaimed) :]
        if self._forgetting is not None and not self._unclaimed:
            self._forgetting.set()
            self._forgetting = None
        self._parked -= {_readable(name) for name in answer[5]}
        return self._applied(answer, claim)

    def _applied(self, answer: Sequence[Any], claim: Claim) -> Applied:
        _, repeated, due, last, claimed, _, cancelled, replayed = answer
        self._last_entry = last or self._last_entry
        messages = [message for entry in claimed if (message := self._message(*entry)) is not None]
        has_more = any(
            (claim.known is None or name in claim.known)
            and claim.grants.get(name, math.inf) - sum(message.name == name for message in messages) >= 1
            for name in self._parked
        )
        decoded = [[id.decode() for id in ids] for ids in (repeated, replayed, cancelled)]
        return Applied(messages, has_more, self._due_at(due), *decoded)

    async def _give_up(self, batch: WriteBatch) -> Applied | None:
        """Have Redis refuse the batch should it still come, unless it was written: what came of it then."""
        answer = await self._insist("apply", batch.number, 1, read=_applied_answer)
        return self._applied(answer, Claim(0, {}, None)) if answer[0] else None

    def _wanted(self, claim: Claim) -> Sequence[tuple[str, int]]:
        """From which lists of names to claim, and how many."""
        left, wanted = claim.demand, list[tuple[str, int]]()
        for name in self._parked:
            count = int(min(claim.grants.get(name, left), left))
            if count > 0 and (claim.known is None or name in claim.known):
                wanted.append((name, count))
                left -= count
        return wanted

    def _due_at(self, milliseconds: int) -> float | None:
        return None if milliseconds < 0 else anyio.current_time() + milliseconds / 1000

    # --- claims

    async def _take(self) -> None:
        pause = self._next_sweep - anyio.current_time()
        if pause <= 0:
            await self._sweep()
        else:
            await self._await_new(pause)

    async def _sweep(self) -> None:
        """What others have left, and what others could not begin."""
        if anyio.current_time() - self._last_beat > self._lease / 2:
            await self.renew()  # its own are not others'
        known = self.queue.claim.known
        unknown = [] if known is None else [_storable(name) for name in self._parked if name not in known]
        args = (self._cursor, max(self.queue.demand, 1), _milliseconds(self._unknown_ttl), len(unknown), *unknown)
        self._cursor, swept, due, parked = await self._call("sweep", *args, read=_swept_answer)
        self._parked = {_readable(name) for name in parked}
        if self._cursor == b"0-0":
            # By chance: Redis gives to whoever waits longest, and of replicas that began anew each second that would be
            # the same one for all that comes each second.
            pause = min(MAX_BLOCK, self._lease / BEATS) * random.uniform(0.5, 1.0)
            self._next_sweep = anyio.current_time() + pause
        has_more = any(known is None or name in known for name in self._parked)
        self._arrived([entry for entry in swept if entry[0] not in self.queue.held], due, has_more=has_more)

    async def _await_new(self, seconds: float) -> None:
        count = max(self.queue.demand, 1)
        words = ("GROUP", "workers", self.opening, "COUNT", count, "BLOCK", _milliseconds(seconds), "STREAMS")
        entries = await self._reads.call(
            b"XREADGROUP", *words, self._stream, ">", read=self._new_entries, blocks=seconds
        )
        self._arrived([(entry, fields, 1, 0) for entry, fields in entries])

    def _new_entries(self, answer: Any) -> list[tuple[bytes, list[bytes]]]:
        """What XREADGROUP answers: nothing, or the entries by the stream's name."""
        if answer is None or answer == {}:
            return []
        if not isinstance(answer, dict):
            raise ValueError("a stream was expected")
        return list_of(stream_entry)(cast("dict[object, Any]", answer).get(self._stream.encode()))

    def _arrived(
        self, entries: Sequence[tuple[bytes, list[bytes], int, int]], due: int | None = None, *, has_more: bool = False
    ) -> None:
        """Pass on what can be begun; all else goes to the list of its name, for whoever can."""
        _, grants, known = self.queue.claim
        messages: list[Message] = []
        used: dict[str, int] = {}
        for entry in entries:
            message = self._message(*entry)
            if message is None:
                continue
            name = message.name
            is_known = known is None or name in known
            # What waits in the list of its name comes before what is new, and behind what was given back.
            is_behind = name in self._parked and due is None
            if not is_known or is_behind or grants.get(name, math.inf) - used.get(name, 0) < 1:
                if not is_known and name not in self._parked:
                    logger.warning(
                        "no handler is registered for %r: its deliveries wait for a process that has one", name
                    )
                self._parked.add(name)
                self.queue.dismiss(message.handle, by_name=True)
                continue
            used[name] = used.get(name, 0) + 1
            messages.append(message)
        self.queue.arrived(messages, next_due=None if due is None else self._due_at(due), has_more=has_more)

    def _message(self, handle: bytes, fields: Sequence[bytes], claims: int, extra: int) -> Message | None:
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        try:
            earlier = int(found.get(b"a", 0)) + extra + claims - 1
            name, decoded = _readable(found[b"n"]), decode_data(found[b"d"])
            return Message(handle, found[b"i"].decode(), name, decoded, earlier, claims)
        except (StorageError, KeyError, ValueError, TypeError):
            logger.exception("the entry %s is no event of ours: it is dropped", handle)
            self.queue.dismiss(handle, by_name=False)
            return None

    def _let_others_renew(self) -> None:
        """Those who hold something renew their leases first: they were not dead, Redis was not to be had."""
        self._next_sweep = anyio.current_time() + self._lease / BEATS

    async def _beat(self) -> None:
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
        """Renew the leases of what is held, and let go of what was lost."""
        held = [*self.queue.held]
        for begin in range(0, max(len(held), 1), HELD_AT_ONCE):
            some = held[begin : begin + HELD_AT_ONCE]
            for handle in await self._call("heartbeat", len(some), *some, read=list_of(data)):
                self.queue.lease_lost(handle)
        self._last_beat = anyio.current_time()

    # --- come to rest

    async def is_drained(self) -> bool:
        try:
            passed, held, parked = await self._call("passed", self._last_entry, read=_passed_answer)
        except RedisAway:
            return False
        except StorageError as refusal:  # somebody has removed the stream: what is held is finished all the same
            logger.warning("what is left cannot be told at present: %s", refusal)
            with suppress(StorageError):
                await self._prepare()
            return False
        self._held_in_redis = held
        known = self.queue.claim.known
        self._parked = {_readable(name) for name in parked}
        return passed and not any(known is None or name in known for name in self._parked)

    async def rest(self) -> bool:
        if self.is_taking:  # a read that was cut off rather than ended may have claimed what nobody would know of
            with suppress(StorageError):
                await self._commands.call(b"CLIENT UNBLOCK", self._reads.client_id, read=integer)
        return not (self._held_in_redis or self.is_taking)

    async def close(self, held: Sequence[Handle]) -> None:
        claimed_for = max(self._claimed_until - anyio.current_time(), 0.001)
        await self._call("close", _milliseconds(claimed_for), len(held), *held, read=nothing)

    # --- keys, dead letters, promised runs

    def _key(self, digest: str) -> bytes:
        return f"{self._prefix}:key:{digest}".encode()

    async def claim_key(self, digest: str, ttl: float) -> bool:
        self._claimed_until = max(self._claimed_until, anyio.current_time() + ttl)
        await self._all_forgotten()
        key, value = self._key(digest), f"claim:{self.opening}:{next(self._numbers)}"
        try:
            return bool(await self._insist("claim_key", value, _milliseconds(ttl), keys=[key], read=integer))
        except BaseException:  # Redis may have it all the same, and nobody would ever release it
            self._forget_later(key, value)
            raise

    async def release_key(self, digest: str) -> None:
        try:
            await self._insist("release_key", keys=[self._key(digest)], read=integer)
        except BaseException:
            self._forget_later(self._key(digest), "")
            raise

    async def _all_forgotten(self) -> None:
        """Wait until Redis has forgotten what it is to forget: that might take a new claim along."""
        if self._forgetting is None:
            return
        with anyio.move_on_after(self._timeout):
            return await self._forgetting.wait()
        raise RedisAway(str(self.failure or f"Redis did not answer within {self._timeout:g} s"))

    def _forget_later(self, key: bytes, value: str) -> None:
        self._unclaimed = [*self._unclaimed, (key, value)]
        self._forgetting = self._forgetting or anyio.Event()
        self.queue.request_flush()

    async def dead_letters(self) -> Sequence[DeadLetter]:
        letters = await self._insist("list_dead", read=list_of(_letter))
        return [
            DeadLetter(id.decode(), _readable(name), decode_data(body), attempt, _readable(why), at / 1000)
            for id, name, body, attempt, why, at in letters
        ]

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """See `RemembersRuns.waiting_runs`."""
        found: list[WaitingRun] = []
        scanned = 0
        async with aclosing(self._waiting(names, limit)) as deliveries:
            async for name, body in deliveries:
                scanned += len(body)
                if scanned > MAX_SCANNED or len(found) == limit:
                    break
                if _readable(name) in names:
                    with suppress(StorageError):  # whoever claims it finds out
                        found += WaitingRun.all_of([decode_data(body)])
        return found

    async def _waiting(self, names: Collection[str], limit: int) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Name and data of what waits or is claimed, oldest first, then of what waits in lists or for its time."""
        for stream in (self._stream, f"{self._prefix}:limited"):
            after = b"-"
            while True:
                words = (stream, after, b"+", b"COUNT", PAGE)
                entries = await self._commands.call(b"XRANGE", *words, read=list_of(stream_entry))
                for _, flat in entries:
                    fields = dict(zip(flat[::2], flat[1::2], strict=True))
                    yield fields.get(b"n", b""), fields.get(b"d", b"")
                if len(entries) < PAGE:
                    break
                after = b"(" + entries[-1][0]
        stored = map(_storable, names)
        for name, body in await self._call("list_waiting", limit, len(names), *stored, read=list_of(_name_and_data)):
            yield name, body


def _batch_args(batch: WriteBatch, unclaimed: Sequence[tuple[bytes, str]], first_key: int) -> list[Any]:
    """The arguments of a batch; its dedupe keys are those from `first_key` on (Lua counts from 1)."""
    now = anyio.current_time()
    args: list[Any] = [len(batch.publications)]
    for each in batch.publications:
        args += (each.id, _storable(each.name), each.data)
        if each.key is None:
            args += (0, 0)
        else:
            args += (first_key, _milliseconds(each.key_ttl))
            first_key += 1
        args += (_milliseconds(max(each.due_at - now, 0)), each.replaces or "")
    lists: tuple[Sequence[Any], ...] = (
        batch.acked,
        [(handle, _milliseconds(max(due_at - now, 0)), attempts) for handle, due_at, attempts in batch.nacked],
        [(handle, _storable(why), attempts) for handle, why, attempts in batch.dead],
        [(handle, -1 if due_at < 0 else _milliseconds(max(due_at - now, 0))) for handle, due_at in batch.released],
        [*batch.parked],
        [*batch.begun],
        [(number, value) for number, (_, value) in enumerate(unclaimed, first_key)],
        [*batch.cancelled],
        [*batch.replayed],
    )
    for entries in lists:
        args.append(len(entries))
        for entry in entries:
            if isinstance(entry, tuple):
                args += cast("tuple[Any, ...]", entry)
            else:
                args.append(entry)
    return args


def _milliseconds(seconds: float) -> int:
    """Rounded up: neither a delay nor a time to live may end too soon."""
    return ceil(seconds * 1000)


def _storable(text: str) -> bytes:
    """Text as bytes; half of a surrogate pair, which UTF-8 proper cannot hold, is passed through."""
    return text.encode("utf-8", "surrogatepass")


def _readable(text: bytes) -> str:
    """The text of `_storable`'s bytes."""
    return text.decode("utf-8", "surrogatepass")


def _claimed(answer: Any) -> tuple[bytes, list[bytes], int, int]:
    handle, fields, claims, extra = items(answer, 4)
    return (*stream_entry([handle, fields]), integer(claims), integer(extra))


def _applied_answer(answer: Any) -> tuple[Any, ...]:
    made, repeated, due, last, claimed, empty, cancelled, replayed = items(answer, 8)
    lists = [list_of(data)(each) for each in (repeated, empty, cancelled, replayed)]
    return (
        integer(made), lists[0], integer(due), data(last), list_of(_claimed)(claimed), lists[1], lists[2], lists[3]
    )  # fmt: skip


def _swept_answer(answer: Any) -> tuple[bytes, list[tuple[bytes, list[bytes], int, int]], int, list[bytes]]:
    cursor, swept, due, parked = items(answer, 4)
    return data(cursor), list_of(_claimed)(swept), integer(due), list_of(data)(parked)


def _passed_answer(answer: Any) -> tuple[bool, bool, list[bytes]]:
    passed, held, parked = items(answer, 3)
    return bool(integer(passed)), bool(integer(held)), list_of(data)(parked)


def _letter(answer: Any) -> tuple[bytes, bytes, bytes, int, bytes, int]:
    id, name, body, attempt, why, at = items(answer, 6)
    return data(id), data(name), data(body), integer(attempt), data(why), integer(at)


def _name_and_data(answer: Any) -> tuple[bytes, bytes]:
    name, body = items(answer, 2)
    return data(name), data(body)


READERS: Sequence[Callable[[Any], object]] = (_applied_answer, _swept_answer, _passed_answer, _letter, _name_and_data)
"""Each raises `ValueError` at an answer that is not of its shape."""
