"""What is the memory bus's own; `test_bus_contract.py` has the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent.bus import Delivery, EventBufferFull, EventBusClosed, MemoryBus
from definable.agent.bus.claims import YIELD_EVERY
from definable.agent.bus.memory import MAX_DEAD_LETTERS
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio

LIMIT = 5.0
"""Seconds that a test may hang."""


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


def test_buffer_must_hold_something() -> None:
    with pytest.raises(ConfigurationError, match="buffer=0: at least 1"):
        MemoryBus(0)


async def test_a_full_buffer_says_so_and_accepts_nothing() -> None:
    bus = MemoryBus(2)
    async with bus.open(), bus.consume() as deliveries:
        assert bus.capacity == 2
        bus.publish_nowait("a", {})
        bus.publish_nowait("b", {})
        assert bus.capacity == 0
        with pytest.raises(EventBufferFull, match="full \\(2 wait\\)"):
            bus.publish_nowait("c", {}, dedupe_key="k")
        assert [delivery.name for delivery in await take(deliveries, 2)] == ["a", "b"]
        assert bus.publish_nowait("c", {}, dedupe_key="k")  # the key was not used up


async def test_publish_waits_for_room() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        await bus.publish("a", {})
        data: dict[str, Any] = {}
        group.start_soon(bus.publish, "b", data)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(LIMIT):
            names = [(await anext(deliveries)).name for _ in range(2)]
        assert names == ["a", "b"]


async def test_a_publish_that_was_cancelled_accepted_nothing() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("a", {})
        with anyio.move_on_after(0.01):
            await bus.publish("b", {}, dedupe_key="k")
        [a] = await take(deliveries, 1)
        await a.ack()
        with anyio.fail_after(LIMIT):
            await bus.drain()
        assert await bus.publish("b", {}, dedupe_key="k")


async def test_a_repeat_of_what_waits_for_room_is_not_refused_before_that_was_accepted() -> None:
    bus, outcomes = MemoryBus(1), list[bool]()

    async def repeat() -> None:
        outcomes.append(await bus.publish("b", {}, dedupe_key="k"))

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        await bus.publish("a", {})
        with anyio.CancelScope() as first:
            async with anyio.create_task_group() as others:
                others.start_soon(repeat)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(repeat)
                group.start_soon(repeat)
                await anyio.wait_all_tasks_blocked()
                assert outcomes == []
                first.cancel()
        assert [delivery.name for delivery in await take(deliveries, 2)] == ["a", "b"]
        await anyio.wait_all_tasks_blocked()
        assert sorted(outcomes) == [False, True]


async def test_a_publish_that_waits_while_the_bus_closes_says_so() -> None:
    bus = MemoryBus(1)
    errors: list[str] = []

    async def publish() -> None:
        try:
            await bus.publish("b", {})
        except EventBusClosed as error:
            errors.append(str(error))

    async with anyio.create_task_group() as group:
        async with bus.open():
            await bus.publish("a", {})
            group.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
    assert errors == ["the event bus was closed while the event waited for room"]


async def test_room_counts_a_consumer_that_waits() -> None:
    bus = MemoryBus(3)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(take, deliveries, 1)
        await anyio.wait_all_tasks_blocked()
        assert bus.capacity == 3 + 2
        for _ in range(5):
            bus.publish_nowait("a", {})
        assert bus.capacity == 0


async def test_undone_is_what_waits_for_a_worker_or_for_its_next_attempt_and_each_once() -> None:
    bus = MemoryBus(2)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("failed", "held"):
            await bus.publish(name, {})
        failed, _held = await take(deliveries, 2)
        await failed.nack(30)
        await bus.publish("waiting", {})
        left = sorted((delivery.name, delivery.attempt) for delivery in bus.take_undone())
        assert left == [("failed", 2), ("waiting", 1)]
        assert list(bus.take_undone()) == []


async def test_leftovers_include_retries_that_wait_for_room() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("failed", {})
        [failed] = await take(deliveries, 1)
        await bus.publish("waiting", {})
        await failed.nack()
        await anyio.wait_all_tasks_blocked()
        left = [(delivery.name, delivery.attempt) for delivery in bus.take_undone()]
        assert sorted(left) == [("failed", 2), ("waiting", 1)]


async def test_a_retry_that_fails_again_at_once_is_still_a_leftover() -> None:
    bus = MemoryBus()
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
        for _ in range(5):
            await delivery.nack()
            [delivery] = await take(deliveries, 1)
        await delivery.nack(30)
        await anyio.wait_all_tasks_blocked()
        assert [left.attempt for left in bus.take_undone()] == [7]


async def test_dead_letters_are_bounded() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(MAX_DEAD_LETTERS + 1):
            bus.publish_nowait("job", {"n": n})
            [delivery] = await take(deliveries, 1)
            await delivery.dead("")
        letters = await bus.dead_letters()
        assert [letters[0].data["n"], letters[-1].data["n"]] == [1, MAX_DEAD_LETTERS]


async def test_a_replay_that_was_cancelled_keeps_the_letter() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
        await delivery.dead("")
        await bus.publish("other", {})
        with anyio.move_on_after(0.01):
            await bus.replay(delivery.id)
        assert [letter.id for letter in await bus.dead_letters()] == [delivery.id]


async def test_a_bus_is_open_once_at_a_time_and_may_be_opened_again() -> None:
    bus = MemoryBus()
    async with bus.open():
        await bus.publish("job", {}, dedupe_key="k")
        with pytest.raises(ConfigurationError, match="open already"):
            async with bus.open():
                pass
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="k")


async def test_a_full_buffer_does_not_keep_other_tasks_from_running_and_takes_few_turns() -> None:
    bus = MemoryBus()
    taken, turns = 0, list[int]()

    async def other() -> None:
        while True:
            turns.append(taken)
            await checkpoint()

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        for _ in range(10 * YIELD_EVERY):
            bus.publish_nowait("job", {})
        group.start_soon(other)
        while taken < 10 * YIELD_EVERY:
            await anext(deliveries)
            taken += 1
        group.cancel_scope.cancel()
    # Twice as many, since trio lets tasks take their turns in any order.
    assert max(later - earlier for earlier, later in pairwise([*turns, taken])) <= 2 * YIELD_EVERY
    assert len(turns) <= 40


async def test_nobody_overtakes_a_consumer_that_was_handed_a_delivery_and_did_not_run_yet() -> None:
    bus = MemoryBus()
    begun: list[str] = []

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:

        async def work() -> None:
            begun.append((await anext(deliveries)).name)

        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        bus.publish_nowait("first", {})
        bus.publish_nowait("second", {})
        await work()
    assert begun == ["first", "second"]
