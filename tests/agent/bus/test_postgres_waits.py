"""What a transaction in PostgreSQL decides that has waited for a lock: by the clock after it, not at its beginning.

The names and digests of keys, and the tables, are internal: another transaction holds their rows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from anyio import to_thread

from definable.agent.bus import PostgresBus
from definable.agent.bus.base import Submission
from definable.agent.bus.dedupe import digest
from definable.agent.bus.postgres_batch import LOCK

pytestmark = pytest.mark.anyio

LIMIT = 40.0
"""Seconds that a test may hang."""

TTL = 0.3
"""Seconds of what expires while a lock is waited for."""

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

PASSED = "SELECT clock_timestamp() > now() + make_interval(secs => %s)"
"""Whether so many seconds have passed since a transaction began."""


@asynccontextmanager
async def waiting_for(
    dsn: str, statement: str, args: tuple[Any, ...], work: Callable[[], Awaitable[Any]]
) -> AsyncGenerator[list[Any], None]:
    """Have some work wait for what a statement locks, until what expires has; yields what came of it."""
    outcome: list[Any] = []

    async def do() -> None:
        outcome.append(await work())

    async def until(connection: psycopg.Connection, question: str, *values: object) -> None:
        while not connection.execute(question, values).fetchall()[0][0]:  # type: ignore[arg-type]
            await anyio.sleep(0.01)

    with anyio.fail_after(LIMIT), await to_thread.run_sync(psycopg.connect, dsn) as holder:
        async with anyio.create_task_group() as group:
            holder.execute(statement, args)  # type: ignore[arg-type]
            with psycopg.connect(dsn, autocommit=True) as looking:
                group.start_soon(do)
                await until(looking, WAITING)
            await until(holder, PASSED, 2 * TTL)
            holder.commit()
    yield outcome


async def test_a_value_that_has_expired_while_one_waited_for_it_is_replaced(postgres: str) -> None:
    insert = "INSERT INTO definable_event_value VALUES ('definable', %s, 'old', now() + make_interval(secs => %s))"
    bus = PostgresBus(postgres)
    async with (
        bus.open(),
        waiting_for(postgres, insert, (digest("k"), TTL), lambda: bus.keep_value("k", b"new", 60)) as outcome,
    ):
        assert outcome == [None]
        assert await bus.keep_value("k", b"other", 60) == b"new"


async def test_a_value_is_kept_for_its_time_from_when_it_is_kept(postgres: str) -> None:
    insert = "INSERT INTO definable_event_value VALUES ('definable', %s, 'old', now())"
    bus = PostgresBus(postgres)
    async with (
        bus.open(),
        waiting_for(postgres, insert, (digest("k"),), lambda: bus.keep_value("k", b"new", TTL * 1.5)) as outcome,
    ):
        assert outcome == [None]
        assert await bus.keep_value("k", b"other", 60) == b"new"


@pytest.mark.parametrize("claims", [False, True])
async def test_a_key_that_has_expired_while_one_waited_for_it_is_taken_for_its_time(
    postgres: str, claims: bool
) -> None:
    insert = """INSERT INTO definable_event_dedupe (service, digest, expires_at)
        VALUES ('definable', %s, now() + make_interval(secs => %s))"""
    bus, ttl = PostgresBus(postgres), TTL * 1.5

    async def take() -> bool:
        return await (bus.claim("k", ttl) if claims else bus.publish("job", {}, dedupe_key="k", dedupe_ttl=ttl))

    async with bus.open(), waiting_for(postgres, insert, (digest("k"), TTL), take) as outcome:
        assert outcome == [True]
        assert await take() is False


async def test_a_batch_that_has_waited_renews_the_lease_of_what_it_claims(postgres: str) -> None:
    lock = "SELECT pg_advisory_xact_lock(%s, kind) FROM generate_series(0, %s - 1) AS kind"
    alive = "SELECT alive_until FROM definable_event_opening"
    bus = PostgresBus(postgres, lease=100 * LIMIT)  # no heartbeat comes
    async with bus.open():

        async def publish() -> None:
            await bus.publish_many([Submission("job", {}, group="a")])

        with psycopg.connect(postgres, autocommit=True) as connection:
            [(before,)] = connection.execute(alive).fetchall()
            async with waiting_for(postgres, lock, (LOCK["lock"], LOCK["kinds"]), publish):
                [(after,)] = connection.execute(alive).fetchall()
    assert (after - before).total_seconds() > TTL
