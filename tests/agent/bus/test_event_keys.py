"""`EventTrigger(key=)`: the events of one key are handled in order, those of different keys side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from definable.agent import Agent
from definable.agent.bus import EventBus, MemoryBus, SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param, start="2026-01-01T00:00:00+00:00") as backend:
        yield backend


@pytest.fixture(params=["memory", "sqlite"])
def bus(request: pytest.FixtureRequest, path: Path) -> EventBus:
    return MemoryBus() if request.param == "memory" else SQLiteBus(path)


def customer(event: TriggerEvent) -> Any:
    return event.body["customer"]


class Orders:
    """Notes down when the handling of each order began and ended."""

    def __init__(self, bus: EventBus, **options: Any) -> None:
        self.agent = Agent("offline", bus=bus)
        self.came: list[tuple[str, int]] = []
        self.active: list[str] = []
        self.peak = 0
        self.failing: set[int] = set()
        self.agent.on(EventTrigger("order.*", key=customer, **options))(self.on_order)

    async def on_order(self, event: TriggerEvent) -> None:
        name, n = event.body["customer"], event.body["n"]
        assert name not in self.active
        self.active.append(name)
        self.peak = max(self.peak, len(self.active))
        await anyio.sleep(0.5)
        self.active.remove(name)
        if n in self.failing and (event.attempt < 3 or n < 0):
            raise RuntimeError("no luck")
        self.came.append((name, n))

    def of(self, name: str) -> list[int]:
        return [n for customer, n in self.came if customer == name]

    def running(self) -> Any:
        return self.agent.running(enable_server=False, shutdown_timeout=60)

    def emit(self, name: str, *numbers: int) -> None:
        for n in numbers:
            self.agent.emit("order.placed", {"customer": name, "n": n})


async def test_one_customer_in_order_others_side_by_side(bus: EventBus) -> None:
    orders = Orders(bus)
    orders.emit("ann", 1)
    async with orders.running():
        orders.emit("ann", 2, 3)
        await orders.agent.aemit("order.placed", {"customer": "eve", "n": 1})
        await to_thread.run_sync(orders.emit, "ann", 4)
        orders.emit("eve", 2)
    assert (orders.of("ann"), orders.of("eve")) == ([1, 2, 3, 4], [1, 2])
    assert orders.peak == 2


async def test_a_retry_holds_up_its_own_customer_alone(bus: EventBus) -> None:
    orders = Orders(bus, retries=5)
    orders.failing = {1}
    async with orders.running():
        orders.emit("ann", 1, 2)
        orders.emit("eve", 10, 11, 12)
        await anyio.sleep(60)
    assert orders.came.index(("eve", 12)) < orders.came.index(("ann", 1)) < orders.came.index(("ann", 2))


async def test_after_a_dead_letter_the_customers_next_event_is_handled(bus: EventBus) -> None:
    orders = Orders(bus)
    orders.failing = {-1}
    async with orders.running() as runtime:
        orders.emit("ann", -1, 2, 3)
        await anyio.sleep(60)
        assert orders.of("ann") == [2, 3]
        [letter] = await runtime.bus.dead_letters()
        orders.failing.clear()
        assert await runtime.bus.replay(letter.id)
    assert orders.of("ann") == [2, 3, -1]


async def test_max_concurrency_holds_over_all_keys_and_the_order_within_each(bus: EventBus) -> None:
    orders = Orders(bus, max_concurrency=2)
    async with orders.running():
        for n in range(6):
            for name in ("ann", "bob", "eve"):
                orders.emit(name, n)
    assert orders.peak == 2
    assert [orders.of(name) for name in ("ann", "bob", "eve")] == [[*range(6)]] * 3


async def test_events_without_a_key_are_in_no_order(bus: EventBus) -> None:
    agent, active = Agent("offline", bus=bus), list[int]()

    @agent.on(EventTrigger("job", key=lambda event: event.body["key"]))
    async def handle(event: TriggerEvent) -> None:
        active.append(1)
        await anyio.sleep(1)

    async with agent.running(enable_server=False, shutdown_timeout=60):
        for _ in range(3):
            agent.emit("job", {"key": None})
        await anyio.sleep(0.5)
        assert len(active) == 3


async def test_later_events_are_in_order_from_when_they_come_due(bus: EventBus) -> None:
    orders = Orders(bus)
    async with orders.running():
        orders.agent.emit("order.placed", {"customer": "ann", "n": 3}, delay=30)
        orders.agent.emit("order.placed", {"customer": "ann", "n": 2}, delay=29.9)
        orders.emit("ann", 1)
        await anyio.sleep(60)
    assert orders.of("ann") == [1, 2, 3]


async def test_an_event_whose_key_cannot_be_told_is_refused(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    orders = Orders(bus)
    orders.agent.emit("order.placed", {"no": "customer"})
    async with orders.running():
        assert "before serving is lost" in caplog.text
        with pytest.raises(ConfigurationError, match="KeyError"):
            orders.agent.emit("order.placed", {"no": "customer"})
        with pytest.raises(ConfigurationError, match="a text or a number"):
            await orders.agent.aemit("order.placed", {"customer": ["ann"]})
        orders.agent.emit("order.placed", {"customer": 7, "n": 1})
    assert orders.came == [(7, 1)]


def test_a_key_is_a_plain_function_of_the_event() -> None:
    async def later(event: TriggerEvent) -> str:
        return "a"

    for wrong in (later, lambda: "a"):
        with pytest.raises(ConfigurationError, match="key="):
            EventTrigger("job", key=wrong)  # type: ignore[arg-type] - the mistake is the test
