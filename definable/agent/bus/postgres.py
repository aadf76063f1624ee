"""The event bus in PostgreSQL: any number of processes share it. `PostgresBus`, and its store.

`postgres_rows.py` has the tables and statements, `postgres_batch.py` one batch as one transaction.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import random
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread

from definable.concurrency.logs import logger_named
from definable.concurrency.rate_limits import Limits
from definable.errors import ConfigurationError, StorageError
from definable.storage.postgres_database import (
    DEFAULT_TIMEOUT,
    RECONNECT_BACKOFF,
    PostgresAway,
    PostgresDatabase,
    PostgresRefusal,
)
from definable.storage.postgres_limits import postgres_limits
from definable.storage.service_name import ServiceName

from . import postgres_rows as sql
from .base import MAX_SCANNED, Backlog, DeadLetter, WaitingRun
from .batch import Applied, BatchRefused, Claim, Handle, Message, WriteBatch, decode_data
from .claims import MAX_DELIVERIES
from .dedupe import digest
from .postgres_batch import BatchTransaction, MadeBefore, readable, storable
from .queue import DEFAULT_BUFFER, UNKNOWN_TTL, QueueBus
from .store import Queue, SharedStore

if TYPE_CHECKING:
    from psycopg import Connection

logger: logging.Logger = logger_named(__name__)

Result = TypeVar("Result")

DEFAULT_LEASE = 30.0
"""Seconds."""

BEATS = 3
"""Heartbeats in the time of a lease."""

SWEEP_PAUSE = 1.0
"""Seconds between two looks for what no notification tells: what processes that died have left, and what is due."""


class PostgresBus(QueueBus):
    """Shares events over replicas: each is handled by one of them. For PostgreSQL from 12 on.

    - What `await publish` accepted is committed. `publish_nowait` never blocks; what it accepted is committed with
      everything else that has come together, a transaction later, or when the database is back.
    - Claims skip what others are claiming (`FOR UPDATE SKIP LOCKED`). What a process that dies held, others take over
      when its lease has run out: at least once, as the next attempt, and after `max_deliveries` it is a dead letter. A
      handler whose lease is lost is cancelled. A process that stops gives back what it holds.
    - Replicas are woken by `LISTEN` and `NOTIFY`, and look by themselves each second: behind PgBouncer in transaction
      mode, which passes no notifications on, what others publish is claimed up to a second later.
    - What a process cannot begin stays for all: messages behind the limit of a trigger or for a chat, and those without
      a handler here, which wait `unknown_ttl` seconds for a process that has one and are dead letters then.
    - A key of `publish` or `claim` is taken for all replicas, so that a cron tick fires once whatever their clocks say.
    - While the database is away the service lives on: `failure` says why, `publish` waits for `timeout` seconds and
      then raises `StorageError`, `publish_nowait` accepts as much as the buffer holds, handlers go on, and the
      connection is made again, with backoff. A batch whose answer got lost is repeated under its number, and written
      once.
    - Its tables (`definable_event` and others) are made when they are missing. Services that share a database are kept
      apart by their names. The last 10,000 dead letters of each are kept.

    Args:
        dsn: `postgresql://[user:password@]host[:port]/database`, or keywords and values.
        service: Replicas that share events have it in common; services that share a database do not. None:
            `"definable"`, followed by the agent's name where it has one.
        lease: Seconds after which the work of a process that has died moves on.
        timeout: Seconds for which callers wait for a database that does not answer, and after which it counts as away.
        buffer: How many publications may wait to be written; beyond it `publish_nowait` raises and `publish` waits.
        max_deliveries: How often a message is handed out although nothing came of it, as when its handler ends the
            process.
        unknown_ttl: Seconds.

    Raises:
        ConfigurationError: A value is out of its range, or the DSN is none.
        MissingExtra: psycopg is not installed.

    Example:
        >>> from definable.agent import Agent
        >>> from definable.agent.bus import PostgresBus
        >>> agent = Agent("offline", bus=PostgresBus("postgresql://localhost/app"))
    """

    def __init__(
        self,
        dsn: str,
        *,
        service: str | None = None,
        lease: float = DEFAULT_LEASE,
        timeout: float = DEFAULT_TIMEOUT,
        buffer: int = DEFAULT_BUFFER,
        max_deliveries: int = MAX_DELIVERIES,
        unknown_ttl: float = UNKNOWN_TTL,
    ) -> None:
        if not (lease > 0 and math.isfinite(lease)):
            raise ConfigurationError(f"lease={lease!r}: seconds, greater than 0")
        super().__init__(buffer=buffer, timeout=timeout, max_deliveries=max_deliveries, waiting="wait for PostgreSQL")
        self._database = PostgresDatabase(dsn, "PostgresBus", sql.SCHEMA, timeout=timeout)
        self._service = ServiceName(service, "PostgresBus", "service")
        self._lease, self._unknown_ttl = lease, unknown_ttl

    def __repr__(self) -> str:
        return f"PostgresBus({self._database.address!r})"

    def new_store(self) -> PostgresStore:
        return PostgresStore(self._database, str(self._service), lease=self._lease, unknown_ttl=self._unknown_ttl)

    def rate_limits(self) -> AbstractAsyncContextManager[Limits]:
        """The limits that replicas share in this database, while the context is open; see `SharesLimits`."""
        return postgres_limits(self._database, str(self._service))

    def belongs_to(self, agent: str | None) -> None:
        """Keep events under an agent's name, where no service was given; called when an agent is given the bus.

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

    async def dead_letters(self) -> Sequence[DeadLetter]:
        queue = self._opened()
        with suppress(StorageError):  # while it refuses what is new, it still lists what it has
            await queue.writes.all_written()
        return await queue.store.dead_letters()

    async def keep_value(self, key: str, value: bytes, ttl: float, *, replace: bool = False) -> bytes | None:
        """Remember a value for all replicas; see `KeepsValues`."""
        args: dict[str, Any] = {"service": str(self._service), "digest": digest(key)}

        def keep(connection: Connection[tuple[Any, ...]]) -> bytes | None:
            while True:
                kept = connection.execute(sql.KEEP_VALUE, {**args, "value": value, "ttl": ttl, "replace": replace})
                if kept.fetchone():
                    return None
                found = connection.execute(sql.FIND_VALUE, args).fetchone()
                if found is not None:  # else it was dropped in between
                    return bytes(found[0])

        return await self._database.transact(keep)

    async def drop_value(self, key: str) -> None:
        """Forget a value; see `KeepsValues`."""
        args = {"service": str(self._service), "digest": digest(key)}
        await self._database.transact(lambda connection: connection.execute(sql.DROP_VALUE, args) and None)

    async def backlog(self) -> Backlog:
        """What waits for a worker; see `MeasuresBacklog`."""

        def measure(connection: Connection[tuple[Any, ...]]) -> Backlog:
            [(waiting, since)] = connection.execute(sql.BACKLOG, {"service": str(self._service)}).fetchall()
            return Backlog(waiting, since)

        return await self._database.transact(measure)

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        args = (str(self._service), [*map(storable, names)], limit)

        def find(connection: Connection[tuple[Any, ...]]) -> Sequence[WaitingRun]:
            found, scanned = list[WaitingRun](), 0
            for (body,) in connection.execute(sql.WAITING_RUNS, args):
                scanned += len(body)
                if scanned > MAX_SCANNED:
                    break
                with suppress(StorageError):  # whoever claims it finds out
                    found += WaitingRun.all_of([decode_data(body)])
            return found

        return await self._database.transact(find)


class PostgresStore(SharedStore):
    """The messages of a database, for one opening.

    Args:
        database: Where they are.
        service: Whose they are.
        lease: Seconds.
        unknown_ttl: Seconds after which messages without a handler are dead letters.
    """

    durable: bool = True
    keeps_trying: bool = True
    max_publications: int = 1_000
    orders_groups: bool = True

    def __init__(self, database: PostgresDatabase, service: str, *, lease: float, unknown_ttl: float) -> None:
        self.opening: str = os.urandom(8).hex()
        """The name of this consumer in the database."""
        self._database = database
        self._service = service
        self._lease, self._unknown_ttl = lease, unknown_ttl
        self._queue: Queue
        self._last_position = 0
        """The last that this opening has published."""
        self._names: Sequence[bytes] = ()
        """Of which messages waited the last time."""
        self._next_sweep = 0.0
        self._notified = anyio.Event()
        self._numbers = itertools.count(1)
        self._released: list[tuple[str, str]] = []
        """Dedupe keys to forget, with the claims that they must have; empty for any."""

    def __repr__(self) -> str:
        return str(self._database)

    @property
    def failure(self) -> Exception | None:
        return self._database.failure

    @property
    def is_taking(self) -> bool:
        return False  # it claims with batches alone

    def take_all(self) -> Sequence[Message]:
        return ()

    @asynccontextmanager
    async def opened(self, queue: Queue) -> AsyncGenerator[Sequence[tuple[str, float]], None]:
        self._queue = queue
        async with self._database.open():
            args = (self.opening, self._service, self._lease)
            await self._database.transact(lambda connection: connection.execute(sql.REGISTER, args) and None)
            yield ()

    # --- batches

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        while True:
            held, released = [*self._queue.held], self._released
            transaction = BatchTransaction(
                self._service, self.opening, self._lease, batch, claim, held, released, self._names
            )
            try:
                try:
                    applied = await self._database.transact(transaction.make)
                except MadeBefore as before:
                    made = partial(transaction.claimed_before, outcome=before.outcome)
                    applied = await self._database.transact(made)
            except PostgresAway:
                self._let_others_renew()
                await self._database.pause()
            except PostgresRefusal as refusal:
                if batch.publications:
                    raise BatchRefused(str(refusal)) from refusal
                raise
            else:
                break
        self._released = self._released[len(released) :]
        self._names = transaction.names
        self._last_position = max(self._last_position, transaction.last_position)
        if transaction.is_lost:
            self._lose(held)
        now = anyio.current_time()
        return applied._replace(next_due=None if applied.next_due is None else now + applied.next_due)

    def _lose(self, held: Sequence[Handle]) -> None:
        for handle in held:
            self._queue.lease_lost(handle)

    # --- beside batches

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            group.start_soon(self._beat)
            while await self._queue.demanded():
                pause = self._next_sweep - anyio.current_time()
                if pause <= 0:
                    await self._sweep()
                with anyio.move_on_after(pause):
                    await self._notified.wait()
                    self._notified = anyio.Event()
                self._queue.arrived((), has_more=True)

    async def _sweep(self) -> None:
        """What others have left, and what nobody could begin for too long."""
        self._next_sweep = anyio.current_time() + min(SWEEP_PAUSE, self._lease / BEATS) * random.uniform(0.5, 1.0)
        known = self._queue.claim.known

        def sweep(connection: Connection[tuple[Any, ...]]) -> tuple[Sequence[bytes], int]:
            connection.execute(sql.SWEEP, (self.opening,))
            connection.execute(sql.FORGET_EXPIRED)
            connection.execute(sql.FORGET_EXPIRED_VALUES)
            if known is None:
                return (), 0
            waiting = {name for (name,) in connection.execute(sql.WAITING_NAMES, {"service": self._service})}
            unknown = {name for name in waiting if readable(name) not in known}
            left = [name for (name,) in connection.execute(sql.FOUND_UNKNOWN, (self._service,)) if name not in unknown]
            if left:
                connection.execute(sql.FORGET_UNKNOWN, (self._service, left))
            if not unknown:
                return (), 0
            new = [name for (name,) in connection.execute(sql.LEAVE_UNKNOWN, (self._service, [*unknown]))]
            return new, self._end_unknown(connection)

        try:
            new, dead = await self._database.transact(sweep)
        except PostgresAway:
            self._let_others_renew()
        except StorageError as refusal:
            logger.warning("nothing can be claimed at present: %s", refusal)
        else:
            for name in new:
                logger.warning(
                    "no handler is registered for %r: its deliveries wait for a process that has one", readable(name)
                )
            if dead:
                logger.error("%d deliveries without a registered handler are dead letters", dead)

    def _end_unknown(self, connection: Connection[tuple[Any, ...]]) -> int:
        """Dead-letter what has waited too long for a handler; returns how many."""
        ttl = self._unknown_ttl
        if connection.execute(sql.HAS_EXPIRED_UNKNOWN, (self._service, ttl)).fetchone() is None:
            return 0
        connection.execute(sql.LOCK_ALL_GROUPS, (sql.GROUPS_LOCK, sql.KINDS_OF_GROUPS))
        return len(connection.execute(sql.EXPIRED_UNKNOWN, (self._service, ttl, self._service)).fetchall())

    def _let_others_renew(self) -> None:
        """Those who hold something renew their leases first: they were not dead, the database was not to be had."""
        self._next_sweep = anyio.current_time() + self._lease / BEATS

    async def _beat(self) -> None:
        """Renew the lease until cancelled, and as soon as the database is back."""
        while True:
            pause = self._lease / BEATS
            try:
                await self.renew()
            except PostgresAway:
                pause = min(pause, SWEEP_PAUSE / 2)
            except StorageError as refusal:
                logger.warning("leases are not renewed at present: %s", refusal)
                pause = min(pause, SWEEP_PAUSE)
            await anyio.sleep(pause)

    async def renew(self) -> None:
        """Renew the lease of what is held, and let go of it if it was lost."""
        held = [*self._queue.held]

        def renew(connection: Connection[tuple[Any, ...]]) -> bool:
            if connection.execute(sql.HEARTBEAT, (self._lease, self.opening)).fetchone():
                return True
            connection.execute(sql.REGISTER, (self.opening, self._service, self._lease))
            return False

        if not await self._database.transact(renew):
            self._lose(held)

    async def _listen(self) -> None:
        """Wake up when another replica has published something."""
        from psycopg import Error  # an extra, and heavy

        failures, limiter = 0, anyio.CapacityLimiter(1)
        while True:
            began = anyio.current_time()
            connection: Any = None
            try:
                connection = await to_thread.run_sync(self._open_listener, limiter=limiter)
                self._notified.set()
                while True:
                    await anyio.wait_readable(connection.fileno())
                    for notice in connection.notifies(timeout=0):
                        service, _, opening = notice.payload.rpartition(" ")
                        if service == self._service and opening != self.opening:
                            self._notified.set()
            except (Error, OSError) as error:
                failures = RECONNECT_BACKOFF.failures_after(failures, anyio.current_time() - began)
                logger.debug("%s: no notifications at present: %s", self._database, error)
                await anyio.sleep(RECONNECT_BACKOFF.delay(failures))
            finally:
                if connection is not None:
                    connection.close()

    def _open_listener(self) -> Connection[tuple[Any, ...]]:
        connection = self._database.connect()
        connection.execute("LISTEN definable_event")
        return connection

    # --- come to rest

    async def is_drained(self) -> bool:
        args, known = (self._service, self._last_position), self._queue.claim.known
        try:
            waiting = await self._database.transact(lambda connection: connection.execute(sql.PASSED, args).fetchall())
        except StorageError:
            return False
        return not any(known is None or readable(name) in known for (name,) in waiting)

    async def rest(self) -> bool:
        return True

    async def close(self, held: Sequence[Handle]) -> None:
        def close(connection: Connection[tuple[Any, ...]]) -> None:
            connection.execute(sql.GIVE_BACK, {"held": [*held], "opening": self.opening})
            connection.execute(sql.KEEP_KEYS, (self.opening,))
            connection.execute(sql.DEREGISTER, (self.opening,))
            connection.execute(sql.NOTIFY, (f"{self._service} {self.opening}",))

        await self._database.transact(close)

    # --- keys, dead letters

    async def claim_key(self, digest: str, ttl: float) -> bool:
        claim = f"{self.opening}:{next(self._numbers)}"
        args = {"service": self._service, "digest": digest, "ttl": ttl, "claim": claim, "owner": self.opening}
        try:
            return bool(await self._insist(lambda connection: connection.execute(sql.CLAIM_KEY, args).fetchone()))
        except BaseException:  # it may be taken all the same, and nobody would ever release it
            self._release_later(digest, claim)
            raise

    async def release_key(self, digest: str) -> None:
        args = ([digest], [""], self._service)
        try:
            await self._insist(lambda connection: connection.execute(sql.RELEASE_KEYS, args) and None)
        except BaseException:
            self._release_later(digest, "")
            raise

    def _release_later(self, digest: str, claim: str) -> None:
        self._released = [*self._released, (digest, claim)]
        self._queue.request_flush()

    async def _insist(self, work: Callable[[Connection[tuple[Any, ...]]], Result]) -> Result:
        return await self._database.insist(work)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        rows = await self._insist(lambda connection: connection.execute(sql.LIST_DEAD, (self._service,)).fetchall())
        return [
            DeadLetter(id, readable(name), decode_data(body), attempt, readable(why), at, group)
            for id, name, body, attempt, why, at, group in rows
        ]
