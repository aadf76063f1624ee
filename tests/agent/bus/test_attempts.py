"""When an attempt counts, what is claimed at all, and messages of which nothing ever comes: on durable buses."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import Delivery, SQLiteBus
from definable.agent.bus.base import Parkable
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

DAY = 24 * 3600.0


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


async def take(deliveries: AsyncIterator[Delivery], count: int = 1) -> list[Delivery]:
    with anyio.fail_after(5):
        return [await anext(deliveries) for _ in range(count)]


class Copy:
    """What a process that dies leaves behind: the file as it is now, opened by the next process."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.stem}+{path.suffix}")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(self.path)) as target:
            source.backup(target)


async def test_what_is_parked_is_no_attempt_also_when_the_process_dies(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("taken", "parked", "parked and begun"):
            await bus.publish(name, {})
        for delivery in await take(deliveries, 3):
            assert isinstance(delivery, Parkable)
            if delivery.name != "taken":
                delivery.park()
                await bus.dead_letters()  # all is written
            if delivery.name == "parked and begun":
                delivery.begin()
                await bus.dead_letters()
        left = Copy(path)
    bus = SQLiteBus(left.path)
    async with bus.open(), bus.consume() as deliveries:
        attempts = {delivery.name: delivery.attempt for delivery in await take(deliveries, 3)}
        assert attempts == {"taken": 2, "parked": 1, "parked and begun": 2}


async def test_what_is_released_is_no_attempt_and_comes_again_after_a_restart(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        await bus.publish("parked", {})
        for delivery in await take(deliveries, 2):
            assert isinstance(delivery, Parkable)
            if delivery.name == "parked":
                delivery.park()
                await bus.dead_letters()
            await delivery.release()
    async with bus.open(), bus.consume() as deliveries:
        assert [delivery.attempt for delivery in await take(deliveries, 2)] == [1, 1]


async def test_orderly_stops_count_as_attempts_and_never_make_a_dead_letter(path: Path) -> None:
    for number in range(8):
        bus = SQLiteBus(path, max_deliveries=2)
        async with bus.open(), bus.consume() as deliveries:
            if not number:
                await bus.publish("job", {})
            [delivery] = await take(deliveries)
            assert delivery.attempt == number + 1


async def test_a_message_of_which_nothing_comes_is_a_dead_letter_after_max_deliveries(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SQLiteBus(path).open():
        pass
    bus = SQLiteBus(path)
    async with bus.open():
        for name in ("poison", "innocent"):
            await bus.publish(name, {})
    deaths, handled = 0, list[str]()
    while "innocent" not in handled and deaths < 20:
        bus = SQLiteBus(path, max_deliveries=5)
        async with bus.open(), bus.consume() as deliveries:
            [job] = await take(deliveries)
            await bus.dead_letters()
            if job.name == "innocent":
                handled.append(job.name)
                await job.ack()
                [letter] = await bus.dead_letters()
                break
            deaths += 1
            path = Copy(path).path
    assert deaths == 5
    assert (letter.name, letter.attempt) == ("poison", 5)
    assert "max_deliveries" in letter.why and "(poison) is a dead letter" in caplog.text


async def test_messages_that_were_held_together_when_the_process_died_are_then_tried_one_at_a_time(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        for number in range(3):
            await bus.publish("job", {"n": number})
    for _ in range(2):
        bus = SQLiteBus(path)
        async with bus.open(), bus.consume() as deliveries:
            await take(deliveries, 3)
            path = Copy(path).path
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        held, most, done = 0, 0, list[int]()

        async def work() -> None:
            nonlocal held, most
            async for delivery in deliveries:
                held += 1
                most = max(most, held)
                await anyio.sleep(0.5)
                held -= 1
                done.append(delivery.data["n"])
                await delivery.ack()

        for _ in range(3):
            group.start_soon(work)
        await anyio.sleep(20)
        group.cancel_scope.cancel()
    assert (sorted(done), most) == ([0, 1, 2], 1)


class Version:
    """A version of a service, and what it handled."""

    def __init__(self, bus: SQLiteBus, *names: str, **options: Any) -> None:
        self.agent = Agent("offline", bus=bus)
        self.handled: list[tuple[str, int]] = []
        for name in names:
            handler = self.handler(name)
            handler.__qualname__ = name
            self.agent.on(EventTrigger(name, **options))(handler)

    def handler(self, name: str) -> Any:
        async def handle(event: TriggerEvent) -> None:
            self.handled.append((name, event.attempt))

        return handle


async def test_what_has_no_handler_here_waits_a_day_for_a_version_that_has_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    new = Version(SQLiteBus(path), "old", "new")
    async with SQLiteBus(path).open():
        pass
    async with new.agent.running(enable_server=False, shutdown_timeout=0):
        for name in ("new", "old", "new"):
            await new.agent.aemit(name)
    handled = len(new.handled)
    old = Version(SQLiteBus(path), "old")
    async with old.agent.running(enable_server=False) as runtime:
        await anyio.sleep(DAY / 2)
        assert await runtime.bus.dead_letters() == []
    assert {name for name, _ in old.handled} <= {"old"}
    new = Version(SQLiteBus(path), "old", "new")
    async with new.agent.running(enable_server=False):
        await anyio.sleep(1)
    assert handled + len(old.handled) + len(new.handled) == 3
    assert {attempt for _, attempt in new.handled} <= {1}


async def test_what_has_no_handler_for_a_day_is_a_dead_letter(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        await bus.publish("event(gone):gone", {"body": None})
    version = Version(SQLiteBus(path, unknown_ttl=DAY), "old")
    async with version.agent.running(enable_server=False) as runtime:
        await anyio.sleep(DAY - 60)
        assert await runtime.bus.dead_letters() == []
        await anyio.sleep(120)
        [letter] = await runtime.bus.dead_letters()
        assert letter.why == "no handler is registered for 'event(gone):gone'"
    assert runtime.report is not None and runtime.report.clean
    assert "1 deliveries wait for one" in caplog.text


async def test_of_a_limited_trigger_no_more_is_claimed_than_can_be_begun(path: Path) -> None:
    agent, running = Agent("offline", bus=SQLiteBus(path)), list[int]()

    @agent.on(EventTrigger("job", max_concurrency=2))
    async def job(event: TriggerEvent) -> None:
        running.append(event.body["n"])
        await anyio.sleep(1000)

    async with agent.running(enable_server=False, shutdown_timeout=0.1):
        for number in range(50):
            await agent.aemit("job", {"n": number})
        await anyio.sleep(5)
        with closing(sqlite3.connect(path)) as connection:
            claimed = connection.execute("SELECT count(*) FROM definable_event WHERE claims > 0").fetchone()
            assert (claimed, running) == ((2,), [0, 1])
        await anyio.sleep(1000)
        assert running == [0, 1, 2, 3]


async def test_a_file_of_an_earlier_version_is_read(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE definable_event (position INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL, "
            "attempt INTEGER NOT NULL, data BLOB NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE definable_event_later (number INTEGER PRIMARY KEY, due_at REAL NOT NULL, id TEXT NOT NULL, "
            "name TEXT NOT NULL, attempt INTEGER NOT NULL, data BLOB NOT NULL)"
        )
        connection.execute("CREATE TABLE definable_event_key (key TEXT PRIMARY KEY, expires_at REAL NOT NULL)")
        connection.execute("INSERT INTO definable_event VALUES (3, 'a', 'job', 1, '{\"n\":1}')")
        connection.execute("INSERT INTO definable_event_later VALUES (1, 5, 'b', 'job', 2, '{\"n\":2}')")
        connection.execute("INSERT INTO definable_event_key VALUES ('job@12.000', 1e12)")
        connection.execute("UPDATE definable_event SET data = CAST(data AS BLOB)")
        connection.execute("UPDATE definable_event_later SET data = CAST(data AS BLOB)")
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        found = await take(deliveries, 2)
        assert [(each.id, each.attempt, each.data["n"]) for each in found] == [("a", 2, 1), ("b", 3, 2)]
        assert not await bus.publish("job", {}, dedupe_key="job@12.000")
        await found[0].dead("done")
        await found[1].ack()
        assert [letter.id for letter in await bus.dead_letters()] == ["a"]
