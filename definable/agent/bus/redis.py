"""The event bus on Redis Streams: any number of processes share it. `RedisBus`, and its store.

`redis.lua` is what the server does whole, `redis_script.py` calls it, and `redis_claims.py` reads the stream.
"""

from __future__ import annotations

import itertools
import os
import ssl
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import StorageError
from definable.storage.redis_address import KeyPrefix, RedisAddress, RedisAway, integer, list_of, nothing, optional_data

from .base import MAX_SCANNED, Backlog, DeadLetter, WaitingRun
from .batch import Applied, BatchRefused, Claim, Handle, Message, WriteBatch, decode_data
from .claims import MAX_DELIVERIES
from .queue import DEFAULT_BUFFER, UNKNOWN_TTL
from .redis_script import (
    BusScript,
    applied_answer,
    backlog_answer,
    batch_args,
    bus_script,
    due_time,
    letter,
    milliseconds,
    readable,
    slot_args,
    storable,
)
from .shared import DEFAULT_LEASE, ServerStore, SharedBus
from .store import Queue

if TYPE_CHECKING:
    from definable.concurrency.rate_limits import Limits
    from definable.storage.redis_link import RedisLink

    from .redis_claims import RedisConsumer

DEFAULT_TIMEOUT = 5.0
"""Seconds."""

MAX_PUBLICATIONS = 500
"""In one batch: while Redis runs a script, nobody else is served."""

LARGE = 64 * 1024
"""Bytes of an event that may itself be why the connection is lost whenever it is sent."""

MAX_LOSSES = 3
"""Times that a connection is lost while one large event is sent, before it is refused."""

TOO_LARGE = ("exceeds", "too large", "too big", "invalid bulk length")
"""In an error of Redis: it will say the same again."""


class RedisBus(SharedBus):
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
    - A trigger's `max_concurrency`, and `overlap="skip"` and `"queue"` of cron jobs, hold over all processes; a slot of
      one that dies comes free with its lease.
    - A key of `publish` or `claim` is taken for all replicas, so that a cron tick fires once whatever their clocks say.
    - While Redis is away the service lives on: `failure` says why, `publish` waits for `timeout` seconds and then
      raises `StorageError`, `publish_nowait` accepts as much as the buffer holds, handlers go on, and the connection is
      made again, with backoff. A batch whose answer got lost is repeated under its number, and written once. One event
      that Redis will never take fails alone.
    - The last 10,000 dead letters are kept.
    - A delivery names its trigger by the source and the handler's qualified name.

    Args:
        url: `redis://[user:password@]host[:port][/db]`, `rediss://...` for TLS, `unix:///path`;
            `redis+sentinel://host:port,host:port/service[?db=0]`; `redis+cluster://host:port,host:port`, any of its
            nodes: all keys are on one, which is found.
        prefix: Replicas that share events have it in common; services that share a Redis do not. None: `"definable"`,
            followed by the agent's name where it has one.
        lease: Seconds after which the work of a process that has died moves on.
        timeout: Seconds for which callers wait for a Redis that does not answer, and after which it counts as away.
        buffer: How many publications may wait to be sent to Redis; beyond it `publish_nowait` raises and `publish`
            waits.
        max_deliveries: How often a message is handed out although nothing came of it, as when its handler ends the
            process.
        unknown_ttl: Seconds.
        ssl_context: For `rediss://`; None: the system's authorities and the name of the host are checked, as the URL's
            options `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname` say.

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
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        bounds: dict[str, Any] = {
            "lease": lease,
            "timeout": timeout,
            "buffer": buffer,
            "max_deliveries": max_deliveries,
        }
        super().__init__(KeyPrefix(prefix, "RedisBus"), **bounds, waiting="wait for Redis")
        self._address = RedisAddress(url, "RedisBus", ssl_context)
        self._unknown_ttl = unknown_ttl

    def __repr__(self) -> str:
        return f"RedisBus({self._address!r})"

    def new_store(self) -> RedisStore:
        seconds = {"lease": self._lease, "timeout": self._timeout, "unknown_ttl": self._unknown_ttl}
        return RedisStore(self._address, prefix=str(self._service), **seconds)

    def rate_limits(self) -> AbstractAsyncContextManager[Limits]:
        """The limits that replicas share in this Redis, while the context is open; see `SharesLimits`."""
        from definable.storage.redis_limits import redis_limits  # loads coredis

        return redis_limits(self._address, str(self._service))


class RedisStore(ServerStore):
    """The messages in Redis, for one opening.

    Args:
        address: Where Redis is.
        prefix: What every key begins with, in braces: a cluster keeps all keys on one node.
        lease: Seconds.
        timeout: Seconds for Redis to answer.
        unknown_ttl: Seconds after which messages without a handler are dead letters.
    """

    durable: bool = True
    keeps_trying: bool = True
    max_publications: int = MAX_PUBLICATIONS
    orders_groups: bool = True

    def __init__(self, address: RedisAddress, *, prefix: str, lease: float, timeout: float, unknown_ttl: float) -> None:
        self.opening: str = os.urandom(8).hex()
        """The name of this consumer in Redis."""
        self._address = address
        self._prefix = prefix
        self._lease, self._timeout, self._unknown_ttl = lease, timeout, unknown_ttl
        self._commands: RedisLink | None = None
        """Carries batches, heartbeats and questions; the consumer has one that is blocked most of the time."""
        self._script: BusScript
        self._queue: Queue
        self.consumer: RedisConsumer
        """Set while it is open, as those before."""
        self._numbers = itertools.count(1)
        self._claimed_until = 0.0
        self._unclaimed: list[tuple[bytes, str]] = []
        """Dedupe keys that Redis is to forget, with the values that they must have; empty for any."""
        self._forgetting: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"Redis at {self._address}"

    @property
    def failure(self) -> Exception | None:
        return None if self._commands is None else self._commands.failure or self.consumer.failure

    @property
    def is_taking(self) -> bool:
        """Whether messages may be on their way from Redis."""
        return self.consumer.is_taking

    def take_all(self) -> Sequence[Message]:
        return ()

    @asynccontextmanager
    async def opened(self, queue: Queue) -> AsyncGenerator[Sequence[tuple[str, float]], None]:
        from definable.storage.redis_link import linked  # loads coredis
        from definable.storage.redis_servers import warn_of_eviction

        from .redis_claims import RedisConsumer

        script = bus_script()
        async with (
            linked(self._address, (script,), timeout=self._timeout) as commands,
            linked(self._address, timeout=self._timeout) as reads,
        ):
            options: dict[str, Any] = {"opening": self.opening, "lease": self._lease}
            self._commands, self._queue = commands, queue
            self._script = BusScript(commands, script, prefix=self._prefix, **options)
            self.consumer = RedisConsumer(
                self._script, commands, reads, queue, unknown_ttl=self._unknown_ttl, **options
            )
            await self._script.prepare()
            await warn_of_eviction(commands, f"RedisBus({self._address!r})")
            yield ()

    async def run(self) -> None:
        await self.consumer.run()

    async def is_drained(self) -> bool:
        return await self.consumer.is_drained()

    async def rest(self) -> bool:
        return await self.consumer.rest()

    # --- batches

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        losses = 0
        assert self._commands is not None
        while True:
            await self._commands.is_up()
            try:
                return await self._apply(batch, claim)
            except RedisAway as away:
                self.consumer.answers_lost = True
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
                    await self._script.prepare()
                raise

    async def _apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        keys, unclaimed = [self._key(each.key) for each in batch.publications if each.key is not None], self._unclaimed
        wanted = self.consumer.wanted(claim)
        freed = self.consumer.slots_of(batch.ended)
        args = [batch.number, 0, *batch_args(batch, unclaimed, first_key=2), *slot_args(freed), len(wanted)]
        for name, count in wanted:
            args += (storable(name), count, claim.limits[name].size if name in claim.limits else 0)
        answer = await self._script.call(
            "apply", *args, keys=[*keys, *[key for key, _ in unclaimed]], read=applied_answer
        )
        self._unclaimed = self._unclaimed[len(unclaimed) :]
        if self._forgetting is not None and not self._unclaimed:
            self._forgetting.set()
            self._forgetting = None
        self.consumer.forget_slots(freed)
        return self._applied(answer, claim)

    def _applied(self, answer: Sequence[Any], claim: Claim) -> Applied:
        _, repeated, due, _, _, _, cancelled, replayed, _ = answer
        messages, has_more = self.consumer.claimed(answer, claim)
        decoded = [[id.decode() for id in ids] for ids in (repeated, replayed, cancelled)]
        return Applied(messages, has_more, due_time(due), *decoded)

    async def _give_up(self, batch: WriteBatch) -> Applied | None:
        """Have Redis refuse the batch should it still come, unless it was written: what came of it then."""
        answer = await self._script.insist("apply", batch.number, 1, read=applied_answer)
        return self._applied(answer, Claim(0, {}, None)) if answer[0] else None

    async def close(self, held: Sequence[Handle]) -> None:
        claimed_for = max(self._claimed_until - anyio.current_time(), 0.001)
        slots = slot_args(self.consumer.slots)
        await self._script.call("close", milliseconds(claimed_for), len(held), *held, *slots, read=nothing)

    # --- keys, dead letters, promised runs

    def _key(self, digest: str) -> bytes:
        return f"{self._prefix}:key:{digest}".encode()

    async def claim_key(self, digest: str, ttl: float) -> bool:
        self._claimed_until = max(self._claimed_until, anyio.current_time() + ttl)
        await self._all_forgotten()
        key, value = self._key(digest), f"claim:{self.opening}:{next(self._numbers)}"
        try:
            return bool(await self._script.insist("claim_key", value, milliseconds(ttl), keys=[key], read=integer))
        except BaseException:  # Redis may have it all the same, and nobody would ever release it
            self._forget_later(key, value)
            raise

    async def release_key(self, digest: str) -> None:
        try:
            await self._script.insist("release_key", keys=[self._key(digest)], read=integer)
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
        self._queue.request_flush()

    async def keep_value(self, digest: str, value: bytes, ttl: float, *, replace: bool) -> bytes | None:
        """See `KeepsValues.keep_value`."""
        assert self._commands is not None
        key, expiry = f"{self._prefix}:value:{digest}".encode(), (b"PX", milliseconds(ttl))
        while True:
            if await self._commands.call(b"SET", key, value, *expiry, *([] if replace else [b"NX"])):
                return None
            found = await self._commands.call(b"GET", key, read=optional_data)
            if found is not None:  # else it has expired in between
                return found

    async def reconnected(self) -> None:
        assert self._commands is not None
        await self._commands.is_up()

    async def drop_value(self, digest: str) -> None:
        """See `KeepsValues.drop_value`."""
        assert self._commands is not None
        await self._commands.call(b"DEL", f"{self._prefix}:value:{digest}".encode(), read=integer)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        letters = await self._script.insist("list_dead", read=list_of(letter))
        return [
            DeadLetter(id.decode(), readable(name), decode_data(body), attempt, readable(why), at / 1000)
            for id, name, body, attempt, why, at in letters
        ]

    async def backlog(self) -> Backlog:
        """See `MeasuresBacklog.backlog`."""
        waiting, bodies = await self._script.call("backlog", read=backlog_answer)
        first: list[Mapping[str, Any]] = []
        for body in bodies:
            with suppress(StorageError):  # whoever claims it finds out
                first.append(decode_data(body))
        return Backlog.of(waiting, first)

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """See `RemembersRuns.waiting_runs`."""
        found: list[WaitingRun] = []
        scanned = 0
        async with aclosing(self._script.waiting(names, limit)) as deliveries:
            async for name, body in deliveries:
                scanned += len(body)
                if scanned > MAX_SCANNED or len(found) == limit:
                    break
                if readable(name) in names:
                    with suppress(StorageError):  # whoever claims it finds out
                        found += WaitingRun.all_of([decode_data(body)])
        return found
