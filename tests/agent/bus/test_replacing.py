"""What waits for its time under a key, and what takes its place: on all buses, and from several replicas at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio
import pytest

from definable.agent.bus import EventBus, MemoryBus
from definable.agent.bus.base import PublishesMany, RemembersRuns, Submission
from definable.agent.bus.queue import QueueBus
from definable.errors import EventBufferFull

from .test_bus_contract import LIMIT, take

pytestmark = pytest.mark.anyio

HOUR = 3600.0


def waiting(text: str, key: str | None, delay: float, *, keeps_time: bool = False) -> Submission:
    data = {"run_id": text, "source": "test", "user_id": None, "timestamp": 1.0}
    return Submission("job", data, delay=delay, key=key, keeps_time=keeps_time)


async def come(bus: EventBus, count: int) -> Sequence[str]:
    """What is handed out next."""
    async with bus.consume() as deliveries:
        found = await take(deliveries, count)
        for delivery in found:
            await delivery.ack()
    return [delivery.data["run_id"] for delivery in found]


async def test_of_several_under_one_key_the_last_is_handed_out(bus: EventBus) -> None:
    assert isinstance(bus, PublishesMany)
    async with bus.open():
        await bus.publish_many([waiting("first", "a", 0.05), waiting("second", "a", 0.1), waiting("end", None, 0.2)])
        assert await come(bus, 2) == ["second", "end"]
        await bus.publish_many([waiting("first", "b", HOUR)])
        await bus.publish_many([waiting("second", "b", 0.05)])
        await bus.publish_many([waiting("end", None, 0.1)])
        assert await come(bus, 2) == ["second", "end"]


async def test_one_that_keeps_the_time_comes_when_the_one_before_was_due(bus: EventBus) -> None:
    assert isinstance(bus, PublishesMany)
    async with bus.open():
        await bus.publish_many([waiting("first", "a", 0.2, keeps_time=True)])
        await bus.publish_many([waiting("second", "a", HOUR, keeps_time=True)])
        await bus.publish_many([waiting("third", "a", HOUR, keeps_time=True)])
        assert await come(bus, 1) == ["third"]
        both = [waiting("first", "a", 0.1, keeps_time=True), waiting("second", "a", HOUR, keeps_time=True)]
        await bus.publish_many(both)
        assert await come(bus, 1) == ["second"]


async def test_one_that_does_not_keep_the_time_has_its_own(bus: EventBus) -> None:
    assert isinstance(bus, PublishesMany)
    async with bus.open():
        await bus.publish_many([waiting("first", "a", HOUR)])
        await bus.publish_many([waiting("second", "a", 0.05), waiting("third", "a", HOUR, keeps_time=True)])
        assert await come(bus, 1) == ["third"]
        await bus.publish_many([waiting("first", "b", 0.05)])
        await bus.publish_many([waiting("second", "b", HOUR)])
        await bus.publish_many([waiting("end", None, 0.1)])
        assert await come(bus, 1) == ["end"]
        assert await bus.cancel("b")
        assert not await bus.cancel("b")


async def test_what_was_replaced_at_its_time_is_withdrawn_by_its_key(bus: EventBus) -> None:
    assert isinstance(bus, PublishesMany)
    async with bus.open():
        for text in ("first", "second"):
            await bus.publish_many([waiting(text, "a", HOUR, keeps_time=True)])
        assert await bus.cancel("a")
        assert not await bus.cancel("a")
        await bus.publish_many([waiting("first", "a", 0.05, keeps_time=True)])
        assert await come(bus, 1) == ["first"]


async def test_one_key_of_many_replicas_at_once_stands_for_one_message(replicas: Sequence[QueueBus]) -> None:
    """Each replica publishes under each key; of each key one message waits."""
    keys = [f"k{number}" for number in range(15)]

    async def publish(replica: QueueBus, number: int) -> None:
        for key in keys:
            await replica.publish_many([waiting(f"{key} {number}", key, HOUR, keeps_time=True)])

    async with AsyncExitStack() as stack:
        for replica in replicas:
            await stack.enter_async_context(replica.open())
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                for number, replica in enumerate(replicas):
                    group.start_soon(publish, replica, number)
        assert isinstance(replicas[0], RemembersRuns)
        runs = await replicas[0].waiting_runs(["job"], 1000)
    assert sorted(run.run_id.partition(" ")[0] for run in runs) == sorted(keys)


async def test_replacements_take_no_more_of_the_buffer_than_one() -> None:
    bus = MemoryBus(buffer=2)
    async with bus.open():
        for number in range(1000):
            bus.submit_nowait([waiting(f"{number}", "a", HOUR, keeps_time=True)])
        bus.submit_nowait([waiting("b", "b", HOUR, keeps_time=True)])
        with pytest.raises(EventBufferFull):
            bus.submit_nowait([waiting("c", "c", HOUR, keeps_time=True)])
        assert await bus.cancel("a")
        bus.submit_nowait([waiting("c", "c", HOUR, keeps_time=True)])
