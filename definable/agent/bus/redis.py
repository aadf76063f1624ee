"""The event bus on Redis Streams: any number of processes share it."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from definable.errors import ConfigurationError, EventBufferFull, EventBusClosed, StorageError
from definable.storage.redis_address import RedisAddress

from .base import DEDUPE_TTL, DeadLetter, Delivery, EventBus, WaitingRun
from .codec import encode_data
from .dedupe import DedupeWindow, digest
from .queue import DEFAULT_BUFFER
from .redis_turn import Publication

if TYPE_CHECKING:
    from .redis_line import RedisLine

DEFAULT_LEASE = 30.0
"""Seconds."""

DEFAULT_TIMEOUT = 5.0
"""Seconds."""


class RedisBus(EventBus):
    """Shares events over replicas: each is handled by one of them. For Redis or Valkey from 6.2 on.

    - What `await publish` accepted is with Redis, and as safe as Redis keeps it (`appendonly yes` survives the death of
      Redis). `publish_nowait` never blocks; what it accepted is told to Redis with everything else that has come
      together, a round trip later, or when Redis is back.
    - Who is handed a delivery holds it under a lease, which is renewed while its process lives. What a process that
      dies has in hand, others take over when the lease has run out: at least once, as the next attempt. A handler
      whose lease is lost (the process hung, Redis was out of its reach) is cancelled.
    - A process that stops gives back what it has in hand, and others have it within a second.
    - A key of `publish` or `claim` is taken for all replicas, so that a cron tick fires once whatever their clocks say.
    - While Redis is away the service lives on: `failure` says why, `publish` waits for `timeout` seconds and then
      raises `StorageError`, `publish_nowait` accepts as much as the buffer holds, handlers go on, and the connection is
      made again, with backoff. A turn whose answer got lost is repeated under its number, and done once.
    - The last 10,000 dead letters are kept.
    - A delivery names its trigger by the source and the handler's qualified name, so replicas run the same code: where
      the name is unknown it goes to the dead letters.

    Args:
        url: `redis://[user:password@]host[:port][/db]`, `rediss://...` for TLS, `unix:///path`. Any node of a cluster:
            all keys are on one, which is found.
        prefix: Replicas that share events have it in common; services that share a Redis do not.
        lease: Seconds after which the work of a process that has died moves on.
        timeout: Seconds for which callers wait for a Redis that does not answer, and after which it counts as away.
        buffer: How many publications may wait to be told to Redis; beyond it `publish_nowait` raises and `publish`
            waits.

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
        prefix: str = "definable",
        lease: float = DEFAULT_LEASE,
        timeout: float = DEFAULT_TIMEOUT,
        buffer: int = DEFAULT_BUFFER,
    ) -> None:
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError(f"prefix={prefix!r}: not empty, without braces")
        for name, seconds in (("lease", lease), ("timeout", timeout)):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ConfigurationError(f"{name}={seconds!r}: seconds, greater than 0")
        if buffer < 1:
            raise ConfigurationError(f"buffer={buffer!r}: at least 1")
        self._address = RedisAddress(url, "RedisBus")
        self._prefix = prefix
        self._lease = lease
        self._timeout = timeout
        self._buffer = buffer
        self._is_open = False
        self._line: RedisLine | None = None
        self._taken = DedupeWindow()
        """Keys of which this process knows: `publish_nowait` cannot wait for Redis to say."""

    def __repr__(self) -> str:
        return f"RedisBus({self._address!r})"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """The bus works while the context is open; leaving it tells Redis what is left, within a bound.

        Raises:
            ConfigurationError: This bus is open already.
            StorageError: Redis cannot be reached.
        """
        from .redis_line import opened_line  # loads coredis

        if self._is_open:
            raise ConfigurationError("this RedisBus is open already: one agent that serves, one bus")
        self._is_open = True
        self._taken = DedupeWindow()  # by the event loop's clock, and the next loop has another
        try:
            async with opened_line(self._address, self._prefix, self._lease, self._timeout) as self._line:
                try:
                    yield
                finally:
                    self._line = None
        finally:
            self._is_open = False

    async def publish(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        line, encoded = self._accepting(), encode_data(name, data)
        key = None if dedupe_key is None else digest(dedupe_key)
        publication: Publication | None = None
        with anyio.move_on_after(self._timeout):
            while line.writer.publications >= self._buffer:
                await line.writer.turned()
                self._accepting()
            publication = line.publication(name, encoded, _encoded(key), dedupe_ttl, is_awaited=True)
            try:
                await publication.turn.done.wait()
            finally:
                line.writer.withdraw(publication)
        self._check_published(publication)
        assert publication is not None
        accepted = publication.id not in publication.turn.refused
        if key is not None:
            self._taken.claim(key, dedupe_ttl, anyio.current_time())
        return accepted

    def _check_published(self, publication: Publication | None) -> None:
        """Raise unless Redis has said what became of it."""
        if publication is not None and publication.turn.done.is_set() and publication.turn.failure is None:
            return
        if publication is not None and publication.turn.was_sent:
            outcome = "whether the event was accepted is not known"
        else:
            outcome = "the event was not accepted"
        failure = None if self._line is None else self._line.failure
        raise StorageError(f"{failure or f'{self._address} did not answer within {self._timeout:g} s'}: {outcome}")

    def publish_nowait(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        """Accept work at once; see `EventBus.publish_nowait`.

        A repeat of a key that another process has taken is accepted here, and dropped by Redis.
        """
        line, encoded = self._accepting(), encode_data(name, data)
        if line.writer.publications >= self._buffer:
            raise EventBufferFull(
                f"the event buffer is full ({self._buffer} wait for Redis): try later, wait with "
                "`await agent.aemit(...)`, or raise RedisBus(buffer=...)"
            )
        key = None if dedupe_key is None else digest(dedupe_key)
        if key is not None and not self._taken.claim(key, dedupe_ttl, anyio.current_time()):
            return False
        line.publication(name, encoded, _encoded(key), dedupe_ttl, is_awaited=False)
        return True

    async def claim(self, key: str, ttl: float) -> bool:
        return await self._opened().claim(digest(key).encode(), ttl)

    async def release(self, key: str) -> None:
        line = self._opened()
        key = digest(key)
        self._taken.release(key)
        await line.release(key.encode())

    @property
    def room(self) -> float:
        return 0 if self._line is None else self._buffer - self._line.writer.publications

    @property
    def durable(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        return True

    @property
    def failure(self) -> Exception | None:
        return None if self._line is None else self._line.failure

    def check(self, name: str, data: Mapping[str, Any]) -> None:
        encode_data(name, data)

    @asynccontextmanager
    async def consume(self) -> AsyncGenerator[AsyncIterator[Delivery], None]:
        yield self._opened().hands

    def leftovers(self) -> Iterable[Delivery]:
        """What Redis cannot be told since it is away; all else is safe with it."""
        line = self._opened()
        line.stop()
        if line.writer.failure is None:
            return ()
        return [line.undelivered(left) for left in line.writer.take_out_untold()]

    async def drain(self) -> None:
        """Finish what is in hand, and what this process has brought into the line, as far as the deadline allows.

        Half of the time until the caller's deadline is for what waits: then nothing more is handed out, so that what is
        in hand has the other half to come to its end. What others have brought is for them.
        """
        await self._opened().drain()

    async def dead_letters(self) -> Sequence[DeadLetter]:
        line = self._opened()
        with anyio.move_on_after(self._timeout):
            await line.writer.all_told()
        return await line.dead_letters()

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        return await self._opened().waiting_runs(names, limit)

    async def replay(self, letter_id: str) -> bool:
        return await self._accepting().replay(letter_id)

    def _opened(self) -> RedisLine:
        if self._line is None:
            raise EventBusClosed("the event bus is not open: it works while the agent serves")
        return self._line

    def _accepting(self) -> RedisLine:
        line = self._opened()
        if not line.accepting:
            raise EventBusClosed("the event bus is closing: nothing was accepted")
        return line


def _encoded(key: str | None) -> bytes | None:
    return None if key is None else key.encode()
