"""Delays and times to live, which cost no time here: what every bus does with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent.bus import EventBus, EventBusClosed, MemoryBus, SQLiteBus, sqlite
from definable.agent.bus.emitter import Emitter
from definable.errors import StorageError
from definable.storage import SQLiteFile
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


@pytest.fixture(params=["memory", "sqlite"])
def bus(request: pytest.FixtureRequest, path: Path) -> EventBus:
    """A bus that is not open yet, and stands on nothing that has a clock of its own."""
    return MemoryBus() if request.param == "memory" else SQLiteBus(path)


async def test_a_delayed_delivery_comes_on_time(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        delivery = await anext(deliveries)
        for delay in (0.5, 60.0, 86_400.0):
            began = anyio.current_time()
            await delivery.nack(delay)
            delivery = await anext(deliveries)
            assert anyio.current_time() - began == pytest.approx(delay, abs=0.01)
        assert delivery.attempt == 4
        await delivery.ack()


async def test_a_delivery_that_comes_due_as_the_bus_closes_is_a_leftover_and_no_failure() -> None:
    bus = MemoryBus()
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        await (await anext(deliveries)).nack(1)
        await anyio.sleep(1)
        assert [delivery.attempt for delivery in bus.take_undone()] == [2]


async def test_delayed_deliveries_come_in_the_order_of_their_times(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        for n in range(20):
            await bus.publish("job", {"n": n})
        for delay in (7 * n % 20 + 1 for n in range(20)):
            delivery = await anext(deliveries)
            delivery.data["delay"] = delay  # type: ignore[index]
            await delivery.nack(delay)
        assert [7 * (await anext(deliveries)).data["n"] % 20 for _ in range(20)] == list(range(20))


async def test_a_key_is_remembered_for_a_day_unless_said_otherwise(bus: EventBus) -> None:
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="awaited")
        assert bus.publish_nowait("job", {}, dedupe_key="soon")
        await anyio.sleep(24 * 60 * 60 - 5)
        for key in ("awaited", "soon"):
            assert not await bus.publish("job", {}, dedupe_key=key)
        await anyio.sleep(10)
        for key in ("awaited", "soon"):
            assert await bus.publish("job", {}, dedupe_key=key)


async def test_a_key_is_remembered_for_its_time_to_live(bus: EventBus) -> None:
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="k", dedupe_ttl=3600)
        await anyio.sleep(3590)
        assert not await bus.publish("job", {}, dedupe_key="k", dedupe_ttl=3600)
        await anyio.sleep(20)
        assert await bus.publish("job", {}, dedupe_key="k", dedupe_ttl=3600)


async def test_an_open_bus_that_has_nothing_to_do_does_nothing(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        with anyio.move_on_after(365 * 86_400):  # polling would take a while to get there
            await anext(deliveries)


async def test_a_drain_hands_out_for_half_of_its_time_and_leaves_the_rest_in_the_file(bus: EventBus) -> None:
    if not isinstance(bus, SQLiteBus):
        pytest.skip("memory keeps nothing")
    done: list[int] = []
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:

        async def work() -> None:
            async for delivery in deliveries:
                await anyio.sleep(1)
                done.append(delivery.data["n"])
                await delivery.ack()

        for n in range(100):
            await bus.publish("job", {"n": n})
        workers.start_soon(work)
        began = anyio.current_time()
        with anyio.move_on_after(20) as grace:
            await bus.drain()
        assert not grace.cancelled_caught
        assert 10 <= anyio.current_time() - began <= 11
        assert list(bus.take_undone()) == []
        workers.cancel_scope.cancel()
    async with bus.open(), bus.consume() as deliveries:
        rest = [await anext(deliveries) for _ in range(100 - len(done))]
        assert done + [delivery.data["n"] for delivery in rest] == list(range(100))
        assert {delivery.attempt for delivery in rest} == {1}


async def test_what_comes_due_and_what_is_new_have_places_of_their_own_in_the_queue(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MOVED_AT_ONCE", 3)
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(3):
            await bus.publish("job", {"n": n})
        for _ in range(3):
            await (await anext(deliveries)).nack(10)
        await anyio.sleep(11)
        await bus.publish("job", {"n": 3})
        assert [(await anext(deliveries)).data["n"] for _ in range(4)] == [0, 1, 2, 3]


async def test_what_a_slow_disk_left_no_time_for_when_the_bus_closed_is_told_and_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus, outcomes = SQLiteBus(path, buffer=3), list[object]()
    write = SQLiteFile.write

    async def slow(file: SQLiteFile, work: Any) -> Any:
        await checkpoint()
        with anyio.CancelScope(shield=True):  # nobody ends a thread
            await anyio.sleep(10)
            return await write(file, work)

    async def publish() -> None:
        try:
            outcomes.append(await bus.publish("job", {}))
        except (StorageError, EventBusClosed) as error:
            outcomes.append(str(error))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as publishers, bus.open():
            monkeypatch.setattr(SQLiteFile, "write", slow)
            publishers.start_soon(publish)  # is being written when the bus closes
            await anyio.sleep(1)
            bus.publish_nowait("job", {})
            publishers.start_soon(publish)  # waits for the next turn
            await anyio.sleep(1)
            publishers.start_soon(publish)  # waits for room
            await anyio.sleep(1)
    assert sorted(map(str, outcomes)) == [
        f"{bus._file!r} was closed before all was written",
        "True",
        "the event bus was closed while the event waited for room",
    ]
    assert "1 events are lost" in caplog.text


async def test_a_bus_whose_storage_fails_is_offered_an_emitted_event_again_a_second_later() -> None:
    class Failing(MemoryBus):
        failures = 2

        async def publish(self, name: str, data: Any, **options: Any) -> bool:
            self.failures -= 1
            if self.failures >= 0:
                raise StorageError("the disk is full")
            return await super().publish(name, data, **options)

    emitter, bus = Emitter(), Failing()
    for n in range(3):
        emitter.emit("job", n)
    began = anyio.current_time()
    async with bus.open(), emitter.connected(bus, lambda name, body: [(name, {"body": body})], workers=1):
        emitter.begin()
        await emitter.flushed()
        assert [left.data["body"]["data"] for left in bus.take_undone()] == [0, 1, 2]
    assert anyio.current_time() - began == pytest.approx(2, abs=0.01)
