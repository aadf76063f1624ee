"""What one replica does in PostgreSQL beside its batches, which claim: it renews its lease, is woken, and sweeps."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from definable.concurrency.logs import logger_named
from definable.errors import StorageError
from definable.storage.postgres_database import RECONNECT_BACKOFF, PostgresDatabase

from . import postgres_rows as sql
from .postgres_batch import LOCK, readable
from .shared import SharedConsumer
from .store import Queue

if TYPE_CHECKING:
    from psycopg import Connection

logger: logging.Logger = logger_named(__name__)


class PostgresConsumer(SharedConsumer):
    """The consumer of one opening.

    Args:
        database: Where the messages are.
        service: Whose they are.
        queue: See `SharedConsumer`.
        options: See `SharedConsumer`.
    """

    def __init__(self, database: PostgresDatabase, service: str, queue: Queue, **options: Any) -> None:
        super().__init__(queue, **options)
        self._database = database
        self._service = service
        self._notified = anyio.Event()

    async def take_new(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._notified.wait()
            self._notified = anyio.Event()
        self._queue.arrived((), has_more=True)

    async def recover_connection(self) -> None:
        await self._database.pause()

    async def sweep(self) -> None:
        self.sweep_is_done()
        new, dead = await self._database.transact(self._sweep)
        for name in new:
            logger.warning(
                "no handler is registered for %r: its deliveries wait for a process that has one", readable(name)
            )
        if dead:
            logger.error("%d deliveries without a registered handler are dead letters", dead)
        self._queue.arrived((), has_more=True)

    def _sweep(self, connection: Connection[tuple[Any, ...]]) -> tuple[Sequence[bytes], int]:
        """Names that have no handler here, and how many messages are dead letters therefore."""
        connection.execute(sql.SWEEP, (self._opening,))
        connection.execute(sql.FORGET_EXPIRED)
        connection.execute(sql.FORGET_EXPIRED_VALUES)
        self._begin_groups(connection)
        known = self._queue.claim.known
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

    def _begin_groups(self, connection: Connection[tuple[Any, ...]]) -> None:
        """Have the next message of a group be the first where somebody has removed that."""
        begin = random.choice(("", f"{random.randrange(256):02x}"))  # groups are digests
        args: dict[str, Any] = {**LOCK, "service": self._service, "begin": begin}
        stuck = [group for (group,) in connection.execute(sql.STUCK_GROUPS, args)]
        if stuck:
            connection.execute(sql.LOCK_GROUPS, {**args, "groups": stuck})
            connection.execute(sql.FIND_FIRST, {**args, "groups": stuck})

    def _end_unknown(self, connection: Connection[tuple[Any, ...]]) -> int:
        """Dead-letter what has waited too long for a handler; returns how many."""
        ttl = self._unknown_ttl
        if connection.execute(sql.HAS_EXPIRED_UNKNOWN, (self._service, ttl)).fetchone() is None:
            return 0
        connection.execute(sql.LOCK_ALL_GROUPS, (sql.GROUPS_LOCK, sql.KINDS_OF_GROUPS))
        return len(connection.execute(sql.EXPIRED_UNKNOWN, (self._service, ttl, self._service)).fetchall())

    async def renew(self) -> None:
        held = [*self._queue.held]

        def renew(connection: Connection[tuple[Any, ...]]) -> bool:
            if connection.execute(sql.HEARTBEAT, (self._lease, self._opening)).fetchone():
                return True
            connection.execute(sql.REGISTER, (self._opening, self._service, self._lease))
            return False

        if not await self._database.transact(renew):
            self.lose(held)

    async def listen(self) -> None:
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
                        if service == self._service and opening != self._opening:
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

    async def is_drained(self, position: int) -> bool:
        """Whether nothing waits up to that position that a process like this one may claim now."""
        claim = self._queue.claim

        def find(connection: Connection[tuple[Any, ...]]) -> tuple[set[str], dict[str, tuple[int, bool]]]:
            waiting = connection.execute(sql.PASSED, (self._service, position)).fetchall()
            slots = connection.execute(sql.SLOTS, (self._opening, self._service)) if claim.limits else ()
            return {readable(name) for (name,) in waiting}, {readable(name): (count, own) for name, count, own in slots}

        try:
            waiting, slots = await self._database.transact(find)
        except StorageError:
            return False
        for name, (count, own) in slots.items():
            if name in claim.limits and count >= claim.limits[name].size and not own:
                waiting.discard(name)  # it waits for a slot of another process, and is for that one
        return not any(claim.known is None or name in claim.known for name in waiting)
