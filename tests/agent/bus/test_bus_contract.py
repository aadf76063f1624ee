"""What every event bus does: the `bus` fixture has them all."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent.bus import Delivery, EventBus, EventBusClosed, MemoryBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.bus.base import Backlog, KeepsValues, MeasuresBacklog, Parkable
from definable.agent.bus.shared import ServerStore, SharedBus
from definable.storage.service_name import ServerAway

pytestmark = pytest.mark.anyio

LIMIT = 60.0
"""Seconds that a test may hang."""


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


async def test_is_an_event_bus_and_says_what_kind_of_one(bus: EventBus) -> None:
    assert isinstance(bus, EventBus)
    assert bus.durable is not isinstance(bus, MemoryBus)
    assert bus.shared is isinstance(bus, RedisBus | PostgresBus)


async def test_what_is_published_is_handed_out_in_order(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        assert await bus.publish("a", {"body": {"n": 1}})
        assert bus.publish_nowait("b", {"body": None, "timestamp": 2.5})
        first, second = await take(deliveries, 2)
        assert (first.name, first.data, first.attempt) == ("a", {"body": {"n": 1}}, 1)
        assert (second.name, second.data, second.attempt) == ("b", {"body": None, "timestamp": 2.5}, 1)
        assert first.id != second.id
        assert (first.lease is not None) is bus.shared  # what nobody else can have needs none
        await first.ack()
        await second.ack()


async def test_a_shared_one_keeps_a_value_until_its_time_is_over_or_it_is_dropped(bus: EventBus) -> None:
    assert isinstance(bus, KeepsValues) is bus.shared
    if not isinstance(bus, KeepsValues):
        return
    async with bus.open():
        value, other = b"\x00\xff", b"other"
        assert await bus.keep_value("k" * 1000, value, 60) is None
        assert await bus.keep_value("k" * 1000, other, 60) == value
        assert await bus.keep_value("another", other, 60) is None
        assert await bus.keep_value("k" * 1000, other, 60, replace=True) is None
        assert await bus.keep_value("k" * 1000, value, 60) == other
        await bus.drop_value("k" * 1000)
        assert await bus.keep_value("k" * 1000, value, 0.001) is None
        with anyio.fail_after(LIMIT):
            while await bus.keep_value("k" * 1000, other, 60) is not None:
                await anyio.sleep(0.001)


async def test_of_many_that_keep_a_value_at_once_one_does(bus: EventBus) -> None:
    if not isinstance(bus, KeepsValues):
        return
    kept: list[bytes | None] = []

    async def keep(value: bytes) -> None:
        kept.append(await bus.keep_value("key", value, 60))

    async with bus.open(), anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(keep, b"%d" % n)
    [winner] = {value for value in kept if value is not None}
    assert kept.count(None) == 1 and winner.isdigit()


async def test_a_value_is_kept_and_dropped_although_the_answer_is_lost(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(bus, SharedBus):
        return
    answers: list[bytes | None] = []
    async with bus.open():
        assert bus._queue is not None
        store = cast("ServerStore", bus._queue.store)

        def losing_the_first_answer(call: Callable[..., Awaitable[bytes | None]]) -> Callable[..., Any]:
            async def lose(*args: Any, **options: Any) -> bytes | None:
                answers.append(await call(*args, **options))
                if len(answers) == 1:
                    raise ServerAway("the connection was lost")
                return answers[-1]

            return lose

        monkeypatch.setattr(store, "keep_value", losing_the_first_answer(store.keep_value))
        assert await bus.keep_value("key", b"mine", 60) is None
        assert await bus.keep_value("key", b"other", 60) == b"mine"
        assert answers == [None, b"mine", b"mine"]
        answers.clear()
        monkeypatch.setattr(store, "drop_value", losing_the_first_answer(store.drop_value))
        await bus.drop_value("key")
        assert len(answers) == 2
        answers.append(None)
        assert await bus.keep_value("key", b"other", 60) is None


def test_all_of_this_package_measure_their_backlog() -> None:
    assert all(issubclass(kind, MeasuresBacklog) for kind in (MemoryBus, SQLiteBus, RedisBus, PostgresBus))


async def test_says_how_much_waits_and_since_when(bus: EventBus) -> None:
    if not isinstance(bus, MeasuresBacklog):  # of this package all do
        return
    async with bus.open(), bus.consume() as deliveries:
        assert await bus.backlog() == Backlog(0, None)
        for n in range(4):
            await bus.publish("job", {"timestamp": 100.0 + n})
        first = await bus.backlog()
        assert first.waiting == 4 and first.since is not None
        held = await take(deliveries, 2)
        second = await bus.backlog()
        assert second.waiting == 2 and second.since is not None
        if not isinstance(bus, PostgresBus):  # which knows when each was published
            assert (first.since, second.since) == (100.0, 102.0)
        for delivery in [*held, *await take(deliveries, 2)]:
            await delivery.ack()
        with anyio.fail_after(LIMIT):
            while await bus.backlog() != Backlog(0, None):
                await anyio.sleep(0.01)


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


async def test_what_was_taken_and_not_begun_is_handed_out_again_as_no_attempt(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        for n in range(3):
            await bus.publish("job", {"n": n})
        first, second, third = await take(deliveries, 3)
        for delivery in (second, first):
            assert isinstance(delivery, Parkable)
            await delivery.release()
        await bus.publish("job", {"n": 3})
        came = await take(deliveries, 3)
        assert sorted((each.data["n"], each.attempt) for each in came) == [(0, 1), (1, 1), (3, 1)]
        for delivery in (third, *came):
            await delivery.ack()
        with anyio.fail_after(LIMIT):
            await bus.drain()


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

        assert await bus.replay("".join([*letters[0].id]))  # an equal id, as it comes over HTTP
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


async def test_long_dedupe_keys_are_told_apart_and_cost_no_more_than_short_ones(bus: EventBus) -> None:
    async with bus.open():
        assert await bus.publish("job", {}, dedupe_key="x" * 60_000)
        assert not await bus.publish("job", {}, dedupe_key="x" * 60_000)
        assert not await bus.claim("x" * 60_000, 60)
        tracemalloc.start()
        try:
            for number in range(200):
                assert await bus.claim(f"{number}{'x' * 60_000}", 60)
            assert tracemalloc.get_traced_memory()[0] < 60_000 * 20
        finally:
            tracemalloc.stop()


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


async def test_a_single_consumer_gets_everything_in_the_order_in_which_it_was_accepted(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        for n in range(200):
            if n % 3:
                bus.publish_nowait("job", {"n": n})
            else:
                await bus.publish("job", {"n": n})
        assert [delivery.data["n"] for delivery in await take(deliveries, 200)] == list(range(200))


async def test_consumers_that_wait_begin_in_order(bus: EventBus) -> None:
    begun: list[int] = []

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            begun.append(delivery.data["n"])
            await checkpoint()
            await delivery.ack()

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        for _ in range(10):
            workers.start_soon(work, deliveries)
        await anyio.wait_all_tasks_blocked()
        for n in range(100):
            bus.publish_nowait("job", {"n": n})
        with anyio.fail_after(LIMIT):
            await bus.drain()
        workers.cancel_scope.cancel()
    assert begun == list(range(100))


async def test_many_publishers_at_once_lose_nothing(bus: EventBus) -> None:
    async def publish(begin: int) -> None:
        for n in range(begin, begin + 20):
            assert await bus.publish("job", {"n": n})

    async with bus.open(), bus.consume() as deliveries:
        async with anyio.create_task_group() as publishers:
            for begin in range(0, 1000, 20):
                publishers.start_soon(publish, begin)
        seen = await take(deliveries, 1000)
    assert sorted(delivery.data["n"] for delivery in seen) == list(range(1000))
    assert len({delivery.id for delivery in seen}) == 1000


async def test_of_many_publications_of_one_key_one_is_accepted(bus: EventBus) -> None:
    accepted: list[bool] = []

    async def publish() -> None:
        accepted.append(await bus.publish("job", {}, dedupe_key="k"))

    async with bus.open():
        async with anyio.create_task_group() as publishers:
            for _ in range(50):
                publishers.start_soon(publish)
        assert accepted.count(True) == 1
        assert accepted.count(False) == 49


async def test_a_replayed_delivery_may_fail_and_die_again(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        for attempt in range(1, 4):
            [delivery] = await take(deliveries, 1)
            assert delivery.attempt == 1
            await delivery.nack()
            [delivery] = await take(deliveries, 1)
            assert delivery.attempt == 2
            await delivery.dead(f"round {attempt}")
            [letter] = await bus.dead_letters()
            assert (letter.why, letter.attempt) == (f"round {attempt}", 2)
            assert await bus.replay(letter.id)


async def test_a_dead_letter_that_many_replay_at_once_is_replayed_once(bus: EventBus) -> None:
    answers: list[bool] = []

    async def replay(letter_id: str) -> None:
        answers.append(await bus.replay(letter_id))

    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
        await delivery.dead("no luck")
        [letter] = await bus.dead_letters()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(replay, letter.id)
        [again] = await take(deliveries, 1)
        await again.ack()
        with anyio.fail_after(LIMIT):
            await bus.drain()
    assert sorted(answers) == [False] * 4 + [True]


async def test_a_delivery_is_settled_once(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
        await delivery.ack()
        await delivery.ack()
        with anyio.fail_after(LIMIT):
            await bus.drain()


async def test_a_bus_that_closes_accepts_nothing(bus: EventBus) -> None:
    async with bus.open():
        assert list(bus.take_undone()) == []
        with pytest.raises(EventBusClosed, match="closing"):
            await bus.publish("job", {})
        with pytest.raises(EventBusClosed, match="closing"):
            bus.publish_nowait("job", {})
    assert bus.capacity == 0


async def test_a_bus_that_works_has_no_failure(bus: EventBus) -> None:
    assert bus.failure is None
    async with bus.open():
        assert bus.failure is None
        assert bus.capacity > 1


async def test_data_is_what_json_has(bus: EventBus) -> None:
    data = {"body": {"text": "\ud83d Кошка", "n": 1.5, "deep": [{"a": None}, True]}, "source": ""}
    bus.check("job", data)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("\ud83d job", data, dedupe_key="\ud83d")
        assert not await bus.publish("job", data, dedupe_key="\ud83d")
        [delivery] = await take(deliveries, 1)
        assert delivery.data == data


async def test_cancelled_publishers_leave_whole_deliveries_or_none_and_the_bus_in_order(bus: EventBus) -> None:
    async with bus.open(), bus.consume() as deliveries:
        for steps in range(30):
            async with anyio.create_task_group() as publishers:
                for n in range(3):
                    publishers.start_soon(bus.publish, "job", {"n": n})
                for _ in range(steps % 10):
                    await checkpoint()
                publishers.cancel_scope.cancel()
        await bus.publish("last", {})
        name = ""
        while name != "last":
            [delivery] = await take(deliveries, 1)
            name = delivery.name
            await delivery.ack()
        with anyio.fail_after(LIMIT):
            await bus.drain()
