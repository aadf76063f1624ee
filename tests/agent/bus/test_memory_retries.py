"""What waits for its next attempt on the memory bus: it counts against the buffer, and one task waits for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import cast

import anyio
import pytest
import trio

from definable.agent import Agent
from definable.agent.bus import Delivery, EventBufferFull, MemoryBus
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


async def take(deliveries: AsyncIterator[Delivery], count: int = 1) -> list[Delivery]:
    with anyio.fail_after(1):
        return [await anext(deliveries) for _ in range(count)]


def tasks_alive(backend: str) -> int:
    return len(asyncio.all_tasks()) if backend == "asyncio" else trio.lowlevel.current_statistics().tasks_living


async def test_what_waits_for_its_next_attempt_fills_the_buffer() -> None:
    bus = MemoryBus(3)
    async with bus.open(), bus.consume() as deliveries:
        for number in range(3):
            bus.publish_nowait("job", {"n": number})
        for delivery in await take(deliveries, 3):
            await delivery.nack(10)
        assert bus.capacity == 0
        with pytest.raises(EventBufferFull, match=r"full \(3 wait, 3 of them for their next attempt\)"):
            bus.publish_nowait("new", {}, dedupe_key="k")
        await anyio.sleep(11)
        assert bus.capacity == 0  # due, and not taken
        assert [delivery.attempt for delivery in await take(deliveries)] == [2]
        assert bus.capacity == 1
        assert bus.publish_nowait("new", {}, dedupe_key="k")
        assert [delivery.name for delivery in await take(deliveries, 3)] == ["job", "job", "new"]


async def test_a_consumer_that_waits_is_no_room_while_retries_fill_the_buffer() -> None:
    bus, taken = MemoryBus(1), list[str]()
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        bus.publish_nowait("failed", {})
        await (await take(deliveries))[0].nack(10)

        async def consume() -> None:
            taken.append((await anext(deliveries)).name)

        group.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        assert bus.capacity == 0
        with pytest.raises(EventBufferFull):
            bus.publish_nowait("new", {})
        await anyio.sleep(11)
        assert taken == ["failed"]
        assert bus.capacity == 1


async def test_what_fails_in_a_workers_hands_is_kept_although_the_buffer_is_full() -> None:
    bus = MemoryBus(1)
    async with bus.open(), bus.consume() as deliveries:
        bus.publish_nowait("a", {})
        [a] = await take(deliveries)
        bus.publish_nowait("b", {})
        await a.nack(10)
        await anyio.sleep(20)  # due, and the stream is full
        [b] = await take(deliveries)
        assert b.name == "b"
        [again] = await take(deliveries)
        assert (again.name, again.attempt) == ("a", 2)
        assert bus.capacity == 1


async def test_publish_waits_while_retries_fill_the_buffer_and_what_is_due_goes_first() -> None:
    bus, accepted = MemoryBus(2), list[int]()
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        for _ in range(2):
            bus.publish_nowait("failed", {})
        for delivery in await take(deliveries, 2):
            await delivery.nack(10)

        async def publish(number: int) -> None:
            await bus.publish("new", {})
            accepted.append(number)

        for number in range(3):
            group.start_soon(publish, number)
        await anyio.sleep(5)
        assert accepted == []
        await anyio.sleep(6)
        names = [delivery.name for delivery in await take(deliveries, 2)]
        await anyio.wait_all_tasks_blocked()
        assert len(accepted) == 2
        names += [delivery.name for delivery in await take(deliveries, 3)]
        assert names == ["failed", "failed", "new", "new", "new"]


async def test_a_retry_that_is_due_sooner_is_not_held_up_by_one_that_is_due_later() -> None:
    bus = MemoryBus(10)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("late", "soon", "now"):
            bus.publish_nowait(name, {})
        late, soon, now = await take(deliveries, 3)
        await late.nack(3600)
        await anyio.wait_all_tasks_blocked()
        await soon.nack(60)
        await now.nack()
        began, came = anyio.current_time(), dict[str, float]()
        for _ in range(3):
            delivery = await anext(deliveries)
            came[delivery.name] = anyio.current_time() - began
        assert came == pytest.approx({"now": 0, "soon": 60, "late": 3600}, abs=0.01)


async def test_retries_that_wait_need_no_task_each(anyio_backend_name: str) -> None:
    bus = MemoryBus(1000)
    async with bus.open(), bus.consume() as deliveries:
        before = tasks_alive(anyio_backend_name)
        for number in range(1000):
            bus.publish_nowait("job", {"n": number})
            await (await take(deliveries))[0].nack(1000 + number)
        await anyio.wait_all_tasks_blocked()
        assert tasks_alive(anyio_backend_name) <= before
        assert [delivery.data["n"] for delivery in cast("list[Delivery]", bus.take_undone())] == list(range(1000))


async def test_events_of_a_handler_that_keeps_failing_are_refused_once_the_buffer_is_full_and_none_is_lost() -> None:
    agent, ends, outcomes = Agent("offline"), dict[int, int](), {"accepted": 0, "refused": 0}
    most_held = 0

    @agent.on(EventTrigger("job", retries=3))
    async def job(event: TriggerEvent) -> None:
        number = event.body["data"]
        ends[number] = event.attempt
        raise RuntimeError("not yet")

    with anyio.fail_after(5000):
        async with agent.running(
            enable_server=False, event_buffer=100, event_workers=4, shutdown_timeout=1000
        ) as runtime:
            for number in range(5000):
                try:
                    agent.emit("job", number)
                    outcomes["accepted"] += 1
                except EventBufferFull:
                    outcomes["refused"] += 1
                done = sum(attempt == 4 for attempt in ends.values())
                most_held = max(most_held, outcomes["accepted"] - done)
                await anyio.sleep(0.001)
        assert most_held <= 100 + 4
        assert outcomes["refused"] > 1000
        assert len(ends) == outcomes["accepted"]
        assert set(ends.values()) == {4}
        assert runtime.report is not None
        assert runtime.report.clean
        assert len(await runtime.bus.dead_letters()) == outcomes["accepted"]
