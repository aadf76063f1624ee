"""What is the SQLite bus's own: what outlives an opening, and what it does to its file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent.bus import (
    Delivery,
    EventBufferFull,
    EventBusClosed,
    MemoryBus,
    SQLiteBus,
    dedupe,
    sqlite,
    sqlite_rows,
)
from definable.agent.bus.claims import QueueDelivery
from definable.agent.session import Session, SQLiteSessionStore
from definable.errors import ConfigurationError, StorageError

pytestmark = pytest.mark.anyio

LIMIT = 10.0
"""Seconds that a test may hang."""


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


def open_descriptors(path: Path) -> int:
    targets = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    return sum(target.startswith(str(path)) for target in targets)


# --- over a restart


async def test_what_was_accepted_and_not_settled_is_handed_out_when_the_bus_is_opened_again(path: Path) -> None:
    async with SQLiteBus(path).open():
        pass
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(5):
            bus.publish_nowait("job", {"n": n})
        done, _held = await take(deliveries, 2)
        await done.ack()
        held_id = _held.id
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        assert await bus.publish("new", {"n": 5})
        again = await take(deliveries, 5)
        assert [(delivery.data["n"], delivery.attempt) for delivery in again] == [
            (1, 2),
            (2, 1),
            (3, 1),
            (4, 1),
            (5, 1),
        ]
        assert again[0].id == held_id
        for delivery in again:
            await delivery.ack()
    assert rows(path, "definable_event") == 0


async def test_ids_are_not_used_again(path: Path) -> None:
    ids: set[str] = set()
    for _ in range(3):
        bus = SQLiteBus(path)
        async with bus.open(), bus.consume() as deliveries:
            for _ in range(3):
                await bus.publish("job", {})
            for delivery in await take(deliveries, 3):
                ids.add(delivery.id)
                await delivery.ack()
    assert len(ids) == 9


async def test_a_delay_goes_on_over_a_restart(path: Path) -> None:
    now = 1000.0
    bus = SQLiteBus(path, clock=lambda: now)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("soon", "late"):
            await bus.publish(name, {})
        soon, late = await take(deliveries, 2)
        await soon.nack(30)
        await late.nack(3600)
    now += 60
    async with bus.open(), bus.consume() as deliveries:
        [again] = await take(deliveries, 1)
        assert (again.name, again.attempt) == ("soon", 2)
        with anyio.move_on_after(0.05):
            await anext(deliveries)
            pytest.fail("handed out too early")
        await again.ack()
    now += 3600
    async with bus.open(), bus.consume() as deliveries:
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["late"]


async def test_more_than_one_transactions_worth_of_delayed_deliveries_come_due_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MOVED_AT_ONCE", 7)
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(50):
            bus.publish_nowait("job", {"n": n})
        for delivery in await take(deliveries, 50):
            await delivery.nack(0.05)
            bus.publish_nowait("between", {"n": -1})
        seen = sorted(delivery.data["n"] for delivery in await take(deliveries, 100))
        assert seen == [-1] * 50 + list(range(50))


async def test_dead_letters_and_keys_outlive_a_restart_and_time_passes_for_keys(path: Path) -> None:
    now = 1000.0
    bus = SQLiteBus(path, clock=lambda: now)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {"n": 1}, dedupe_key="day")
        bus.publish_nowait("job", {"n": 2}, dedupe_key="minute", dedupe_ttl=60)
        for delivery in await take(deliveries, 2):
            await delivery.dead(f"no luck with {delivery.data['n']} \ud83d")
    now += 120
    async with bus.open(), bus.consume() as deliveries:
        assert not await bus.publish("job", {}, dedupe_key="day")
        assert not bus.publish_nowait("job", {}, dedupe_key="day")
        assert await bus.publish("job", {"n": 3}, dedupe_key="minute")
        letters = await bus.dead_letters()
        assert [letter.why for letter in letters] == [f"no luck with {n} \\ud83d" for n in (1, 2)]
        assert letters[0].died_at == pytest.approx(1000, abs=5)
        assert await bus.replay(letters[1].id)
        assert [delivery.data["n"] for delivery in await take(deliveries, 2)] == [3, 2]
    async with bus.open():
        assert [letter.id for letter in await bus.dead_letters()] == [letters[0].id]


async def test_a_released_key_is_free_after_a_restart(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        await bus.publish("job", {}, dedupe_key="k")
        await bus.release("k")
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="k")


async def test_a_claim_outlives_a_clean_end_and_no_other(path: Path) -> None:
    code = f"""
import anyio, os, signal
from definable.agent.bus import SQLiteBus
async def main():
    bus = SQLiteBus({str(path)!r})
    async with bus.open():
        assert await bus.claim("working", 60)
        assert await bus.publish("job", {{}}, dedupe_key="accepted")
        os.kill(os.getpid(), signal.SIGKILL)
anyio.run(main)
"""
    died = await anyio.run_process([sys.executable, "-c", code], check=False)
    assert died.returncode == -9, died.stderr
    bus = SQLiteBus(path)
    async with bus.open():
        assert await bus.claim("working", 60)
        assert not await bus.claim("accepted", 60)
    async with bus.open():
        assert not await bus.claim("working", 60)


async def test_a_key_that_is_forgotten_for_its_age_does_not_hold_up_a_drain(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        assert await bus.claim("old", 0.3)
    async with bus.open():
        await anyio.sleep(0.4)
        assert await bus.claim("new", 60)
        began = anyio.current_time()
        with anyio.move_on_after(LIMIT):
            await bus.drain()
        assert anyio.current_time() - began < LIMIT / 4


async def test_dead_letters_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_rows, "MAX_DEAD_LETTERS", 3)
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(5):
            await bus.publish("job", {"n": n})
            [delivery] = await take(deliveries, 1)
            await delivery.dead("")
        assert [letter.data["n"] for letter in await bus.dead_letters()] == [2, 3, 4]


async def test_keys_are_bounded_in_the_file_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "MAX_KEYS", 3)
    bus = SQLiteBus(path)
    async with bus.open():
        for n in range(10):
            await bus.publish("job", {}, dedupe_key=f"{n}")
    assert rows(path, "definable_event_key") == 3


# --- the file


async def test_what_publish_accepted_is_in_the_file(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        for n in range(1, 4):
            await bus.publish("job", {})
            assert rows(path, "definable_event") == n


async def test_what_publish_nowait_accepted_is_in_the_file_soon_and_without_being_asked_for(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        bus.publish_nowait("job", {})
        with anyio.fail_after(LIMIT):
            while rows(path, "definable_event") < 1:
                await anyio.sleep(0.001)


async def test_a_claim_is_in_the_file_before_anybody_has_the_delivery(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        await take(deliveries, 1)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT attempt, claims FROM definable_event").fetchall() == [(0, 1)]


async def test_a_long_queue_is_not_read_into_memory(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(3000):
            bus.publish_nowait("job", {"n": n})
        held = await take(deliveries, 3)
        await bus.dead_letters()  # all is written
        queue = bus._queue
        assert queue is not None
        assert len(held) == 3
        assert not queue.claims.ready
        with closing(sqlite3.connect(path)) as connection:
            counted = connection.execute("SELECT count(*) FROM definable_event WHERE claims > 0").fetchone()[0]
        assert counted == 3


async def test_what_was_claimed_for_a_consumer_that_left_was_no_attempt(path: Path) -> None:
    bus, taken = SQLiteBus(path), list[Delivery]()

    async def take_one(deliveries: AsyncIterator[Delivery]) -> None:
        taken.append(await anext(deliveries))

    async with bus.open(), bus.consume() as deliveries:
        for _ in range(20):
            async with anyio.create_task_group() as consumers:
                for _ in range(3):
                    consumers.start_soon(take_one, deliveries)
                await anyio.wait_all_tasks_blocked()
                bus.publish_nowait("job", {})
                bus.publish_nowait("job", {})
                await checkpoint()
                consumers.cancel_scope.cancel()
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT count(*) FROM definable_event WHERE attempt > 0").fetchone()
        claimed = connection.execute("SELECT count(*) FROM definable_event WHERE claims > 0").fetchone()
    assert (found, claimed) == ((len(taken),), (0,))


async def test_while_something_is_at_hand_for_nobody_no_more_is_read(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        for _ in range(50):
            bus.publish_nowait("job", {})
        [delivery] = await take(deliveries, 1)
        queue = bus._queue
        assert queue is not None
        assert isinstance(delivery, QueueDelivery)
        queue.claims.ready.append(delivery)
        await bus.dead_letters()  # a flush, while the consumer for whom it was claimed has left
        assert len(queue.claims.held) == 1


async def test_the_file_may_be_shared_with_a_session_store(path: Path) -> None:
    bus, store = SQLiteBus(path), SQLiteSessionStore(path)
    async with store.open(), bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        await store.save(Session("s"))
        [delivery] = await take(deliveries, 1)
        await delivery.ack()
        assert await store.load("s") is not None


async def test_nothing_is_left_open_and_only_the_file_and_its_empty_lock_stay(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        await bus.publish("job", {})
        assert open_descriptors(path) > 0
    assert open_descriptors(path) == 0
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["events.db", "events.db-owner"]
    assert path.with_name("events.db-owner").stat().st_size == 0


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_synchronous_is_passed_on(path: Path, synchronous: Any) -> None:
    bus = SQLiteBus(path, synchronous=synchronous)
    async with bus.open():
        await bus.publish("job", {})
    with pytest.raises(ConfigurationError, match="synchronous"):
        SQLiteBus(path, synchronous="OFF")  # type: ignore[arg-type]


# --- one owner


async def test_a_second_bus_on_the_file_is_refused_until_the_first_is_closed(path: Path) -> None:
    bus, other = SQLiteBus(path), SQLiteBus(path)
    async with bus.open():
        with pytest.raises(StorageError, match=r"events\.db: another SQLiteBus has it open.*RedisBus"):
            async with other.open():
                pass
        with pytest.raises(ConfigurationError, match="open already"):
            async with bus.open():
                pass
        await bus.publish("job", {})
    async with other.open(), other.consume() as deliveries:
        await take(deliveries, 1)


async def test_a_second_name_of_the_file_is_the_same_file(path: Path) -> None:
    async with SQLiteBus(path).open():
        link = path.with_name("link.db")
        link.symlink_to(path)
        with pytest.raises(StorageError, match="another SQLiteBus"):
            async with SQLiteBus(link).open():
                pass


async def test_a_second_process_is_refused(path: Path) -> None:
    code = f"""
import anyio
from definable.agent.bus import SQLiteBus
async def main():
    async with SQLiteBus({str(path)!r}).open(): ...
anyio.run(main)
"""
    async with SQLiteBus(path).open():
        refused = await anyio.run_process([sys.executable, "-c", code], check=False)
        assert b"another SQLiteBus has it open" in refused.stderr
    await anyio.run_process([sys.executable, "-c", code], stderr=subprocess.STDOUT)


# --- the buffer, cancellation, closing


class Stuck:
    """Keeps the bus's writer from its file, as a slow disk does."""

    def __init__(self, bus: SQLiteBus) -> None:
        self._lock = bus._file._lock

    def __enter__(self) -> None:
        holder = threading.Thread(target=self._lock.acquire)
        holder.start()
        holder.join()

    def __exit__(self, *args: object) -> None:
        self._lock.release()


async def test_a_full_buffer_says_so_and_accepts_nothing(path: Path) -> None:
    bus = SQLiteBus(path, buffer=2)
    async with bus.open(), bus.consume() as deliveries:
        with Stuck(bus):
            bus.publish_nowait("a", {})
            bus.publish_nowait("b", {})
            assert bus.capacity == 0
            with pytest.raises(EventBufferFull, match="full \\(2 wait to be written\\)"):
                bus.publish_nowait("c", {}, dedupe_key="k")
            waited: list[str] = []

            async def publish() -> None:
                await bus.publish("d", {})
                waited.append("d")

            async with anyio.create_task_group() as group:
                group.start_soon(publish)
                await anyio.wait_all_tasks_blocked()
                assert waited == []
                bus._file._lock.release()
                with anyio.fail_after(LIMIT):
                    while not waited:
                        await anyio.sleep(0.001)
                bus._file._lock.acquire(timeout=LIMIT)
        assert bus.publish_nowait("c", {}, dedupe_key="k")
        assert [delivery.name for delivery in await take(deliveries, 4)] == ["a", "b", "d", "c"]


async def test_the_first_word_on_a_delivery_is_the_last(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        delivery = await anext(deliveries)
        await delivery.ack()
        await delivery.nack()
        await delivery.dead("too late")
        with anyio.fail_after(LIMIT):
            await bus.drain()
        assert await bus.dead_letters() == []
    tables = ("definable_event", "definable_event_later", "definable_event_dead")
    assert [rows(path, table) for table in tables] == [0, 0, 0]


def test_it_outlives_its_process(path: Path) -> None:
    assert SQLiteBus(path).durable
    assert not MemoryBus().durable


async def test_the_smallest_buffer_holds_one(path: Path) -> None:
    bus = SQLiteBus(path, buffer=1)
    async with bus.open():
        assert bus.capacity == 1
        bus.publish_nowait("a", {})
        assert bus.capacity == 0
        with pytest.raises(EventBufferFull, match=r"full \(1 wait"):
            bus.publish_nowait("b", {})


def test_buffer_must_hold_something(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="buffer=0: at least 1"):
        SQLiteBus(path, buffer=0)


async def test_a_publish_that_was_cancelled_before_its_turn_accepted_nothing(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.publish("job", {}, dedupe_key="k")
        assert await bus.publish("job", {}, dedupe_key="k")
    assert rows(path, "definable_event") == 1


async def test_everything_accepted_is_written_before_the_bus_is_closed_also_when_cancelled(path: Path) -> None:
    bus = SQLiteBus(path)
    with anyio.CancelScope() as scope:
        async with bus.open():
            for n in range(500):
                bus.publish_nowait("job", {"n": n})
            scope.cancel()
            await checkpoint()
    assert rows(path, "definable_event") == 500
    assert open_descriptors(path) == 0


async def test_a_delivery_that_is_settled_after_the_bus_was_closed_says_so(path: Path) -> None:
    bus = SQLiteBus(path)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
    with pytest.raises(EventBusClosed, match="handed out again"):
        await delivery.ack()


@pytest.mark.anyio
@pytest.mark.parametrize("steps", range(1, 7))
async def test_an_opening_that_is_cancelled_while_it_reads_the_file_ends(path: Path, steps: int) -> None:
    async def cancel() -> None:
        for _ in range(steps):
            await checkpoint()
        opening.cancel()

    def reading() -> float:
        group.start_soon(cancel)
        return 0.0

    bus, opening = SQLiteBus(path, clock=reading), anyio.CancelScope()
    async with anyio.create_task_group() as group:
        with opening:
            async with bus.open():
                await anyio.sleep_forever()
    async with SQLiteBus(path).open():
        pass
