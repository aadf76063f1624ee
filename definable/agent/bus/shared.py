"""What buses on a server that processes share have in common: `SharedBus`, and how a process keeps its leases.

`redis.py` and `postgres.py` bring the stores, `redis_claims.py` and `postgres_claims.py` the consumers.
"""

from __future__ import annotations

import logging
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol, cast

import anyio

from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, StorageError
from definable.storage.service_name import ServerAway, ServiceName

from .base import Backlog, DeadLetter, WaitingRun
from .batch import Handle, Limit
from .dedupe import digest
from .queue import QueueBus
from .store import Queue, SharedStore

logger: logging.Logger = logger_named(__name__)

DEFAULT_LEASE = 30.0
"""Seconds."""

BEATS = 3
"""Heartbeats in the time of a lease."""

SWEEP_PAUSE = 1.0
"""Seconds between two looks for what nobody tells of: what processes that died have left, and what is due."""


class ServerStore(SharedStore, Protocol):
    """A store on a server."""

    async def keep_value(self, digest: str, value: bytes, ttl: float, *, replace: bool) -> bytes | None:
        """See `KeepsValues.keep_value`."""
        ...

    async def drop_value(self, digest: str) -> None:
        """See `KeepsValues.drop_value`."""
        ...

    async def reconnected(self) -> None:
        """Return when a server that was away may be asked again."""
        ...

    async def backlog(self) -> Backlog:
        """See `MeasuresBacklog.backlog`."""
        ...

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """See `RemembersRuns.waiting_runs`."""
        ...


class SharedBus(QueueBus):
    """A bus whose store is a `ServerStore`.

    Args:
        service: Whose events they are.
        lease: Seconds.
        timeout: Seconds for which callers wait for a server that is away.
        buffer: See `QueueBus`.
        max_deliveries: See `QueueBus`.
        waiting: See `QueueBus`.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(
        self, service: ServiceName, *, lease: float, timeout: float, buffer: int, max_deliveries: int, waiting: str
    ) -> None:
        for name, seconds in (("lease", lease), ("timeout", timeout)):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ConfigurationError(f"{name}={seconds!r}: seconds, greater than 0")
        super().__init__(buffer=buffer, timeout=timeout, max_deliveries=max_deliveries, waiting=waiting)
        self._service = service
        self._lease, self._timeout = lease, timeout

    def belongs_to(self, agent: str | None) -> None:
        """Keep events under an agent's name, where none was given; called when an agent is given the bus.

        Raises:
            ConfigurationError: Agents of several names share it.
        """
        self._service.follow(agent)

    @property
    def durable(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        return True

    def limit_name(self, name: str, count: int, *, skip: bool) -> None:
        """Have so many of this name handled at once over all replicas; see `SharesLimits`."""
        self._opened().claims.limit_name(name, Limit(count, skip))

    async def dead_letters(self) -> Sequence[DeadLetter]:
        queue = self._opened()
        with suppress(StorageError):  # while the server refuses what is new, it still lists what it has
            await queue.writes.all_written()
        return await queue.store.dead_letters()

    async def keep_value(self, key: str, value: bytes, ttl: float, *, replace: bool = False) -> bytes | None:
        """Remember a value for all replicas; see `KeepsValues`."""
        store = self._server
        found, is_repeated = await self._insist(lambda: store.keep_value(digest(key), value, ttl, replace=replace))
        return None if is_repeated and found == value else found  # kept by the call whose answer was lost

    async def drop_value(self, key: str) -> None:
        """Forget a value; see `KeepsValues`."""
        store = self._server
        await self._insist(lambda: store.drop_value(digest(key)))

    async def backlog(self) -> Backlog:
        """What waits for a worker; see `MeasuresBacklog`."""
        return await self._server.backlog()

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        return await self._server.waiting_runs(names, limit)

    @property
    def _server(self) -> ServerStore:
        return cast("ServerStore", self._opened().store)

    async def _insist(self, ask: Callable[[], Awaitable[bytes | None]]) -> tuple[bytes | None, bool]:
        """An answer, waiting for a server that is away, and whether the server was asked more than once."""
        deadline, is_repeated = anyio.current_time() + self._timeout, False
        while True:
            try:
                return await ask(), is_repeated
            except ServerAway:
                is_repeated = True
                with anyio.CancelScope(deadline=deadline):
                    await self._server.reconnected()
                if anyio.current_time() >= deadline:
                    raise


class SharedConsumer(ABC):
    """Claims for one opening, renews the leases of what is claimed, and sweeps up what others have left.

    Args:
        queue: The engine.
        opening: The name of this consumer on the server.
        lease: Seconds.
        unknown_ttl: Seconds after which messages without a handler are dead letters.
    """

    def __init__(self, queue: Queue, *, opening: str, lease: float, unknown_ttl: float) -> None:
        self.is_taking: bool = False
        """Whether messages may be on their way from the server."""
        self._queue = queue
        self._opening, self._lease, self._unknown_ttl = opening, lease, unknown_ttl
        self._next_sweep = 0.0

    async def run(self) -> None:
        """Claim what comes, and renew leases, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat)
            group.start_soon(self.listen)
            while await self._queue.demanded():
                self.is_taking = True
                try:
                    await self._take()
                except ServerAway:
                    await self.recover_connection()
                    self.let_others_renew()
                except StorageError as refusal:
                    logger.warning("nothing can be claimed at present: %s", refusal)
                    with suppress(StorageError):
                        await self.prepare()
                    await anyio.sleep(SWEEP_PAUSE)
                    self.let_others_renew()
                finally:
                    self.is_taking = False

    async def _take(self) -> None:
        pause = self._next_sweep - anyio.current_time()
        if pause <= 0:
            await self.sweep()
        else:
            await self.take_new(min(pause, SWEEP_PAUSE))

    def sweep_is_done(self) -> None:
        """Have the next one made after a pause, of a length by chance: of replicas that begin anew each second, a
        server that gives to whoever waits longest would give to one all that comes each second."""
        pause = min(SWEEP_PAUSE, self._lease / BEATS) * random.uniform(0.5, 1.0)
        self._next_sweep = anyio.current_time() + pause

    def let_others_renew(self) -> None:
        """Those who hold something renew their leases first: they were not dead, the server was not to be had."""
        self._next_sweep = anyio.current_time() + self._lease / BEATS

    async def _beat(self) -> None:
        """Renew leases until cancelled, and as soon as the server is back."""
        while True:
            pause = self._lease / BEATS
            try:
                await self.renew()
            except ServerAway:
                pause = min(pause, SWEEP_PAUSE / 2)
            except StorageError as refusal:  # it is there, and will not say when it takes writes again
                logger.warning("leases are not renewed at present: %s", refusal)
                pause = min(pause, SWEEP_PAUSE)
            with anyio.move_on_after(pause):
                await self.connection_changed()

    def lose(self, held: Collection[Handle]) -> None:
        """Let go of what other processes have by now."""
        for handle in held:
            self._queue.lease_lost(handle)

    # --- what each server does in its own way

    @abstractmethod
    async def take_new(self, seconds: float) -> None:
        """Claim what comes within so many seconds."""

    @abstractmethod
    async def sweep(self) -> None:
        """Take over what others have left, and dead-letter what nobody could begin for too long."""

    @abstractmethod
    async def renew(self) -> None:
        """Renew the leases of what is held, and let go of what was lost."""

    @abstractmethod
    async def recover_connection(self) -> None:
        """Return when a connection that was lost is there again."""

    async def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Make on the server what somebody has removed."""

    async def listen(self) -> None:  # noqa: B027 - most have nothing to do
        """Be told of what comes, where reading does not tell."""

    async def connection_changed(self) -> None:
        """Return when the connection was lost and is back."""
        await anyio.sleep_forever()
