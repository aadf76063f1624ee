"""The event bus in PostgreSQL: any number of processes share it. `PostgresBus`, and its store.

`postgres_rows.py` has the tables and statements, `postgres_batch.py` one batch as one transaction, and
`postgres_claims.py` what a replica does beside its batches.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from definable.concurrency.rate_limits import Limits
from definable.errors import StorageError
from definable.storage.postgres_database import DEFAULT_TIMEOUT, PostgresAway, PostgresDatabase, PostgresRefusal
from definable.storage.postgres_limits import postgres_limits
from definable.storage.service_name import ServiceName

from . import postgres_rows as sql
from .base import MAX_SCANNED, Backlog, DeadLetter, WaitingRun
from .batch import Applied, BatchRefused, Claim, Handle, Message, WriteBatch, decode_data
from .claims import MAX_DELIVERIES
from .postgres_batch import BatchTransaction, MadeBefore, readable, storable
from .postgres_claims import PostgresConsumer
from .queue import DEFAULT_BUFFER, UNKNOWN_TTL
from .shared import DEFAULT_LEASE, ServerStore, SharedBus
from .store import Queue

if TYPE_CHECKING:
    from psycopg import Connection

Result = TypeVar("Result")


class PostgresBus(SharedBus):
    """Shares events over replicas: each is handled by one of them. For PostgreSQL from 12 on.

    - What `await publish` accepted is committed. `publish_nowait` never blocks; what it accepted is committed with
      everything else that has come together, a transaction later, or when the database is back.
    - Claims skip what others are claiming (`FOR UPDATE SKIP LOCKED`). What a process that dies held, others take over
      when its lease has run out: at least once, as the next attempt, and after `max_deliveries` it is a dead letter. A
      handler whose lease is lost is cancelled. A process that stops gives back what it holds.
    - Replicas are woken by `LISTEN` and `NOTIFY`, and look by themselves each second: behind PgBouncer in transaction
      mode, which passes no notifications on, what others publish is claimed up to a second later.
    - A trigger's `max_concurrency`, and `overlap="skip"` and `"queue"` of cron jobs, hold over all processes; a slot of
      one that dies comes free with its lease.
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
        bounds: dict[str, Any] = {
            "lease": lease,
            "timeout": timeout,
            "buffer": buffer,
            "max_deliveries": max_deliveries,
        }
        super().__init__(ServiceName(service, "PostgresBus", "service"), **bounds, waiting="wait for PostgreSQL")
        self._database = PostgresDatabase(dsn, "PostgresBus", sql.SCHEMA, timeout=timeout)
        self._unknown_ttl = unknown_ttl

    def __repr__(self) -> str:
        return f"PostgresBus({self._database.address!r})"

    def new_store(self) -> PostgresStore:
        return PostgresStore(self._database, str(self._service), lease=self._lease, unknown_ttl=self._unknown_ttl)

    def rate_limits(self) -> AbstractAsyncContextManager[Limits]:
        """The limits that replicas share in this database, while the context is open; see `SharesLimits`."""
        return postgres_limits(self._database, str(self._service))


class PostgresStore(ServerStore):
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
        self._limited: set[Handle] = set()
        """What is held of names that have a limit."""
        self.consumer: PostgresConsumer
        """Set while it is open."""
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
        options: dict[str, Any] = {"lease": self._lease, "unknown_ttl": self._unknown_ttl, "opening": self.opening}
        self.consumer = PostgresConsumer(self._database, self._service, queue, **options)
        async with self._database.open():
            args = (self.opening, self._service, self._lease)
            await self._database.transact(lambda connection: connection.execute(sql.REGISTER, args) and None)
            yield ()

    # --- batches

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        while True:
            held, released = [*self._queue.held], self._released
            freed = self._limited.intersection(batch.ended)
            transaction = BatchTransaction(
                self._service, self.opening, self._lease, batch, claim, held, released, self._names, frees=bool(freed)
            )
            try:
                try:
                    applied = await self._database.transact(transaction.make)
                except MadeBefore as before:
                    made = partial(transaction.claimed_before, outcome=before.outcome)
                    applied = await self._database.transact(made)
            except PostgresAway:
                self.consumer.let_others_renew()
                await self._database.pause()
            except PostgresRefusal as refusal:
                if batch.publications:
                    raise BatchRefused(str(refusal)) from refusal
                raise
            else:
                break
        self._released = self._released[len(released) :]
        self._names = transaction.names
        self._limited -= freed
        self._limited |= {message.handle for message in applied.claimed if message.name in claim.limits}
        self._last_position = max(self._last_position, transaction.last_position)
        if transaction.is_lost:
            self.consumer.lose(held)
        now = anyio.current_time()
        return applied._replace(next_due=None if applied.next_due is None else now + applied.next_due)

    # --- beside batches

    async def run(self) -> None:
        await self.consumer.run()

    # --- come to rest

    async def is_drained(self) -> bool:
        return await self.consumer.is_drained(self._last_position)

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

    # --- values, what waits

    async def keep_value(self, digest: str, value: bytes, ttl: float, *, replace: bool) -> bytes | None:
        args: dict[str, Any] = {"service": self._service, "digest": digest}

        def keep(connection: Connection[tuple[Any, ...]]) -> bytes | None:
            while True:
                kept = connection.execute(sql.KEEP_VALUE, {**args, "value": value, "ttl": ttl, "replace": replace})
                if kept.fetchone():
                    return None
                found = connection.execute(sql.FIND_VALUE, args).fetchone()
                if found is not None:  # else it was dropped in between
                    return bytes(found[0])

        return await self._database.transact(keep)

    async def drop_value(self, digest: str) -> None:
        args = {"service": self._service, "digest": digest}
        await self._database.transact(lambda connection: connection.execute(sql.DROP_VALUE, args) and None)

    async def reconnected(self) -> None:
        await self._database.pause()

    async def backlog(self) -> Backlog:
        args = {"service": self._service}
        [(waiting, since)] = await self._database.transact(
            lambda connection: connection.execute(sql.BACKLOG, args).fetchall()
        )
        return Backlog(waiting, since)

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        args = (self._service, [*map(storable, names)], limit)

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
