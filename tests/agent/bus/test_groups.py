"""What every bus does with messages of a group: one after the other, whatever becomes of them."""

from __future__ import annotations

import gc
import os
import random
import sqlite3
import tracemalloc
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest

from definable.agent.bus import Delivery, EventBus, MemoryBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.bus.base import MeasuresBacklog, PublishesMany, Submission
from definable.agent.bus.claims import QueueDelivery
from definable.agent.bus.queue import QueueBus
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio

LIMIT = 60.0
"""Seconds that a test may hang."""

durable = pytest.mark.parametrize("bus", ["sqlite", "redis", "postgres"], indirect=True)


async def publish(bus: EventBus, *items: tuple[str, int]) -> None:
    """Numbers, each in its group."""
    assert isinstance(bus, PublishesMany)
    await bus.publish_many([Submission("job", {"group": group, "n": n}, group=group) for group, n in items])


async def next_of(deliveries: AsyncIterator[Delivery]) -> QueueDelivery:
    with anyio.fail_after(LIMIT):
        delivery = await anext(deliveries)
    assert isinstance(delivery, QueueDelivery)
    return delivery


def what(delivery: Delivery) -> tuple[str, int]:
    return delivery.data["group"], delivery.data["n"]


async def nothing_comes_before(bus: EventBus, deliveries: AsyncIterator[Delivery]) -> None:
    """Whatever may be handed out comes before what is published now."""
    await bus.publish("marker", {"group": "", "n": 0})
    marker = await next_of(deliveries)
    assert marker.name == "marker"
    await marker.ack()


async def test_one_group_is_handed_out_one_after_the_other_and_others_meanwhile(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2), ("b", 1), ("a", 3), ("b", 2))
        first, other = await next_of(deliveries), await next_of(deliveries)
        assert [what(first), what(other)] == [("a", 1), ("b", 1)]
        await nothing_comes_before(bus, deliveries)
        await first.ack()
        second = await next_of(deliveries)
        assert what(second) == ("a", 2)
        await nothing_comes_before(bus, deliveries)
        await second.ack()
        await other.ack()
        last = [await next_of(deliveries), await next_of(deliveries)]
        assert sorted(map(what, last)) == [("a", 3), ("b", 2)]
        for delivery in last:
            await delivery.ack()
        await bus.drain()


async def test_the_same_text_under_another_name_is_another_group(bus: EventBus) -> None:
    assert isinstance(bus, PublishesMany)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish_many([Submission(name, {}, group="a") for name in ("job", "other")])
        both = [await next_of(deliveries), await next_of(deliveries)]
        assert {delivery.name for delivery in both} == {"job", "other"}
        for delivery in both:
            await delivery.ack()


@pytest.mark.parametrize("delay", [0.0, 0.3])
async def test_what_waits_for_another_attempt_holds_up_its_own_group_alone(bus: EventBus, delay: float) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2))
        first = await next_of(deliveries)
        await first.nack(delay)
        await publish(bus, ("a", 3), ("b", 1))
        came = []
        for _ in range(4):
            delivery = await next_of(deliveries)
            came.append((*what(delivery), delivery.attempt))
            await delivery.ack()
    assert [each for each in came if each[0] == "a"] == [("a", 1, 2), ("a", 2, 1), ("a", 3, 1)]
    assert came[0] == ("b", 1, 1) or not delay


async def test_a_dead_letter_lets_its_group_go_on_and_is_replayed_behind_it(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2), ("a", 3))
        first = await next_of(deliveries)
        await first.dead("no luck")
        second = await next_of(deliveries)
        assert what(second) == ("a", 2)
        [letter] = await bus.dead_letters()
        assert await bus.replay(letter.id)
        await nothing_comes_before(bus, deliveries)
        await second.ack()
        for expected in (("a", 3), ("a", 1)):
            delivery = await next_of(deliveries)
            assert (what(delivery), delivery.attempt) == (expected, 1)
            await nothing_comes_before(bus, deliveries)
            await delivery.ack()


async def test_two_letters_of_one_group_that_are_replayed_come_one_after_the_other(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2))
        for _ in range(2):
            await (await next_of(deliveries)).dead("no luck")
        letters = await bus.dead_letters()
        for letter in letters:
            assert await bus.replay(letter.id)
        for expected in (("a", 1), ("a", 2)):
            delivery = await next_of(deliveries)
            assert what(delivery) == expected
            await nothing_comes_before(bus, deliveries)
            await delivery.ack()


async def test_what_was_not_begun_keeps_its_place(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2))
        first = await next_of(deliveries)
        await first.release()
        again = await next_of(deliveries)
        assert (what(again), again.attempt) == (("a", 1), 1)
        await again.ack()
        second = await next_of(deliveries)
        assert what(second) == ("a", 2)
        await second.ack()


async def test_what_is_behind_counts_as_waiting(bus: EventBus) -> None:
    assert isinstance(bus, MeasuresBacklog)
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, *(("a", n) for n in range(5)))
        first = await next_of(deliveries)
        assert (await bus.backlog()).waiting == 4
        await first.ack()
        for _ in range(4):
            await (await next_of(deliveries)).ack()
        with anyio.fail_after(LIMIT):
            while (await bus.backlog()).waiting:
                await anyio.sleep(0.01)


async def test_a_full_buffer_counts_what_is_behind() -> None:
    bus = MemoryBus(buffer=3)
    async with bus.open():
        bus.submit_nowait([Submission("job", {}, group="a")] * 3)
        assert bus.capacity == 0


async def test_a_stop_does_not_wait_for_what_is_behind_a_later_attempt(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2))
        await (await next_of(deliveries)).nack(3600)
        with anyio.fail_after(LIMIT):
            await bus.drain()
    left = [(*what(delivery), delivery.attempt) for delivery in bus.take_undone()]
    assert left == ([] if bus.durable else [("a", 1, 2), ("a", 2, 1)])


async def test_a_group_is_in_order_over_a_restart(bus: EventBus) -> None:
    if not bus.durable:
        return
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 1), ("a", 2))
        held = await next_of(deliveries)
        await publish(bus, ("a", 3))
        await bus.publish("other", {"group": "", "n": 0})
        assert (await next_of(deliveries)).name == "other"
        assert what(held) == ("a", 1)
    async with bus.open(), bus.consume() as deliveries:
        await publish(bus, ("a", 4))
        came = []
        while len(came) < 4:
            delivery = await next_of(deliveries)
            if delivery.name == "job":
                came.append((delivery.data["n"], delivery.attempt))
            await delivery.ack()
    assert came == [(1, 2), (2, 1), (3, 1), (4, 1)]


async def remove_first(bus: EventBus, request: pytest.FixtureRequest) -> None:
    """Remove the only message of a group that is not behind another one, as an operator may."""
    if isinstance(bus, RedisBus):
        request.getfixturevalue("redis").ask("XTRIM", "{definable}:line", "MAXLEN", "0")
    elif isinstance(bus, PostgresBus):
        with psycopg.connect(request.getfixturevalue("postgres")) as connection:
            connection.execute("DELETE FROM definable_event WHERE is_first")
    else:
        with closing(sqlite3.connect(request.getfixturevalue("path"))) as connection, connection:
            connection.execute("DELETE FROM definable_event")


@durable
async def test_a_group_goes_on_whose_first_message_was_removed(bus: EventBus, request: pytest.FixtureRequest) -> None:
    async with bus.open():
        await publish(bus, ("a", 1), ("a", 2), ("a", 3))
    await remove_first(bus, request)
    async with bus.open(), bus.consume() as deliveries:
        for n in (2, 3):
            delivery = await next_of(deliveries)
            assert what(delivery) == ("a", n)
            await nothing_comes_before(bus, deliveries)
            await delivery.ack()


@durable
async def test_a_group_without_a_handler_is_dead_letters_all_at_once(
    bus: EventBus, request: pytest.FixtureRequest
) -> None:
    if isinstance(bus, RedisBus):
        bus = RedisBus(request.getfixturevalue("redis").url, unknown_ttl=0.5)
    elif isinstance(bus, PostgresBus):
        bus = PostgresBus(request.getfixturevalue("postgres"), unknown_ttl=0.5)
    else:
        bus = SQLiteBus(request.getfixturevalue("path"), unknown_ttl=0.5)
    async with bus.open():
        bus.only_names({"marker"})
        await publish(bus, ("a", 1), ("a", 2), ("a", 3))
        async with bus.consume() as deliveries:
            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(next_of, deliveries)
                    while not (letters := await bus.dead_letters()):
                        await anyio.sleep(0.05)
                    waiting.cancel_scope.cancel()
        assert [letter.data["n"] for letter in letters] == [1, 2, 3]
        bus.only_names({"marker", "job"})
        await publish(bus, ("a", 4))
        async with bus.consume() as deliveries:
            assert what(await next_of(deliveries)) == ("a", 4)


@pytest.mark.parametrize("later", [{"delay": 1.0}, {"key": "k"}])
async def test_what_waits_for_its_time_has_no_group(bus: EventBus, later: dict[str, Any]) -> None:
    assert isinstance(bus, PublishesMany)
    async with bus.open():
        with pytest.raises(ConfigurationError, match="group"):
            await bus.publish_many([Submission("job", {}, group="a", **later)])


async def handle_at_random(bus: EventBus, groups: int, each: int, workers: int) -> dict[str, list[int]]:
    """Handle numbers of several groups, with failures; returns the order in which those of each came to their end."""
    chance, active, ended = random.Random(groups * each), set[str](), defaultdict[str, list[int]](list)
    attempts = defaultdict[tuple[str, int], int](int)

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            group, n = what(delivery)
            assert group not in active
            active.add(group)
            attempts[group, n] += 1
            assert delivery.attempt == attempts[group, n]
            await anyio.lowlevel.checkpoint()
            active.remove(group)
            fate = chance.random()
            if fate < 0.15 and delivery.attempt < 4:
                await delivery.nack(chance.choice([0.0, 0.01]))
                continue
            ended[group].append(n)
            await (delivery.dead("no luck") if fate > 0.95 else delivery.ack())

    async with bus.consume() as deliveries, anyio.create_task_group() as group:
        for _ in range(workers):
            group.start_soon(work, deliveries)
        for n in range(each):
            await publish(bus, *((f"g{number}", n) for number in range(groups)))
        with anyio.fail_after(LIMIT):
            while sum(map(len, ended.values())) < groups * each:
                await anyio.sleep(0.01)
            await bus.drain()
        group.cancel_scope.cancel()
    return ended


async def test_whatever_becomes_of_messages_each_group_stays_in_order(bus: EventBus) -> None:
    async with bus.open():
        ended = await handle_at_random(bus, groups=7, each=20, workers=4)
    assert ended == {f"g{number}": [*range(20)] for number in range(7)}


async def test_nothing_is_kept_of_a_group_that_is_done(
    bus: EventBus, request: pytest.FixtureRequest, kept_of_groups: Callable[[], int]
) -> None:
    async with bus.open():
        await handle_at_random(bus, groups=50, each=2, workers=4)
        assert kept_of_groups() == 0
        if isinstance(bus, MemoryBus):
            assert isinstance(bus, QueueBus) and bus._queue is not None
            assert not bus._queue.store._groups  # type: ignore[attr-defined] - what it holds is its own


KEYS = int(os.environ.get("DEFINABLE_KEYS", "800"))
"""Distinct keys: a million in a run of its own."""

AT_ONCE = max(KEYS // 100, 200)
"""Keys of which something waits at one time."""


async def test_distinct_keys_hold_no_memory_once_their_events_are_handled(
    bus: EventBus, kept_of_groups: Callable[[], int]
) -> None:
    """Both kinds: keys that order events, and keys that `cancel` knows events by."""
    assert isinstance(bus, PublishesMany)
    held, handled, all_handled = list[int](), 0, anyio.Event()

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        nonlocal handled
        async for delivery in deliveries:
            await delivery.ack()
            handled += 1
            if handled % (2 * AT_ONCE) == 0:
                all_handled.set()

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        for _ in range(100):
            workers.start_soon(work, deliveries)
        for begin in range(0, KEYS, AT_ONCE):
            all_handled = anyio.Event()
            keys = [f"key {number}" for number in range(begin, begin + AT_ONCE)]
            await bus.publish_many([Submission("job", {}, group=key) for key in keys])
            await bus.publish_many([Submission("job", {}, delay=0.001, key=key) for key in keys])
            await all_handled.wait()
            await bus.dead_letters()  # all is written
            if not begin:
                tracemalloc.start()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert kept_of_groups() == 0
        workers.cancel_scope.cancel()
    assert held[-1] - held[1] < 100_000 + 20 * KEYS, f"{held}: something is kept of each key"


@pytest.fixture
def kept_of_groups(request: pytest.FixtureRequest, bus: EventBus) -> Callable[[], int]:
    """Counts what the store of the bus has of groups, beside dead letters."""
    kind = request.node.callspec.params["bus"]
    if kind == "redis":
        redis = request.getfixturevalue("redis")
        return lambda: redis.number("EXISTS", "{definable}:groups", "{definable}:later", "{definable}:later:keys")
    if kind == "postgres":
        import psycopg

        dsn = request.getfixturevalue("postgres")

        def count() -> int:
            with psycopg.connect(dsn) as connection:
                [(rows,)] = connection.execute("SELECT count(*) FROM definable_event").fetchall()
                return int(rows)

        return count
    return lambda: 0
