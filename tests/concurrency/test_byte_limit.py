"""What may be held together: refused beyond the limit, or waited for in arrival order, and never lost."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from definable.concurrency.byte_limit import ByteLimit

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let every task come to where it waits."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


def test_what_does_not_fit_is_refused_and_holds_nothing() -> None:
    limit = ByteLimit(10)
    assert limit.take(6)
    assert not limit.take(5)
    assert limit.held == 6
    assert limit.take(4)
    limit.release(6)
    assert limit.has(6)
    assert not limit.has(7)


def test_one_alone_may_exceed_the_limit_where_that_is_said() -> None:
    assert not ByteLimit(10).take(11)
    limit = ByteLimit(10, one_may_exceed=True)
    assert limit.take(11)
    assert not limit.take(1)
    limit.release(11)
    assert limit.take(1)
    assert not limit.take(11)


def test_what_is_held_anyway_counts() -> None:
    limit = ByteLimit(1)
    with limit.held_anyway(5):
        assert not limit.take(1)
    assert limit.held == 0


async def test_who_waits_is_served_in_arrival_order_and_a_large_one_is_not_passed_by_small_ones() -> None:
    limit = ByteLimit(10)
    served: list[int] = []

    async def use(amount: int) -> None:
        async with limit.acquired(amount):
            served.append(amount)

    assert limit.take(10)
    async with anyio.create_task_group() as group:
        for amount in (8, 3, 9):
            group.start_soon(use, amount)
            await settle()
        limit.release(3)
        await settle()
        assert served == []  # 3 would fit, and 8 came before it
        limit.release(7)
    assert served == [8, 3, 9]  # each granted alone: trio runs what is ready at once in any order
    assert limit.held == 0


async def test_who_gives_up_lets_those_behind_go_on() -> None:
    limit = ByteLimit(10)
    gives_up = anyio.CancelScope()

    async def wait_in_vain() -> None:
        with gives_up:
            await limit.acquire(9)

    assert limit.take(6)
    async with anyio.create_task_group() as group:
        group.start_soon(wait_in_vain)
        await settle()
        group.start_soon(limit.acquire, 1)
        await settle()
        assert limit.held == 6
        gives_up.cancel()
    assert limit.held == 7


async def test_what_was_granted_to_somebody_who_is_cancelled_is_given_back() -> None:
    limit = ByteLimit(1)
    is_granted = False

    async def wait() -> None:
        nonlocal is_granted
        async with limit.acquired(1):
            is_granted = True

    assert limit.take(1)
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await settle()
        group.cancel_scope.cancel()
        limit.release(1)  # granted before it runs again, and then it is cancelled
    assert not is_granted
    assert limit.held == 0


async def test_no_amount_is_lost_among_many_who_wait_and_are_cancelled() -> None:
    limit = ByteLimit(3)

    async def use(number: int) -> None:
        with anyio.CancelScope() as scope:
            if number % 3 == 0:
                scope.cancel()
            async with limit.acquired(1 + number % 3):
                await settle()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(use, number)
    assert limit.held == 0
