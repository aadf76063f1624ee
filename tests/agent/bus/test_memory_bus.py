"""What every event bus does (the `bus` fixture has them all), then what is the memory bus's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent.bus import Delivery, EventBufferFull, EventBus, EventBusClosed, MemoryBus
from definable.agent.bus.memory import MAX_DEAD_LETTERS
from definable.agent.bus.memory_line import YIELD_EVERY
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio

LIMIT = 5.0
"""Seconds that a test may hang."""


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


# --- the contract


async def test_is_an_event_bus(bus: EventBus) -> None:
    assert isinstance(bus, EventBus)


async def test_what_is_published_is_handed_out_in_order(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        assert await bus.publish("a", {"body": {"n": 1}})
        assert bus.publish_nowait("b", {"body": None, "timestamp": 2.5})
        first, second = await take(deliveries, 2)
        assert (first.name, first.data, first.attempt) == ("a", {"body": {"n": 1}}, 1)
        assert (second.name, second.data, second.attempt) == ("b", {"body": None, "timestamp": 2.5}, 1)
        assert first.id != second.id
        await first.ack()
        await second.ack()


async def test_each_delivery_goes_to_one_consumer(bus: EventBus) -> None:
    seen: list[int] = []

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            seen.append(delivery.data["n"])
            await checkpoint()
            await delivery.ack()

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        for _ in range(5):
            workers.start_soon(work, deliveries)
        for n in range(500):
            await bus.publish("job", {"n": n})
        with anyio.fail_after(LIMIT):
            await bus.drain()
        workers.cancel_scope.cancel()
    assert sorted(seen) == list(range(500))


async def test_what_is_refused_with_nack_comes_again_as_the_next_attempt(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {"body": "x"})
        [first] = await take(deliveries, 1)
        await first.nack()
        [second] = await take(deliveries, 1)
        await second.nack(0.01)
        [third] = await take(deliveries, 1)
        assert first.id == second.id == third.id
        assert [second.attempt, third.attempt] == [2, 3]
        assert third.data == {"body": "x"}
        await third.ack()


async def test_nack_holds_a_delivery_back_for_its_delay_and_nothing_else(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("slow", {})
        [slow] = await take(deliveries, 1)
        began = anyio.current_time()
        await slow.nack(0.05)
        await bus.publish("quick", {})
        [quick] = await take(deliveries, 1)
        assert quick.name == "quick"
        [again] = await take(deliveries, 1)
        assert again.name == "slow"
        assert anyio.current_time() - began >= 0.045
        await quick.ack()
        await again.ack()


async def test_dead_letters_are_kept_listed_and_replayed(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        for n in range(2):
            await bus.publish("job", {"n": n})
        for delivery in await take(deliveries, 2):
            await delivery.dead(f"no luck with {delivery.data['n']}")
        letters = await bus.dead_letters()
        assert [(letter.name, letter.data, letter.attempt, letter.why) for letter in letters] == [
            ("job", {"n": 0}, 1, "no luck with 0"),
            ("job", {"n": 1}, 1, "no luck with 1"),
        ]
        assert all(letter.died_at > 1e9 for letter in letters)

        assert await bus.replay(letters[0].id)
        assert not await bus.replay(letters[0].id)
        assert not await bus.replay("nobody")
        [again] = await take(deliveries, 1)
        assert (again.name, again.data, again.attempt) == ("job", {"n": 0}, 1)
        await again.ack()
        assert [letter.id for letter in await bus.dead_letters()] == [letters[1].id]


async def test_a_repeated_dedupe_key_is_refused(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        assert await bus.publish("job", {}, dedupe_key="k1")
        assert not await bus.publish("job", {}, dedupe_key="k1")
        assert not bus.publish_nowait("job", {}, dedupe_key="k1")
        assert await bus.publish("job", {}, dedupe_key="k2")
        for delivery in await take(deliveries, 2):
            await delivery.ack()
        assert not await bus.publish("job", {}, dedupe_key="k1")
        with anyio.fail_after(LIMIT):
            await bus.drain()


async def test_a_dedupe_key_is_forgotten_after_its_time_to_live(bus: EventBus) -> None:
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="k", dedupe_ttl=0.01)
        await anyio.sleep(0.03)
        assert await bus.publish("job", {}, dedupe_key="k")


async def test_a_key_may_be_claimed_without_a_delivery_and_released(bus: EventBus) -> None:
    async with bus.open():
        assert await bus.claim("k", 60)
        assert not await bus.claim("k", 60)
        assert not await bus.publish("job", {}, dedupe_key="k")
        await bus.release("k")
        await bus.release("k")
        assert await bus.publish("job", {}, dedupe_key="k")
        assert not await bus.claim("k", 60)


async def test_drain_waits_for_what_was_accepted_to_be_settled(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        with anyio.fail_after(LIMIT):
            await bus.drain()
        for name in ("ack", "dead", "nack"):
            await bus.publish(name, {})
        drained: list[str] = []

        async def drain() -> None:
            await bus.drain()
            drained.append("drained")

        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                group.start_soon(drain)
                group.start_soon(drain)
                ack, dead, nack = await take(deliveries, 3)
                await ack.ack()
                await dead.dead("why not")
                await nack.nack()
                [again] = await take(deliveries, 1)
                await anyio.wait_all_tasks_blocked()
                assert drained == []
                await again.ack()
        assert drained == ["drained", "drained"]


async def test_a_bus_that_is_not_open_says_so(bus: EventBus) -> None:
    with pytest.raises(EventBusClosed, match="not open"):
        await bus.publish("job", {})
    with pytest.raises(EventBusClosed, match="not open"):
        bus.publish_nowait("job", {})


async def test_a_cancelled_consumer_loses_nothing(bus: EventBus) -> None:
    seen: list[int] = []

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            await delivery.ack()
            seen.append(delivery.data["n"])

    async with bus.open(), bus.consume() as deliveries:
        for n in range(50):
            async with anyio.create_task_group() as workers:
                workers.start_soon(work, deliveries)
                await checkpoint()
                await bus.publish("job", {"n": n})
                workers.cancel_scope.cancel()
        async with anyio.create_task_group() as workers:
            workers.start_soon(work, deliveries)
            with anyio.fail_after(LIMIT):
                await bus.drain()
            workers.cancel_scope.cancel()
    assert sorted(seen) == list(range(50))


# --- the memory bus


def test_buffer_must_hold_something() -> None:
    with pytest.raises(ConfigurationError, match="buffer=0: at least 1"):
        MemoryBus(0)


async def test_a_full_buffer_says_so_and_accepts_nothing() -> None:
    bus = MemoryBus(2)
    async with bus.open(), bus.consume() as deliveries:
        assert bus.room == 2
        bus.publish_nowait("a", {})
        bus.publish_nowait("b", {})
        assert bus.room == 0
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
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(take, deliveries, 1)
        await anyio.wait_all_tasks_blocked()
        assert bus.room == 2
        for _ in range(2):
            bus.publish_nowait("a", {})
        assert bus.room == 0


async def test_leftovers_are_what_waits_for_a_worker_or_for_its_next_attempt_and_each_once() -> None:
    bus = MemoryBus(2)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("failed", "held"):
            await bus.publish(name, {})
        failed, _held = await take(deliveries, 2)
        await failed.nack(30)
        await bus.publish("waiting", {})
        left = sorted((delivery.name, delivery.attempt) for delivery in bus.leftovers())
        assert left == [("failed", 2), ("waiting", 1)]
        assert list(bus.leftovers()) == []


async def test_leftovers_include_retries_that_wait_for_room() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("failed", {})
        [failed] = await take(deliveries, 1)
        await bus.publish("waiting", {})
        await failed.nack()
        await anyio.wait_all_tasks_blocked()
        left = [(delivery.name, delivery.attempt) for delivery in bus.leftovers()]
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
        assert [left.attempt for left in bus.leftovers()] == [7]


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


async def test_a_full_buffer_does_not_keep_other_tasks_from_running() -> None:
    bus = MemoryBus()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        for _ in range(10 * YIELD_EVERY):
            bus.publish_nowait("job", {})
        group.start_soon(other)
        await take(deliveries, 10 * YIELD_EVERY)
        assert turns >= 5
        group.cancel_scope.cancel()
