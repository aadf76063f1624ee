"""Rate limits that replicas share in PostgreSQL: a row a caller, which is removed when everything is paid for.

The calls that come while a transaction is made are counted in the next one, all together: a transaction takes longer
than any single request may cost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import uniform
from typing import TYPE_CHECKING, Any, LiteralString

import anyio

from definable.concurrency.rate_limits import Limits, LocalWhileAway, Rate, caller_digest
from definable.errors import StorageError

from .postgres_database import PostgresDatabase

if TYPE_CHECKING:
    from psycopg import Connection

TIMEOUT = 5.0
"""Seconds for PostgreSQL to answer; a request waits for it."""

SWEEP_PAUSE = 60.0
"""Seconds, about, between two looks for callers who have paid for everything."""

SWEPT_AT_ONCE = 10_000
"""Rows; the requests that come meanwhile wait."""

SCHEMA = (
    """CREATE UNLOGGED TABLE IF NOT EXISTS definable_rate_limit (
        service text NOT NULL,
        caller bytea NOT NULL,
        paid_until float8 NOT NULL,
        PRIMARY KEY (service, caller)
    ) WITH (fillfactor = 50)""",
)
"""Times are the server's, in Unix seconds, so that the clocks of the replicas do not matter. Unlogged: a server that
crashes forgets who has called, and none of this is worth a write to the log. Half of a page is left for new versions of
its rows, which change with each call."""

NOW: LiteralString = "extract(epoch FROM clock_timestamp())::float8"

MEET: LiteralString = f"""INSERT INTO definable_rate_limit (service, caller, paid_until)
SELECT %(service)s, caller, {NOW} FROM unnest(%(callers)s::bytea[]) AS new (caller) ORDER BY caller
ON CONFLICT DO NOTHING"""

TAKE: LiteralString = f"""WITH kept AS MATERIALIZED (
    SELECT caller, paid_until FROM definable_rate_limit
    WHERE service = %(service)s AND caller = ANY(%(callers)s::bytea[]) ORDER BY caller FOR UPDATE
), timed AS MATERIALIZED (
    SELECT caller, paid_until, {NOW} AS moment FROM kept
), counted AS (
    SELECT caller, greatest(paid_until, moment) AS paid_until, moment, every, period,
        least(wanted, greatest(floor((period - greatest(paid_until - moment, 0)) / every + 1e-6), 0)) AS taken
    FROM timed JOIN unnest(%(callers)s::bytea[], %(every)s::float8[], %(periods)s::float8[], %(wanted)s::integer[])
    AS new (caller, every, period, wanted) USING (caller)
) UPDATE definable_rate_limit AS changed SET paid_until = counted.paid_until + taken * every FROM counted
WHERE changed.service = %(service)s AND changed.caller = counted.caller
RETURNING changed.caller, taken::integer, changed.paid_until + every - period - moment"""
"""Returns of each caller how many calls count, and the seconds after which the next one would. Rows are locked in one
order by all replicas, and the clock is read after the lock: at the beginning of the transaction it may be earlier than
that of another one whose calls were counted meanwhile, which makes their debt look larger than the burst it was."""

SWEEP: LiteralString = f"""DELETE FROM definable_rate_limit WHERE ctid = ANY(ARRAY(
SELECT ctid FROM definable_rate_limit WHERE paid_until <= {NOW} LIMIT %s FOR UPDATE SKIP LOCKED))"""


@dataclass(slots=True, eq=False)
class Call:
    """A call that is to be counted."""

    caller: bytes
    rate: Rate
    done: anyio.Event = field(default_factory=anyio.Event)
    early: float = 0.0
    """Seconds after which it may come again."""
    failure: StorageError | None = None


class PostgresLimits(Limits):
    """Limits in a database.

    Args:
        database: Where they are.
        service: Whose they are.
    """

    def __init__(self, database: PostgresDatabase, service: str) -> None:
        self._database = database
        self._service = service
        self._waiting: list[Call] = []
        self._arrived = anyio.Event()
        self._next_sweep = 0.0

    async def take(self, key: str, rate: Rate) -> float:
        """As of `Limits`.

        Raises:
            StorageError: The database is away.
        """
        call = Call(caller_digest(key), rate)
        self._waiting.append(call)
        self._arrived.set()
        await call.done.wait()
        if call.failure is not None:
            raise StorageError(str(call.failure)) from call.failure
        return call.early

    async def run(self) -> None:
        """Count calls until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            while self._waiting:
                await self._count(self._next_calls())

    def _next_calls(self) -> dict[bytes, list[Call]]:
        """Those that wait, by caller, but for calls of one caller at another rate than his first."""
        calls: dict[bytes, list[Call]] = {}
        later: list[Call] = []
        for call in self._waiting:
            same = calls.setdefault(call.caller, [])
            (later if same and same[0].rate != call.rate else same).append(call)
        self._waiting = later
        return calls

    async def _count(self, calls: dict[bytes, list[Call]]) -> None:
        firsts = [same[0] for same in calls.values()]
        args: dict[str, Any] = {
            "service": self._service,
            "callers": [first.caller for first in firsts],
            "every": [first.rate.interval for first in firsts],
            "periods": [first.rate.period for first in firsts],
            "wanted": [len(same) for same in calls.values()],
        }

        def take(connection: Connection[tuple[Any, ...]]) -> Sequence[tuple[bytes, int, float]]:
            connection.execute(MEET, args)
            return connection.execute(TAKE, args).fetchall()

        failure: StorageError | None = None
        try:
            await self._sweep()
            for caller, taken, early in await self._database.transact(take):
                for number, call in enumerate(calls.pop(bytes(caller))):
                    call.early = 0.0 if number < taken else max(early, 1e-6)
                    call.done.set()
        except StorageError as error:
            failure = error
        for call in (call for same in calls.values() for call in same):
            if failure is None:  # another replica has just removed the row, since nothing was left to pay for
                self._waiting.append(call)
                continue
            call.failure = failure
            call.done.set()

    async def _sweep(self) -> None:
        if (now := anyio.current_time()) < self._next_sweep:
            return
        args = (SWEPT_AT_ONCE,)
        swept = await self._database.transact(lambda connection: connection.execute(SWEEP, args).rowcount)
        if swept < SWEPT_AT_ONCE:
            self._next_sweep = now + SWEEP_PAUSE * uniform(0.5, 1.5)


@asynccontextmanager
async def postgres_limits(database: PostgresDatabase, service: str) -> AsyncGenerator[Limits, None]:
    """Limits in the database that another one is, while the context is open.

    Args:
        database: It is asked over a connection of its own.
        service: Replicas that share limits have it in common.

    Raises:
        StorageError: It cannot be reached.
    """
    own = database.another(SCHEMA, timeout=TIMEOUT)
    async with own.open(), anyio.create_task_group() as group:
        limits = PostgresLimits(own, service)
        group.start_soon(limits.run)
        try:
            yield LocalWhileAway(limits, str(own))
        finally:
            group.cancel_scope.cancel()
