"""What is the Redis bus's own: leases, keys and delays that replicas share, and what it leaves in Redis."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
import trio.testing
from anyio.lowlevel import checkpoint
from loopback.redis import RedisServer

from definable.agent import Agent
from definable.agent.bus import Delivery, EventBufferFull, EventBusClosed, RedisBus
from definable.agent.bus.dedupe import digest
from definable.agent.bus.queue import DEFAULT_BUFFER
from definable.agent.bus.redis import MAX_PUBLICATIONS, RedisStore
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError, MissingExtra, StorageError
from definable.storage.redis_address import RedisAddress
from definable.storage.redis_link import linked

pytestmark = pytest.mark.anyio

LIMIT = 20.0
"""Seconds that a test may hang."""

LEASE = 0.6
"""Seconds, where a test waits for it to end."""


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


async def eventually(condition: Any) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


def in_line(redis: RedisServer) -> int:
    return redis.number("XLEN", "{definable}:line")


def store_of(bus: RedisBus) -> RedisStore:
    assert bus._queue is not None
    store = bus._queue.store
    assert isinstance(store, RedisStore)
    return store


async def hang(bus: RedisBus) -> Callable[[], None]:
    """As a process that is stuck: its lease is not renewed any more, until what is returned is called."""
    consumer, back = store_of(bus).consumer, anyio.Event()
    renew = consumer.renew

    async def when_back() -> None:
        await back.wait()
        await renew()

    def go_on() -> None:
        consumer.renew = renew  # type: ignore[method-assign]
        back.set()

    consumer.renew = when_back  # type: ignore[method-assign]
    with anyio.fail_after(LIMIT):
        await anyio.sleep(LEASE / 2)
    return go_on


# --- leases


async def test_what_a_dead_process_had_in_hand_moves_on_as_the_next_attempt(redis: RedisServer) -> None:
    dead, other = RedisBus(redis.url, lease=LEASE), RedisBus(redis.url, lease=LEASE)
    async with dead.open(), dead.consume() as deliveries:
        await dead.publish("job", {"n": 1})
        [first] = await take(deliveries, 1)
        await hang(dead)
        async with other.open(), other.consume() as deliveries:
            began = anyio.current_time()
            [second] = await take(deliveries, 1)
            assert anyio.current_time() - began < 2 * LEASE + 1
            assert (second.id, second.attempt, second.data) == (first.id, 2, {"n": 1})
            await second.ack()
    assert in_line(redis) == 0


async def test_heartbeats_keep_the_lease_of_a_long_handler(redis: RedisServer) -> None:
    holder, other = RedisBus(redis.url, lease=LEASE), RedisBus(redis.url, lease=LEASE)
    async with holder.open(), holder.consume() as deliveries, other.open(), other.consume() as others:
        await holder.publish("long", {})
        [delivery] = await take(deliveries, 1)
        with anyio.move_on_after(4 * LEASE):
            await anext(others)
            pytest.fail("the lease was lost")
        assert delivery.lease is not None and not delivery.lease.cancel_called
        await delivery.ack()
    assert in_line(redis) == 0


async def test_a_heartbeat_does_not_take_back_what_somebody_else_has(redis: RedisServer) -> None:
    slow, other = RedisBus(redis.url, lease=LEASE), RedisBus(redis.url, lease=LEASE)
    async with slow.open(), slow.consume() as deliveries:
        await slow.publish("job", {})
        [lost] = await take(deliveries, 1)
        renew = store_of(slow).consumer.renew
        await hang(slow)
        async with other.open(), other.consume() as others:
            [delivery] = await take(others, 1)
            await renew()
            assert lost.lease is not None and lost.lease.cancel_called
            await lost.nack()  # nobody listens: it is not this one's any more
            await lost.dead("late")
            await slow.dead_letters()
            await anyio.sleep(2 * LEASE)
            assert not delivery.lease.cancel_called  # type: ignore[union-attr]
            assert in_line(redis) == 1
            await delivery.ack()
        assert await slow.dead_letters() == []
    assert in_line(redis) == 0


async def test_what_is_lost_before_anybody_takes_it_is_not_handed_out_any_more(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    slow, other = RedisBus(redis.url, lease=LEASE), RedisBus(redis.url, lease=LEASE)
    async with slow.open(), slow.consume() as deliveries, other.open(), other.consume() as others:
        queue, store = slow._queue, store_of(slow)
        assert queue is not None
        async with anyio.create_task_group() as group:
            group.start_soon(anext, deliveries)
            await eventually(lambda: store.is_taking)
            await anyio.sleep(0.05)  # the read has come to Redis
            group.cancel_scope.cancel()  # who has asked goes, and what comes stays in hand
        await slow.publish("job", {"n": 1})
        await eventually(lambda: queue.claims.held)
        [untaken] = queue.claims._held.values()
        go_on = await hang(slow)
        [taken] = await take(others, 1)
        assert (taken.id, taken.attempt) == (untaken.id, 2)
        go_on()
        await eventually(lambda: not queue.claims.held)
        assert f"the lease of delivery {taken.id} (job) is lost" in caplog.text
        assert untaken.lease is not None and untaken.lease.cancel_called
        await other.publish("job", {"n": 2})
        [next_one] = await take(deliveries, 1)
        assert (next_one.data, next_one.attempt) == ({"n": 2}, 1)
        await taken.ack()
        await next_one.ack()
    assert in_line(redis) == 0


class Replica:
    """A process whose handler never comes to the end of a first attempt."""

    def __init__(self, name: str, url: str, ends: list[str], **options: Any) -> None:
        self.name = name
        self.ends = ends
        self.agent = Agent("offline", bus=RedisBus(url, lease=LEASE))
        self.agent.on(EventTrigger("job", **options))(self.job)

    async def job(self, event: TriggerEvent) -> None:
        try:
            if event.attempt == 1:
                await anyio.sleep_forever()
            self.ends.append(f"{self.name} did attempt {event.attempt}")
        except anyio.get_cancelled_exc_class():
            self.ends.append(f"{self.name} was cut off")
            raise


async def test_a_lost_lease_cancels_the_handler_that_held_it_and_the_report_leaves_it_to_the_other(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []
    stuck, other = Replica("stuck", redis.url, ends), Replica("other", redis.url, ends)
    with anyio.fail_after(LIMIT):
        async with stuck.agent.running(enable_server=False) as first:
            await stuck.agent.aemit("job")
            await eventually(lambda: first.tracker.active())
            go_on = await hang(first.bus)
            async with other.agent.running(enable_server=False) as second:
                await eventually(lambda: ends)
                go_on()
                await eventually(lambda: len(ends) == 2)
    assert ends == ["other did attempt 2", "stuck was cut off"]
    assert first.workers.lost == 1
    assert first.report is not None and second.report is not None
    assert first.report.clean
    assert (first.report.completed, first.report.cancelled, first.report.never_started) == (0, 0, 0)
    assert second.report.completed == 1
    assert "was cut off: the lease of delivery" in caplog.text


async def test_what_waits_behind_a_limit_is_begun_by_another_replica(redis: RedisServer) -> None:
    ends: list[str] = []
    stuck, other = Replica("stuck", redis.url, ends, max_concurrency=1), Replica("other", redis.url, ends)
    with anyio.fail_after(LIMIT):
        async with stuck.agent.running(enable_server=False, shutdown_timeout=0.1) as first:
            for _ in range(20):
                await stuck.agent.aemit("job")
            await eventually(lambda: first.tracker.active())
            await eventually(lambda: redis.ask("HGET", "{definable}:parked", key_of(first)) == b"$2\r\n19\r\n")
            async with other.agent.running(enable_server=False, event_workers=50, shutdown_timeout=0.1) as second:
                await eventually(lambda: second.tracker.active() == 19)
    assert first.report is not None and second.report is not None
    assert (first.report.cancelled, second.report.cancelled) == (1, 19)
    assert ends.count("stuck was cut off") == 1


def key_of(runtime: AgentRuntime) -> str:
    [key] = [key for key in runtime.triggers.by_key if key.startswith("event")]
    return key


async def test_what_a_closed_bus_had_in_hand_is_with_others_at_once(redis: RedisServer) -> None:
    leaving, staying = RedisBus(redis.url), RedisBus(redis.url)
    async with staying.open(), staying.consume() as others:
        async with leaving.open(), leaving.consume() as deliveries:
            for n in range(3):
                await leaving.publish("job", {"n": n})
            await take(deliveries, 3)
        began = anyio.current_time()
        again = await take(others, 3)
        assert anyio.current_time() - began < 2.5
        assert [(delivery.data["n"], delivery.attempt) for delivery in again] == [(0, 2), (1, 2), (2, 2)]
    with pytest.raises(EventBusClosed, match="handed out again"):
        await again[0].ack()


async def test_nothing_is_taken_that_nobody_asked_for(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(10):
            await bus.publish("job", {"n": n})
        await take(deliveries, 2)
        assert redis.ask("XPENDING", "{definable}:line", "workers").startswith(b"*4\r\n:2\r\n")


# --- over replicas


async def test_each_event_is_handled_by_one_replica(redis: RedisServer) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}

    async def work(bus: RedisBus, mine: list[int]) -> None:
        async with bus.consume() as deliveries:
            async for delivery in deliveries:
                await anyio.sleep(0.002)
                mine.append(delivery.data["n"])
                await delivery.ack()

    async with AsyncExitStack() as stack:
        buses = {name: RedisBus(redis.url) for name in seen}
        for bus in buses.values():
            await stack.enter_async_context(bus.open())
        async with anyio.create_task_group() as workers:
            for name, bus in buses.items():
                for _ in range(4):
                    workers.start_soon(work, bus, seen[name])
            for n in range(300):
                buses["a"].publish_nowait("job", {"n": n})
            await eventually(lambda: sum(map(len, seen.values())) >= 300)
            workers.cancel_scope.cancel()
    assert sorted(n for mine in seen.values() for n in mine) == list(range(300))
    assert all(len(mine) > 20 for mine in seen.values())
    assert in_line(redis) == 0


async def test_a_key_is_taken_for_all_replicas(redis: RedisServer) -> None:
    accepted: list[bool] = []
    async with AsyncExitStack() as stack:
        buses = [RedisBus(redis.url) for _ in range(3)]
        for bus in buses:
            await stack.enter_async_context(bus.open())

        async def publish(bus: RedisBus) -> None:
            accepted.append(await bus.publish("tick", {}, dedupe_key="job@12.000"))

        async with anyio.create_task_group() as publishers:
            for bus in buses * 5:
                publishers.start_soon(publish, bus)
        assert accepted.count(True) == 1
        assert in_line(redis) == 1
        assert not await buses[1].claim("job@12.000", 60)
        await buses[2].release("job@12.000")
        assert await buses[1].claim("job@12.000", 60)
        assert not await buses[0].publish("tick", {}, dedupe_key="job@12.000")


def test_a_key_that_redis_has_forgotten_is_free_also_on_the_next_event_loop(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)

    async def publish_one() -> None:
        async with bus.open():
            assert bus.publish_nowait("job", {}, dedupe_key="once", dedupe_ttl=0.01)

    for begins_at in (1000.0, 0.0):  # trio's clock begins anywhere with every run
        clock = trio.testing.MockClock(rate=1.0)
        clock.jump(begins_at)
        anyio.run(publish_one, backend="trio", backend_options={"clock": clock})


async def test_of_a_process_that_died_what_it_had_claimed_is_forgotten_and_what_it_published_is_not(
    redis: RedisServer,
) -> None:
    dead, other = RedisBus(redis.url, lease=LEASE), RedisBus(redis.url, lease=LEASE)
    async with other.open():
        async with dead.open():
            assert await dead.claim("claimed", 3600)
            assert await dead.publish("job", {}, dedupe_key="published")
            assert not await other.claim("claimed", 3600)
            await hang(dead)
            await anyio.sleep(LEASE)
            assert await other.claim("claimed", 3600)
            assert not await other.publish("job", {}, dedupe_key="published")
    async with dead.open():
        assert not await dead.claim("claimed", 3600), "who closes in order keeps its claims"


async def test_attempts_are_counted_over_delays_and_replicas(redis: RedisServer) -> None:
    first, second = RedisBus(redis.url), RedisBus(redis.url)
    async with second.open():
        async with first.open(), first.consume() as deliveries:
            await first.publish("job", {"body": "\ud83d"})
            [delivery] = await take(deliveries, 1)
            await delivery.nack(0.3)
            await first.dead_letters()  # all is told
            assert in_line(redis) == 0
            assert redis.number("ZCARD", "{definable}:later") == 1
        async with second.consume() as deliveries:
            [delivery] = await take(deliveries, 1)
            assert (delivery.attempt, delivery.data) == (2, {"body": "\ud83d"})
            await delivery.nack(0)
            [delivery] = await take(deliveries, 1)
            assert delivery.attempt == 3
            await delivery.dead("no luck")
    async with first.open(), first.consume() as deliveries:
        [letter] = await first.dead_letters()
        assert (letter.attempt, letter.why, letter.data) == (3, "no luck", {"body": "\ud83d"})
        assert await first.replay(letter.id)
        assert [again.attempt for again in await take(deliveries, 1)] == [1]


async def test_services_with_prefixes_of_their_own_share_nothing(redis: RedisServer) -> None:
    ours, theirs = RedisBus(redis.url, prefix="ours"), RedisBus(redis.url, prefix="theirs")
    async with ours.open(), theirs.open(), theirs.consume() as deliveries:
        await ours.publish("job", {"whose": "ours"}, dedupe_key="k")
        assert await theirs.publish("job", {"whose": "theirs"}, dedupe_key="k")
        assert [delivery.data["whose"] for delivery in await take(deliveries, 1)] == ["theirs"]


# --- what it leaves in Redis


async def test_every_key_has_the_hash_tag_and_what_is_done_leaves_nothing(redis: RedisServer) -> None:
    bus = RedisBus(redis.url, prefix="tag")
    async with bus.open(), bus.consume() as deliveries:
        await bus.claim("claimed", 1)
        for n in range(300):
            bus.publish_nowait("job", {"n": n}, dedupe_key=f"{n}", dedupe_ttl=60)
        for number, delivery in enumerate(await take(deliveries, 300)):
            await (delivery.ack() if number else delivery.dead("why"))
        [late] = [await bus.publish("later", {})]
        [late] = await take(deliveries, 1)
        await late.nack(60)
    names = redis.ask("EVAL", "return table.concat(redis.call('KEYS', '*'), '\\n')", "0").split(b"\r\n")[1].split(b"\n")
    assert len(names) > 300
    assert {name.partition(b":")[0] for name in names} == {b"{tag}"}
    assert redis.number("XLEN", "{tag}:line") == 0
    assert b"consumers\r\n:0" in redis.ask("EVAL", CONSUMERS, "0")


FORMER = """
local line, later = '{definable}:line', '{definable}:later'
local call, now = redis.call, redis.call('TIME')[1] * 1000
call('XGROUP', 'CREATE', line, 'workers', '0', 'MKSTREAM')
call('XADD', line, '*', 'i', 'held', 'n', 'job', 'd', '{"n":1}')
call('XADD', line, '*', 'i', 'given back', 'n', 'job', 'd', '{"n":2}', 'a', 1)
local claimed = call('XREADGROUP', 'GROUP', 'workers', 'died', 'COUNT', 2, 'STREAMS', line, '>')[1][2]
call('XCLAIM', line, 'workers', 'died', 0, claimed[1][1], 'IDLE', 3600000, 'RETRYCOUNT', 1, 'JUSTID')
call('XCLAIM', line, 'workers', '-', 0, claimed[2][1], 'IDLE', 3600000, 'RETRYCOUNT', 1, 'JUSTID')
call('XADD', line, '*', 'i', 'waits', 'n', 'job', 'd', '{"n":3}')
call('ZADD', later, now - 1, cmsgpack.pack({'due', 'job', '{"n":4}', 2}))
call('HSET', '{definable}:dead', 'dead', cmsgpack.pack({'job', '{"n":5}', 3, 'no luck', 1700000000000}))
call('ZADD', '{definable}:dead:order', 1, 'dead')
call('SET', '{definable}:key:' .. ARGV[1], 'an id', 'PX', 60000)
"""
"""What the version of commit 55040d3 left in Redis: its scripts' own commands."""


async def test_what_the_former_version_left_in_redis_is_read(redis: RedisServer) -> None:
    assert redis.ask("EVAL", FORMER, "0", digest("taken")) == b"$-1\r\n"
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        assert not await bus.publish("job", {}, dedupe_key="taken")
        [letter] = await bus.dead_letters()
        assert (letter.name, letter.data, letter.attempt, letter.why) == ("job", {"n": 5}, 3, "no luck")
        assert letter.died_at == 1_700_000_000
        assert await bus.replay("dead")
        found = await take(deliveries, 5)
        assert sorted((each.data["n"], each.id, each.attempt) for each in found) == [
            (1, "held", 2), (2, "given back", 3), (3, "waits", 1), (4, "due", 3), (5, "dead", 1)
        ]  # fmt: skip
        for delivery in found:
            await delivery.ack()
    assert in_line(redis) == 0


CONSUMERS = "return 'consumers\\r\\n:' .. #redis.call('XINFO', 'CONSUMERS', '{tag}:line', 'workers')"


async def test_consumers_that_died_and_hold_nothing_are_forgotten(redis: RedisServer) -> None:
    redis.ask("XGROUP", "CREATE", "{tag}:line", "workers", "0", "MKSTREAM")
    redis.ask("XGROUP", "CREATECONSUMER", "{tag}:line", "workers", "died-long-ago")
    async with RedisBus(redis.url, prefix="tag").open():
        assert b":0" in redis.ask("EVAL", CONSUMERS, "0")


async def test_only_the_last_dead_letters_are_kept(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        redis.ask("EVAL", "for i = 1, 9998 do redis.call('ZADD', KEYS[1], i, i) end", "1", "{definable}:dead:order")
        for n in range(5):
            bus.publish_nowait("job", {"n": n})
        for delivery in await take(deliveries, 5):
            await delivery.dead("why")
        assert [letter.data["n"] for letter in await bus.dead_letters()] == [0, 1, 2, 3, 4]
        assert redis.number("ZCARD", "{definable}:dead:order") == 10_000


async def test_an_entry_that_is_no_event_of_ours_is_dropped_and_said(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        redis.ask("XADD", "{definable}:line", "*", "hello", "world")
        await bus.publish("job", {})
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["job"]
        await bus.dead_letters()
        assert in_line(redis) == 1
    assert "is no event of ours" in caplog.text


async def test_the_dead_letters_of_an_idle_bus_are_told_at_once(redis: RedisServer) -> None:
    bus = RedisBus(redis.url, timeout=5 * LIMIT)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
        await delivery.dead("why")
        for _ in range(2):
            with anyio.fail_after(LIMIT):
                [letter] = await bus.dead_letters()
            assert letter.why == "why"


async def test_more_events_than_one_turn_tells_arrive_in_order_though_the_last_was_withdrawn(
    redis: RedisServer,
) -> None:
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        for n in range(MAX_PUBLICATIONS):
            bus.publish_nowait("job", {"n": n})
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.publish("withdrawn", {})
        assert [delivery.data["n"] for delivery in await take(deliveries, MAX_PUBLICATIONS)] == [
            *range(MAX_PUBLICATIONS)
        ]
        assert in_line(redis) == MAX_PUBLICATIONS
        assert bus.capacity == DEFAULT_BUFFER


# --- connections


async def test_two_hundred_cancelled_reads_cost_no_connection(redis: RedisServer) -> None:
    """coredis's own pool loses a place for every blocked read that is cancelled (6.9), and hangs after 64."""
    bus = RedisBus(redis.url)
    async with bus.open(), bus.consume() as deliveries:
        await checkpoint()
        before = redis.ask("CLIENT", "LIST").count(b"cmd=")
        for _ in range(200):
            with anyio.move_on_after(0.002):
                await anext(deliveries)
        store = store_of(bus)
        for link in (store._commands, store.consumer._reads):
            assert link is not None
            with anyio.fail_after(LIMIT):
                assert await link.call(b"PING") in (b"PONG", "PONG")
        assert redis.ask("CLIENT", "LIST").count(b"cmd=") == before
        with anyio.fail_after(LIMIT):
            await bus.publish("job", {})
        [delivery] = await take(deliveries, 1)
        await delivery.ack()
        assert delivery.attempt == 1


async def test_what_was_accepted_is_told_before_the_bus_is_closed_also_when_cancelled(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    with anyio.CancelScope() as scope:
        async with bus.open(), bus.consume() as deliveries:
            await bus.publish("held", {})
            [held] = await take(deliveries, 1)
            for n in range(2_000):
                bus.publish_nowait("job", {"n": n})
            scope.cancel()
            await held.ack()
    assert in_line(redis) == 2_000
    await anyio.sleep(0.05)
    assert redis.ask("CLIENT", "LIST").count(b"cmd=") == 1


async def test_a_full_buffer_says_so_and_accepts_nothing(redis: RedisServer) -> None:
    bus = RedisBus(redis.url, buffer=2)
    async with bus.open(), bus.consume() as deliveries:
        bus.publish_nowait("a", {})
        bus.publish_nowait("b", {})
        assert bus.capacity == 0
        with pytest.raises(EventBufferFull, match=r"full \(2 wait for Redis\)"):
            bus.publish_nowait("c", {}, dedupe_key="k")
        with anyio.fail_after(LIMIT):
            await bus.publish("d", {})
        assert bus.publish_nowait("c", {}, dedupe_key="k")
        assert [delivery.name for delivery in await take(deliveries, 4)] == ["a", "b", "d", "c"]


async def test_a_bus_is_opened_once(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    async with bus.open():
        with pytest.raises(ConfigurationError, match="open already"):
            async with bus.open():
                pass
    async with bus.open():
        assert await bus.publish("job", {})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"buffer": 0}, "buffer=0"),
        ({"lease": 0}, "lease=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"prefix": ""}, "prefix=''"),
        ({"prefix": "{a}"}, "without braces"),
        ({"url": "http://localhost"}, "a Redis URL is redis://"),
        ({"url": "redis://"}, "a Redis URL is redis://"),
        ({"url": "redis://localhost/events"}, "a Redis URL is redis://"),
    ],
)
def test_a_wrong_argument_is_an_error_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RedisBus(**options)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@127.0.0.1:1/0",
        "redis://user:s3cret@127.0.0.1:1",
        "redis://127.0.0.1:1/0?password=s3cret",
        "unix://:s3cret@/nowhere/redis.sock",
    ],
)
async def test_a_password_is_never_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bus = RedisBus(url, timeout=0.1)
    with pytest.raises(StorageError) as caught:
        async with bus.open():
            pass
    assert "s3cret" not in repr(bus) + repr(caught.value) + caplog.text
    assert "Redis at " in str(caught.value)


def test_nor_in_the_error_about_a_url_that_is_none() -> None:
    for url in ("redis://user:s3cret/x@host", "redis://user:s3:cret@host:port", "s3cret"):
        with pytest.raises(ConfigurationError) as caught:
            RedisBus(url)
        assert "s3" not in str(caught.value) and caught.value.__suppress_context__


async def test_a_password_that_is_wrong_or_missing_is_said_when_it_is_opened(redis: RedisServer) -> None:
    redis.ask("CONFIG", "SET", "requirepass", "right/1")
    try:
        for url in (redis.url, redis.url.replace("//", "//:s3cret@")):
            with pytest.raises(StorageError, match=r"(?i)auth|pass") as caught:
                async with RedisBus(url).open():
                    pass
            assert "s3cret" not in str(caught.value)
        async with RedisBus(redis.url.replace("//", "//:right%2F1@")).open():
            pass
    finally:
        link = RedisAddress(redis.url.replace("//", "//:right%2F1@"), "test")
        async with linked(link, timeout=5) as connection:
            await connection.call(b"CONFIG SET", "requirepass", "")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("definable.storage.redis_address.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"RedisBus needs coredis: pip install definable\[redis\]"):
        RedisBus()


def test_coredis_is_loaded_when_the_bus_is_opened() -> None:
    code = "from definable.agent.bus import RedisBus; import sys; RedisBus(); print('coredis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "False"


async def test_a_drain_ends_soon_while_others_keep_the_line_full_and_leaves_theirs_to_them(redis: RedisServer) -> None:
    leaving, other = RedisBus(redis.url), RedisBus(redis.url)
    handled: list[str] = []

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            await anyio.sleep(0.01)
            handled.append(delivery.name)
            await delivery.ack()

    async def publish() -> None:
        while True:
            await other.publish("theirs", {})

    with anyio.fail_after(LIMIT):
        async with leaving.open(), leaving.consume() as deliveries, other.open(), anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(work, deliveries)
            tasks.start_soon(publish)
            await eventually(lambda: len(handled) > 50)
            for _ in range(10):
                await leaving.publish("mine", {})
            await leaving.drain()
            assert handled.count("mine") == 10
            count = len(handled)
            await anyio.sleep(0.1)
            assert len(handled) == count
            tasks.cancel_scope.cancel()


async def test_an_opening_that_is_cancelled_on_its_way_ends(redis: RedisServer) -> None:
    for steps in range(100):
        opening = anyio.CancelScope()

        async def cancel(steps: int = steps, opening: anyio.CancelScope = opening) -> None:
            for _ in range(steps):
                await checkpoint()
            opening.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            with opening:
                async with RedisBus(redis.url).open():
                    await anyio.sleep_forever()
