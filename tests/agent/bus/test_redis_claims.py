"""What a replica claims from Redis: what it can begin; and what becomes of the rest, and of messages that nothing
comes of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from loopback.redis import RedisServer

from definable.agent import Agent
from definable.agent.bus import Delivery, RedisBus
from definable.agent.bus.base import Parkable, Submission
from definable.agent.bus.writes import MAX_BATCH_BYTES
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import StorageError

pytestmark = pytest.mark.anyio

LIMIT = 20.0
"""Seconds that a test may hang."""

LEASE = 0.6
"""Seconds."""


async def take(deliveries: AsyncIterator[Delivery], count: int = 1) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


async def eventually(condition: Any) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_name_is_claimed_as_far_as_it_is_granted_in_its_order_and_all_else_freely(redis: RedisServer) -> None:
    bus, other = RedisBus(redis.url), RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        bus.grant_name("limited", 2)
        for number in range(20):
            await bus.publish(("limited", "free")[number % 2], {"n": number})
        found = await take(deliveries, 12)
        assert [each.data["n"] for each in found if each.name == "limited"] == [0, 2]
        assert [each.data["n"] for each in found if each.name == "free"] == list(range(1, 20, 2))
        await eventually(lambda: redis.ask("HGET", "{definable}:parked", "limited") == b"$1\r\n8\r\n")
        await bus.publish("limited", {"n": 20})
        bus.grant_name("limited", 3)
        assert [each.data["n"] for each in await take(deliveries, 3)] == [4, 6, 8]
        async with other.open(), other.consume() as others:  # which has no limit
            rest = await take(others, 6)
            assert [(each.data["n"], each.attempt) for each in rest] == [(n, 1) for n in (10, 12, 14, 16, 18, 20)]
            for each in rest:
                await each.ack()
        for each in found:
            await each.ack()
        await bus.dead_letters()
        assert redis.number("EXISTS", "{definable}:parked") == 0


async def test_what_a_process_that_dies_had_claimed_from_a_limited_name_moves_on(redis: RedisServer) -> None:
    bus, other = RedisBus(redis.url, lease=LEASE), RedisBus(redis.url, lease=LEASE)
    async with bus.open(), bus.consume() as deliveries:
        bus.grant_name("job", 0)
        await bus.publish("job", {"n": 1})
        async with anyio.create_task_group() as group:
            group.start_soon(anext, deliveries)
            await eventually(lambda: redis.number("EXISTS", "{definable}:parked"))
            bus.grant_name("job", 1)
            await eventually(lambda: redis.number("XLEN", "{definable}:limited"))
            group.cancel_scope.cancel()
        assert bus._queue is not None
        bus._queue.store.consumer.renew = anyio.sleep_forever  # type: ignore[attr-defined]
        async with other.open(), other.consume() as others:
            [again] = await take(others)
            assert (again.attempt, again.data) == (2, {"n": 1})
            await again.ack()
            await other.dead_letters()
    assert redis.number("XLEN", "{definable}:limited") == 0


async def test_what_has_no_handler_here_is_left_to_a_replica_that_has_one_and_is_a_dead_letter_in_the_end(
    redis: RedisServer,
) -> None:
    old, new = RedisBus(redis.url), RedisBus(redis.url, unknown_ttl=1.5)
    async with old.open(), old.consume() as olds, anyio.create_task_group() as group:
        old.only_names(["old"])
        group.start_soon(anext, olds)
        for number in range(5):
            await old.publish("new", {"n": number})
        await eventually(lambda: redis.number("EXISTS", "{definable}:parked"))
        async with new.open(), new.consume() as news:
            new.only_names(["old", "new"])
            found = await take(news, 5)
            assert sorted((each.data["n"], each.attempt) for each in found) == [(n, 1) for n in range(5)]
            for each in found:
                await each.ack()
            await old.publish("nobody's", {})
            group.start_soon(anext, news)
            await eventually(lambda: redis.number("HLEN", "{definable}:dead") == 1)
            [letter] = await new.dead_letters()
            assert (letter.name, letter.why) == ("nobody's", "no handler is registered for 'nobody's'")
            group.cancel_scope.cancel()


async def test_two_services_on_one_redis_leave_each_others_events_alone(redis: RedisServer) -> None:
    handled: list[str] = []

    def service(name: str) -> Agent:
        async def handler(event: TriggerEvent) -> None:
            handled.append(f"{name} {event.attempt}")

        handler.__qualname__ = name
        agent = Agent("offline", bus=RedisBus(redis.url))
        agent.on(EventTrigger(name))(handler)
        return agent

    one, two = service("one"), service("two")
    async with one.running(enable_server=False) as first, two.running(enable_server=False):
        for _ in range(20):
            await one.aemit("one")
            await two.aemit("two")
        await eventually(lambda: len(handled) == 40)
        assert await first.bus.dead_letters() == []
    assert sorted(handled) == ["one 1"] * 20 + ["two 1"] * 20


async def test_a_message_of_which_nothing_comes_is_a_dead_letter(redis: RedisServer) -> None:
    poison = RedisBus(redis.url, lease=LEASE)
    async with poison.open():
        await poison.publish("poison", {})
    claims = 0
    for _ in range(3):
        dying = RedisBus(redis.url, lease=LEASE, max_deliveries=3)
        with anyio.CancelScope() as death:
            async with dying.open(), dying.consume() as deliveries:
                [delivery] = await take(deliveries)
                claims += 1
                assert delivery.attempt == claims
                assert dying._queue is not None
                store = dying._queue.store
                store.consumer.renew = anyio.sleep_forever  # type: ignore[attr-defined]

                async def die(held: Any) -> None: ...

                store.close = die  # type: ignore[method-assign]
                death.cancel()
    bus = RedisBus(redis.url, lease=LEASE, max_deliveries=3)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        group.start_soon(anext, deliveries)
        await eventually(lambda: redis.number("HLEN", "{definable}:dead") == 1)
        [letter] = await bus.dead_letters()
        assert (letter.name, letter.attempt) == ("poison", 3)
        group.cancel_scope.cancel()


async def test_what_is_parked_and_what_an_orderly_stop_gives_back_is_counted_as_what_it_is(redis: RedisServer) -> None:
    for number in range(4):
        bus = RedisBus(redis.url, max_deliveries=2)
        async with bus.open(), bus.consume() as deliveries:
            if not number:
                await bus.publish("begun", {})
                await bus.publish("parked", {})
            found = {each.name: each for each in await take(deliveries, 2)}
            assert {name: each.attempt for name, each in found.items()} == {"begun": number + 1, "parked": 1}
            parked = found["parked"]
            assert isinstance(parked, Parkable)
            parked.park()


async def test_a_batch_has_a_bound_in_bytes_and_one_event_that_redis_refuses_fails_alone(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    bus = RedisBus(own_redis.url, timeout=10)
    outcomes: dict[str, object] = {}

    async def publish(name: str, size: int) -> None:
        try:
            outcomes[name] = await bus.publish(name, {"x": "y" * size})
        except StorageError as error:
            outcomes[name] = error

    async with bus.open(), bus.consume() as deliveries:
        own_redis.ask("CONFIG", "SET", "proto-max-bulk-len", str(2 * MAX_BATCH_BYTES))
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(publish, f"small {number}", 1000)
                group.start_soon(publish, f"large {number}", MAX_BATCH_BYTES // 2)
            group.start_soon(publish, "refused", 3 * MAX_BATCH_BYTES)
        refused = outcomes.pop("refused")
        assert isinstance(refused, StorageError)
        assert all(outcome is True for outcome in outcomes.values())
        bus.publish_nowait("refused", {"x": "y" * 3 * MAX_BATCH_BYTES})
        bus.publish_nowait("after", {})
        names = [each.name for each in await take(deliveries, 21)]
        assert sorted(names) == sorted([*outcomes, "after"])
        assert bus.failure is None
    assert [left.name for left in bus.take_undone()] == ["refused"]
    assert "an event for refused (3145736 bytes) was not accepted" in caplog.text


async def test_submissions_are_accepted_together_and_later_ones_wait_and_may_be_withdrawn(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        accepted = await bus.publish_many(
            [
                Submission("now", {"n": 1}, dedupe_key="k"),
                Submission("now", {"n": 2}, dedupe_key="k"),
                Submission("later", {"n": 3}, delay=0.3),
                Submission("never", {"n": 4}, delay=0.2, key="reminder"),
                Submission("replaced", {"n": 5}, delay=0.2, key="other"),
            ]
        )
        assert accepted == [True, False, True, True, True]
        assert await bus.cancel("reminder")
        assert not await bus.cancel("reminder")
        await bus.publish_many([Submission("replacement", {"n": 6}, delay=0.4, key="other")])
        assert [each.name for each in await take(deliveries, 3)] == ["now", "later", "replacement"]
        assert not await bus.cancel("other")


async def test_a_read_waits_until_quick_handlers_ask_for_more(redis: RedisServer) -> None:
    """Else one read brings nearly as many as there are workers, the next one the few that were asked for then."""
    agent, handled = Agent("offline", bus=RedisBus(redis.url)), list[int]()
    may_end = anyio.Event()

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        await may_end.wait()
        handled.append(event.body["n"])

    async with agent.running(enable_server=False, event_workers=100):
        for n in range(1_100):
            agent.emit("job", {"n": n})
        await eventually(lambda: redis.number("XLEN", "{definable}:line") == 1_100)
        redis.ask("CONFIG", "RESETSTAT")
        may_end.set()
        await eventually(lambda: len(handled) == 1_100)
        stats = redis.ask("INFO", "commandstats").decode()
    [reads] = re.findall(r"cmdstat_xreadgroup:calls=(\d+)", stats)
    assert int(reads) <= 22  # twelve, and one each second; it was more than thirty
