"""Rate limits that replicas share: one contract at a Redis and a PostgreSQL, by each part of an agent that has some."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeAlias

import anyio
import pytest

from definable.agent.bus import PostgresBus, RedisBus
from definable.agent.session import PostgresSessionStore, RedisSessionStore
from definable.concurrency.rate_limits import Limits, Rate, SharesLimits
from definable.storage import postgres_limits

pytestmark = pytest.mark.anyio

LIMIT = 60.0
"""Seconds that a test may hang."""

HOURLY = Rate(20, 3600.0)

Parts: TypeAlias = dict[str, tuple[str, Callable[[str], Any]]]

PARTS: Parts = {
    "redis bus": ("redis", RedisBus),
    "redis sessions": ("redis", RedisSessionStore),
    "postgres bus": ("postgres", PostgresBus),
    "postgres sessions": ("postgres", PostgresSessionStore),
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> Callable[[], SharesLimits]:
    """Makes a part of an agent, at one server."""
    server, kind = PARTS[request.param]
    found = request.getfixturevalue(server)
    return lambda: kind(found if isinstance(found, str) else found.url)


@pytest.fixture
async def replicas(part: Callable[[], SharesLimits]) -> AsyncIterator[list[Limits]]:
    """The limits of two replicas."""
    async with AsyncExitStack() as stack:
        shared: list[AbstractAsyncContextManager[Limits]] = [part().rate_limits() for _ in range(2)]
        yield [await stack.enter_async_context(each) for each in shared]


async def test_so_many_at_once_over_all_replicas_and_others_do_not_notice(replicas: list[Limits]) -> None:
    one, other = replicas
    taken = [await each.take("ann", HOURLY) for each in (one, other) * 10]
    assert taken == [0.0] * 20
    for each in replicas:
        assert await each.take("ann", HOURLY) == pytest.approx(180, abs=60)
        assert await each.take("bob", HOURLY) == 0.0


async def test_of_many_at_once_as_many_count_as_may(replicas: list[Limits], caplog: pytest.LogCaptureFixture) -> None:
    """Callers overlap, and come in opposite orders: replicas that lock each other out would fail."""
    let_through = Counter[str]()

    async def call(limits: Limits, caller: str) -> None:
        if not await limits.take(caller, HOURLY):
            let_through[caller] += 1

    callers = [f"caller {number}" for number in range(30)]
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            for _ in range(15):
                for caller, reverse in zip(callers, reversed(callers), strict=True):
                    group.start_soon(call, replicas[0], caller)
                    group.start_soon(call, replicas[1], reverse)
    assert "of this process alone" not in caplog.text
    assert let_through == dict.fromkeys(callers, 20)


async def test_whoever_comes_again_after_the_time_that_was_named_is_let_through(replicas: list[Limits]) -> None:
    rate, refused = Rate(2, 0.3), 0
    with anyio.fail_after(LIMIT):
        for number in range(6):
            while early := await replicas[number % 2].take("ann", rate):
                assert early <= 0.15 + 1e-3
                refused += 1
                await anyio.sleep(early)
    assert refused


async def test_two_rates_of_one_caller_are_both_counted(replicas: list[Limits]) -> None:
    answers: list[float] = []

    async def call(rate: Rate) -> None:
        answers.append(await replicas[0].take("ann", rate))

    async with anyio.create_task_group() as group:
        for rate in (HOURLY, Rate(1000, 3600.0)) * 3:
            group.start_soon(call, rate)
    assert answers == [0.0] * 6


@pytest.mark.parametrize("caller", ["", "a\x00b", "half \ud800", "x" * 100_000], ids=["empty", "nul", "half", "long"])
async def test_a_caller_may_be_any_text(replicas: list[Limits], caller: str) -> None:
    rate = Rate(1, 3600.0)
    assert await replicas[0].take(caller, rate) == 0.0
    assert await replicas[1].take(caller, rate) > 0.0


async def test_postgres_forgets_who_has_paid_for_everything(
    postgres: str, shared_postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_limits, "SWEEP_PAUSE", 0.0)
    async with PostgresBus(postgres).rate_limits() as limits:
        for number in range(100):
            await limits.take(f"caller {number}", Rate(1, 0.001))
        await limits.take("caller for a while", HOURLY)
        with shared_postgres.connected(postgres) as connection, anyio.fail_after(LIMIT):
            while connection.execute("SELECT count(*) FROM definable_rate_limit").fetchone() != (1,):
                await limits.take("caller for a while", HOURLY)


async def test_postgres_reads_the_clock_when_it_is_the_turn_of_the_call(postgres: str, shared_postgres: Any) -> None:
    """Another replica's transaction that begins later and ends first: its calls are of the past, not of the future."""
    take_all_but_one = """UPDATE definable_rate_limit
    SET paid_until = extract(epoch FROM clock_timestamp())::float8 + 19 * 180"""
    answers: list[float] = []

    async def take(limits: Limits) -> None:
        answers.extend([await limits.take("ann", HOURLY) for _ in range(2)])

    async with PostgresBus(postgres).rate_limits() as limits:
        assert await limits.take("ann", HOURLY) == 0.0
        with shared_postgres.connected(postgres) as connection, anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                connection.execute("BEGIN")
                connection.execute("SELECT 1 FROM definable_rate_limit FOR UPDATE")
                group.start_soon(take, limits)
                while not connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                    await anyio.sleep(0.01)
                connection.execute(take_all_but_one)
                connection.execute("COMMIT")
    assert answers == [0.0, pytest.approx(180, abs=5)]
