"""Names of which a `SQLiteBus` hands out as many as were granted, their order kept."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from definable.agent.bus import Delivery, SQLiteBus
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


async def test_what_was_not_granted_waits_and_all_else_is_handed_out(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        bus.grant_name("a", 0)
        for number in range(6):
            await bus.publish("ab"[number % 2], {"n": number})
        assert [(await anext(deliveries)).data["n"] for _ in range(3)] == [1, 3, 5]
        with anyio.move_on_after(3600) as hour:
            await anext(deliveries)
        assert hour.cancelled_caught
        bus.grant_name("a", 2)
        await bus.publish("a", {"n": 6})
        assert [(await anext(deliveries)).data["n"] for _ in range(2)] == [0, 2]
        with anyio.move_on_after(3600) as hour:
            await anext(deliveries)
        assert hour.cancelled_caught
        bus.grant_name("a", math.inf)
        assert [(await anext(deliveries)).data["n"] for _ in range(2)] == [4, 6]


async def test_one_who_waits_is_handed_what_waits_once_it_is_granted(path: Path) -> None:
    bus, taken = SQLiteBus(path), list[int]()
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        bus.grant_name("a", 0)
        await bus.publish("a", {"n": 1})

        async def take() -> None:
            taken.append((await anext(deliveries)).data["n"])

        group.start_soon(take)
        await anyio.sleep(10)
        assert taken == []
        bus.grant_name("a", 1)
        await anyio.sleep(1)
        assert taken == [1]


async def test_what_was_not_granted_was_no_attempt_and_comes_first_when_the_file_is_opened_next(
    path: Path,
) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        bus.grant_name("a", 0)
        for number in range(4):
            await bus.publish("ab"[number % 2], {"n": number})
        for _ in range(2):
            await (await anext(deliveries)).ack()
    async with bus.open(), bus.consume() as deliveries:
        again = [await anext(deliveries) for _ in range(2)]
        assert [(delivery.data["n"], delivery.attempt) for delivery in again] == [(0, 1), (2, 1)]


async def test_a_name_without_a_grant_does_not_keep_the_writer_busy(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        bus.grant_name("a", 0)
        for number in range(10):
            await bus.publish("a", {"n": number})
        with anyio.move_on_after(365 * 86_400) as year:  # polling would take a while to get there
            await anext(deliveries)
        assert year.cancelled_caught  # nothing was handed out


class Names:
    """Publishes and grants by chance."""

    def __init__(self, bus: SQLiteBus, chance: random.Random) -> None:
        self.bus = bus
        self.chance = chance
        self.published = dict.fromkeys("abcd", 0)
        self.taken: dict[str, list[int]] = {name: [] for name in self.published}
        self.granted = {"a": 0, "b": 0}
        for name in self.granted:
            bus.grant_name(name, 0)

    async def change(self) -> None:
        name = self.chance.choice("abcd")
        match self.chance.randrange(5):
            case 0 if name != "d":  # "c" is handed out freely until its first grant
                count = self.chance.randrange(8)
                self.bus.grant_name(name, count)
                if name in self.granted:
                    self.granted[name] += count
            case _:
                self.bus.publish_nowait(name, {"n": self.published[name]})
                self.published[name] += 1
        if self.chance.random() < 0.3:
            await anyio.sleep(self.chance.random() / 10)

    async def take(self, deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            self.taken[delivery.name].append(delivery.data["n"])
            assert delivery.attempt == 1
            if self.chance.random() < 0.3:
                await anyio.sleep(self.chance.random())
            await delivery.ack()

    def check(self) -> None:
        """All that was granted was handed out, in its order, and no more."""
        for name, numbers in self.taken.items():
            assert numbers == list(range(len(numbers)))
            if name != "c":
                assert len(numbers) == min(self.granted.get(name, math.inf), self.published[name])


@pytest.mark.parametrize("seed", range(10))
async def test_each_is_handed_out_once_in_the_order_of_its_name_and_as_many_as_were_granted(
    path: Path, seed: int
) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        names = Names(bus, random.Random(seed))
        for _ in range(2):
            workers.start_soon(names.take, deliveries)
        for _ in range(200):
            await names.change()
        await anyio.sleep(60)
        names.check()
        for name in "abc":
            bus.grant_name(name, math.inf)
        await bus.drain()
        workers.cancel_scope.cancel()
    assert names.taken == {name: list(range(count)) for name, count in names.published.items()}
