"""Files that fail, when the bus is opened and while it works: clear errors, and nothing accepted is lost."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import Delivery, EventBufferFull, SQLiteBus, queue, sqlite
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError, StorageError

pytestmark = pytest.mark.anyio

LIMIT = 10.0
"""Seconds that a test may hang."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "RETRY_PAUSE", 0.02)
    monkeypatch.setattr(queue, "CLOSE_TIMEOUT", 0.5)


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


@contextmanager
def full_disk(bus: SQLiteBus) -> Generator[None, None, None]:
    """SQLite answers a page limit as it does a full disk."""
    prepare = bus._file._prepare
    bus._file._prepare = (*prepare, "PRAGMA max_page_count = 1")
    bus._file._close()
    yield
    bus._file._prepare = prepare
    bus._file._close()


BIG = {"body": "x" * 10_000}
"""More than fits into the pages that there are."""


# --- when it is opened


async def test_a_file_that_is_no_database(path: Path) -> None:
    await anyio.Path(path).write_text("Dear diary, " * 1000)
    with pytest.raises(StorageError, match=r"events\.db: it is not an SQLite database"):
        async with SQLiteBus(path).open():
            pass


async def test_a_damaged_file(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        for _ in range(50):
            bus.publish_nowait("job", BIG)
    good = await anyio.Path(path).read_bytes()
    await anyio.Path(path).write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
    with pytest.raises(StorageError, match=r"events\.db: it is damaged"):
        async with bus.open():
            pass
    await anyio.Path(path).write_bytes(good)
    async with bus.open(), bus.consume() as deliveries:
        await take(deliveries, 50)


async def test_a_file_that_may_not_be_written(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        prepare = bus._file._prepare
        bus._file._prepare = (*prepare, "PRAGMA query_only = ON")  # as a read-only file, also for root
        bus._file._close()
        with pytest.raises(StorageError, match=r"events\.db: it cannot be written"):
            await bus.publish("refused", {})
        bus._file._prepare = prepare
        bus._file._close()
        await bus.publish("accepted", {})
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["accepted"]


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="its directory cannot be made"):
        async with SQLiteBus(tmp_path / "taken" / "events.db").open():
            pass


async def test_a_lock_that_cannot_be_had(path: Path) -> None:
    path.with_name("events.db-owner").mkdir()
    with pytest.raises(StorageError, match=r"its lock events\.db-owner cannot be had"):
        async with SQLiteBus(path).open():
            pass


async def test_an_agent_does_not_start_on_a_bus_that_cannot_be_opened(path: Path) -> None:
    async with SQLiteBus(path).open():
        with pytest.raises(StorageError, match="another SQLiteBus"):
            async with Agent("offline", bus=SQLiteBus(path)).running(enable_server=False):
                pass


@pytest.mark.parametrize("data", [b"\xff", b"[]", b"[" * 100_000, "text of another program"])
async def test_an_event_that_cannot_be_read_is_dead_and_holds_up_no_other(
    path: Path, data: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        for name in ("first", "damaged", "last"):
            await bus.publish(name, {"body": name})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE definable_event SET data = ? WHERE name = 'damaged'", (data,))
    async with bus.open(), bus.consume() as deliveries:
        for delivery in await take(deliveries, 2):
            assert delivery.data == {"body": delivery.name} and delivery.name != "damaged"
            await delivery.ack()
        [letter] = await bus.dead_letters()
        assert (letter.name, letter.data, letter.attempt) == ("damaged", {}, 1)
        assert "a stored event cannot be read" in letter.why
        assert await bus.replay(letter.id)  # which does not mend it
        await bus.publish("after", {})
        [after] = await take(deliveries, 1)
        assert after.name == "after"
        await after.ack()
        assert [letter.name for letter in await bus.dead_letters()] == ["damaged"]
        with anyio.fail_after(LIMIT):
            await bus.drain()
        assert bus.failure is None
    assert caplog.text.count("is a dead letter: a stored event cannot be read") == 2


# --- while it works


async def test_a_disk_that_fills_up_fails_who_waits_and_keeps_what_was_accepted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = SQLiteBus(path, buffer=3)
    async with bus.open(), bus.consume() as deliveries:
        with full_disk(bus):
            with pytest.raises(StorageError, match=r"events\.db: the disk is full"):
                await bus.publish("refused", BIG, dedupe_key="k")
            for n in range(3):
                bus.publish_nowait("kept", BIG | {"n": n}, dedupe_key=f"{n}")
            with anyio.fail_after(LIMIT):
                while bus.failure is None:
                    await anyio.sleep(0.01)
            with pytest.raises(EventBufferFull):
                bus.publish_nowait("kept", BIG)
            with pytest.raises(StorageError, match="the disk is full"):
                await bus.dead_letters()
        kept = await take(deliveries, 3)
        assert [(delivery.name, delivery.data["n"]) for delivery in kept] == [("kept", n) for n in range(3)]
        assert bus.failure is None
        assert await bus.publish("accepted", {}, dedupe_key="k")
        assert not await bus.publish("accepted", {}, dedupe_key="0")
    assert caplog.text.count("events cannot be written") == 1
    assert "events are written again" in caplog.text


async def test_a_failure_is_over_when_the_disk_has_room_though_nobody_publishes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        with full_disk(bus):
            with pytest.raises(StorageError):
                await bus.publish("refused", BIG)
            assert isinstance(bus.failure, StorageError)
            assert caplog.text.count("events cannot be written") == 1
            assert "StorageError(" not in str(bus.failure)
        with anyio.fail_after(LIMIT):
            while bus.failure is not None:
                await anyio.sleep(0.01)


async def test_a_repeat_is_not_refused_before_what_it_repeats_is_safe(path: Path) -> None:
    bus, outcomes = SQLiteBus(path), list[object]()

    async def publish() -> None:
        try:
            outcomes.append(await bus.publish("job", BIG, dedupe_key="k"))
        except StorageError as error:
            outcomes.append(type(error))

    async def publish_three_at_once() -> None:
        async with anyio.create_task_group() as publishers:
            for _ in range(3):
                publishers.start_soon(publish)

    async with bus.open():
        with full_disk(bus):
            await publish_three_at_once()
        assert outcomes == [StorageError] * 3
        await publish_three_at_once()
    assert (outcomes.count(True), outcomes.count(False)) == (1, 2)


async def test_a_key_that_was_released_while_the_disk_is_full_stays_free_though_it_was_wanted_again(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="k")
        with full_disk(bus):
            await bus.release("k")
            with pytest.raises(StorageError):
                await bus.publish("job", BIG, dedupe_key="k")
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="k")


async def test_an_error_of_ours_while_it_writes_is_a_failure_like_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("oops")

    bus = SQLiteBus(path)
    async with bus.open():
        with monkeypatch.context() as broken:
            broken.setattr(sqlite.SQLiteStore, "_apply", fail)
            with pytest.raises(StorageError, match="oops"):
                await bus.publish("refused", {})
            assert isinstance(bus.failure, StorageError)
        with anyio.fail_after(LIMIT):
            while bus.failure is not None:
                await anyio.sleep(0.01)
        assert await bus.publish("accepted", {})


async def test_settling_waits_for_a_file_that_fails(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("ack", "nack", "dead"):
            await bus.publish(name, BIG)
        ack, nack, dead = await take(deliveries, 3)
        with full_disk(bus):
            await nack.nack()
            await dead.dead("no luck")
            await ack.ack()
            with anyio.fail_after(LIMIT):
                while bus.failure is None:
                    await anyio.sleep(0.01)
        assert [(again.name, again.attempt) for again in await take(deliveries, 1)] == [("nack", 2)]
        assert [letter.name for letter in await bus.dead_letters()] == ["dead"]
    async with bus.open(), bus.consume() as deliveries:
        assert [again.name for again in await take(deliveries, 1)] == ["nack"]


async def test_what_cannot_be_written_at_the_end_is_left_over_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        pass  # the tables are there
    with full_disk(bus):
        async with bus.open():
            bus.publish_nowait("lost", BIG)
            with anyio.fail_after(LIMIT):
                while bus.failure is None:
                    await anyio.sleep(0.01)
            assert list(bus.take_undone()) == []  # it may be written yet
    assert [(left.name, left.attempt, left.data) for left in bus.take_undone()] == [("lost", 1, BIG)]
    assert list(bus.take_undone()) == []
    assert "1 events are lost" in caplog.text


async def test_somebody_who_keeps_the_file_locked_is_a_clear_error_and_no_end(path: Path) -> None:
    bus = SQLiteBus(path)
    bus._file._busy_timeout = 0.05
    async with bus.open(), bus.consume() as deliveries:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageError, match="it stayed locked"):
                await bus.publish("refused", {})
            bus.publish_nowait("kept", {})
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["kept"]


async def test_a_stop_while_the_file_is_locked_counts_what_is_lost(path: Path) -> None:
    bus = SQLiteBus(path)
    bus._file._busy_timeout = 0.5
    agent, handled = Agent("offline", bus=bus), list[TriggerEvent]()
    agent.on(EventTrigger("job"))(handled.append)
    async with agent.running(enable_server=False, shutdown_timeout=0.1) as runtime:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            agent.emit("job")
            with anyio.fail_after(LIMIT):
                while bus.failure is None:
                    await anyio.sleep(0.01)
            await anyio.sleep(0.1)  # it is being tried again
            runtime.stop()
            with anyio.fail_after(LIMIT):
                while bus._is_open:
                    await anyio.sleep(0.01)
    assert runtime.report is not None
    assert (handled, runtime.report.never_started, runtime.report.clean) == ([], 1, False)
    async with agent.running(enable_server=False):
        pass
    assert handled == []


async def test_data_that_is_not_json_is_refused_where_it_is_published(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        for publish in (bus.publish, bus.publish_nowait):
            with pytest.raises(ConfigurationError, match=r"'job'.*body\.at is .*, a set"):
                accepted = publish("job", {"body": {"at": {1}}})
                assert not isinstance(accepted, bool)
                await accepted


async def test_an_agent_goes_on_through_a_full_disk_and_its_health_tells(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    agent = Agent("offline", bus=SQLiteBus(path))
    seen: list[str] = []

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        seen.append(event.body["name"])

    async with agent.running(enable_server=False) as runtime:
        bus = runtime.bus
        assert isinstance(bus, SQLiteBus)
        with full_disk(bus):
            with pytest.raises(StorageError, match="the disk is full"):
                await agent.aemit("job", BIG | {"name": "refused"})
            well, document = runtime.health()
            assert (well, document["status"]) == (False, "degraded")
            assert document["children"]["events"] == {"state": "failing"}
            agent.emit("job", BIG | {"name": "kept"})
            await anyio.to_thread.run_sync(agent.emit, "job", BIG | {"name": "from a thread"})
            await anyio.sleep(0.05)
        with anyio.fail_after(LIMIT):
            while len(seen) < 2:
                await anyio.sleep(0.01)
        assert runtime.health()[0]
    assert sorted(seen) == ["from a thread", "kept"]
    assert runtime.report is not None
    assert runtime.report.completed == 2
    assert runtime.report.clean
