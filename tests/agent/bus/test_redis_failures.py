"""A Redis that dies, hangs or is not there: the service lives on, says so, and loses nothing that was accepted.

`DEFINABLE_KILLS=20` kills Redis that often instead of three times, and has it hang for ten seconds instead of two.
"""

from __future__ import annotations

import logging
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from loopback.redis import RedisServer, free_port

from definable.agent import Agent
from definable.agent.bus import Delivery, RedisBus
from definable.agent.bus.claims import QueueDelivery
from definable.agent.bus.redis import RedisStore
from definable.agent.session import RedisSessionStore, Session
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.errors import EventBufferFull, StorageError
from definable.storage.redis_address import RedisAway
from definable.testing import served

pytestmark = pytest.mark.anyio

IS_FULL = "DEFINABLE_KILLS" in os.environ

KILLS = int(os.environ.get("DEFINABLE_KILLS", "3"))

HANGS = 10.0 if IS_FULL else 2.0
"""Seconds."""

LIMIT = 30.0
"""Seconds that a test may hang."""


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


async def eventually(condition: Any) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


def store_of(bus: RedisBus) -> RedisStore:
    assert bus._queue is not None
    store = bus._queue.store
    assert isinstance(store, RedisStore)
    return store


async def in_thread(function: Any) -> None:
    await anyio.to_thread.run_sync(function)


class Load:
    """An agent that is kept busy, and what became of its events."""

    def __init__(self, redis: RedisServer, **options: Any) -> None:
        self.agent = Agent("offline", bus=RedisBus(redis.url, **options))
        self.accepted: set[str] = set()
        self.refused = 0
        self.handled: Counter[str] = Counter()
        self.agent.on(EventTrigger("job"))(self.job)
        self.agent.on(Webhook("/now"))(lambda event: "hi")

    async def job(self, event: TriggerEvent) -> None:
        await anyio.sleep(random.uniform(0, 0.01))
        self.handled[event.body["id"]] += 1

    async def emit(self, name: str) -> None:
        number = 0
        while True:
            number += 1
            id = f"{name}.{number}"
            try:
                await self.agent.aemit("job", {"id": id})
                self.accepted.add(id)
            except StorageError:
                self.refused += 1
            await anyio.sleep(0.005)

    async def emit_nowait(self, name: str) -> None:
        number = 0
        while True:
            number += 1
            id = f"{name}.{number}"
            try:
                self.agent.emit("job", {"id": id})
                self.accepted.add(id)
            except EventBufferFull:
                self.refused += 1
            await anyio.sleep(0.005)

    def start(self, group: Any) -> None:
        for number in range(10):
            group.start_soon(self.emit, f"a{number}")
        group.start_soon(self.emit_nowait, "e")

    @property
    def missing(self) -> set[str]:
        return self.accepted - self.handled.keys()


@pytest.mark.timeout(60 + 3 * KILLS)
async def test_redis_is_killed_under_load_and_nothing_is_lost(own_redis: RedisServer) -> None:
    load = Load(own_redis, lease=2)
    async with load.agent.running(enable_server=False) as runtime:
        async with anyio.create_task_group() as emitters:
            load.start(emitters)
            for _ in range(KILLS):
                await anyio.sleep(random.uniform(0.1, 0.6))
                await in_thread(own_redis.kill)
                await eventually(lambda: runtime.bus.failure is not None)
                assert not runtime.health()[0]
                await in_thread(own_redis.start)
                await eventually(lambda: runtime.bus.failure is None)
            await anyio.sleep(0.3)
            emitters.cancel_scope.cancel()
        await eventually(lambda: not load.missing)
        assert runtime.health()[0]
    repeats = sum(count - 1 for count in load.handled.values())
    sys.stdout.write(
        f"{KILLS} kills of Redis: {len(load.accepted)} accepted, 0 lost, {repeats} repeated, {load.refused} refused\n"
    )
    assert len(load.accepted) > 20 * KILLS
    assert repeats <= 2 * 20 * KILLS
    assert runtime.report is not None and runtime.report.clean


@pytest.mark.timeout(60 + 3 * HANGS)
@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_the_service_answers_while_redis_is_away_and_its_health_tells(own_redis: RedisServer, how: str) -> None:
    load = Load(own_redis, lease=2, timeout=0.5)
    answers: Counter[int] = Counter()
    health: list[int] = []

    async def ask(service: Any) -> None:
        while True:
            answers[(await service.client.post("/now", json={})).status_code] += 1
            health.append((await service.client.get("/health")).status_code)
            await anyio.sleep(0.01)

    async with served(load.agent) as service:
        async with anyio.create_task_group() as group:
            load.start(group)
            group.start_soon(ask, service)
            await anyio.sleep(0.3)
            if how == "hangs":
                with own_redis.stopped():
                    await anyio.sleep(HANGS)
            else:
                await in_thread(own_redis.kill)
                await anyio.sleep(HANGS)
                await in_thread(own_redis.start)
            before = len(load.accepted)
            await eventually(lambda: health[-1] == 200 and len(load.accepted) > before + 10)
            group.cancel_scope.cancel()
        await eventually(lambda: not load.missing)
    assert set(answers) == {200}
    assert sum(answers.values()) > HANGS  # a busy machine gives few
    assert {200, 503} == set(health)
    assert load.refused > 0
    assert service.runtime.report is not None and service.runtime.report.clean


async def test_a_delivery_whose_claim_was_not_answered_may_come_again(own_redis: RedisServer) -> None:
    agent, handled = Agent("offline", bus=RedisBus(own_redis.url, timeout=0.3)), list[str]()

    @agent.on(Webhook("/hook", dedupe="X-Delivery"))
    async def hook(event: TriggerEvent) -> None:
        handled.append(event.headers["X-Delivery"])

    async with served(agent) as service:
        with own_redis.stopped():
            first = await service.client.post("/hook", headers={"X-Delivery": "1"})
        assert (first.status_code, handled) == (503, [])
        await eventually(lambda: agent.runtime is not None and agent.runtime.bus.failure is None)
        again = await service.client.post("/hook", headers={"X-Delivery": "1"})
        assert (again.json(), handled) == ({"status": "ok"}, ["1"])
        third = await service.client.post("/hook", headers={"X-Delivery": "1"})
        assert (third.json(), handled) == ({"status": "duplicate"}, ["1"])


async def test_a_cron_job_whose_time_comes_while_redis_is_away_fires_when_it_is_back(own_redis: RedisServer) -> None:
    agent, fired = Agent("offline", bus=RedisBus(own_redis.url, timeout=0.3)), list[float]()
    soon = datetime.now(UTC) + timedelta(seconds=6)  # a busy machine starts slowly
    once_a_year = f"{soon:%M %H %d %m} * {soon:%S}"

    @agent.on(Cron(once_a_year))
    async def job(event: TriggerEvent) -> None:
        fired.append(event.timestamp)

    async with agent.running(enable_server=False) as runtime:
        await in_thread(own_redis.kill)
        await eventually(runtime.cron_loop.failed.total)
        await in_thread(own_redis.start)
        await eventually(lambda: fired)
    assert fired == [soon.replace(microsecond=0).timestamp()]


async def test_publish_waits_for_a_redis_that_comes_back(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries:
        await in_thread(own_redis.kill)
        await eventually(lambda: bus.failure is not None)
        accepted: list[bool] = []

        async def publish() -> None:
            accepted.append(await bus.publish("job", {}, dedupe_key="k"))

        async with anyio.create_task_group() as group:
            group.start_soon(publish)
            await anyio.sleep(0.2)
            assert accepted == []
            await in_thread(own_redis.start)
        assert accepted == [True]
        await take(deliveries, 1)


async def test_a_claim_whose_caller_is_gone_is_nobodys(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    async with bus.open():
        redis.ask("CLIENT", "PAUSE", "500")
        with anyio.move_on_after(0.1) as scope:
            await bus.claim("k", 60)
        assert scope.cancelled_caught
        assert await bus.publish("job", {})  # once Redis answers again
        assert await bus.claim("k", 60)
        assert not await bus.claim("k", 60)


async def test_what_a_hanging_redis_was_asked_to_claim_and_to_release_is_free_when_it_is_back(
    own_redis: RedisServer,
) -> None:
    bus = RedisBus(own_redis.url, timeout=1.0)
    async with bus.open():
        assert await bus.claim("held", 60)
        with own_redis.stopped():
            for call in (bus.claim("new", 60), bus.release("held")):
                with pytest.raises(StorageError):
                    await call
        await eventually(lambda: bus.failure is None)
        assert await bus.publish("job", {})
        assert await bus.claim("new", 60)
        assert await bus.claim("held", 60)


async def test_every_claim_fails_in_time_while_redis_is_away(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url, timeout=0.2)
    async with bus.open():
        await in_thread(own_redis.kill)
        await eventually(lambda: bus.failure is not None)
        for key in ("one", "another"):
            with (
                anyio.fail_after(LIMIT / 3),
                pytest.raises(StorageError, match=r"Redis at redis://127\.0\.0\.1:\d+/0: "),
            ):
                await bus.claim(key, 60)


async def test_publish_fails_clearly_when_redis_stays_away_and_then_accepted_nothing(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url, timeout=0.2)
    async with bus.open(), bus.consume() as deliveries:
        await in_thread(own_redis.kill)
        await eventually(lambda: bus.failure is not None)
        for call in (
            lambda: bus.publish("job", {}, dedupe_key="k"),
            lambda: bus.claim("k2", 60),
            lambda: bus.release("k2"),
            bus.dead_letters,
            lambda: bus.replay("x"),
        ):
            with pytest.raises(StorageError, match=r"Redis at redis://127\.0\.0\.1:\d+/0: "):
                await call()
        with pytest.raises(StorageError, match="the event was not accepted"):
            await bus.publish("job", {})
        bus.publish_nowait("kept", {})
        await in_thread(own_redis.start)
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["kept"]
        assert await bus.publish("job", {}, dedupe_key="k")


async def test_a_batch_whose_answer_got_lost_is_written_once(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries:
        store = store_of(bus)
        link, call, lost = store._commands, store._script.call, [3]

        async def losing(function: str, *args: Any, **options: Any) -> Any:
            answer = await call(function, *args, **options)
            if function == "apply" and lost[0]:
                lost[0] -= 1
                assert link is not None
                link._connection.invalidate()
                raise RedisAway("the answer got lost")
            return answer

        store._script.call = losing  # type: ignore[method-assign]
        assert await bus.publish("job", {"n": 1}, dedupe_key="k")
        assert not await bus.publish("job", {"n": 1}, dedupe_key="k")
        assert lost == [0]
        assert own_redis.number("XLEN", "{definable}:line") == 1
        await take(deliveries, 1)


async def test_a_redis_that_has_forgotten_everything_is_set_up_again(
    own_redis: RedisServer,
) -> None:
    bus = RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("job", {})
        await take(deliveries, 1)
        own_redis.ask("FLUSHALL")
        own_redis.ask("SCRIPT", "FLUSH")
        assert await bus.publish("job", {"n": 2})
        assert [delivery.data for delivery in await take(deliveries, 1)] == [{"n": 2}]


async def test_a_stop_finishes_what_is_in_hand_when_redis_has_forgotten_everything(redis: RedisServer) -> None:
    agent = Agent("offline", bus=RedisBus(redis.url))
    began, ends, done = anyio.Event(), anyio.Event(), list[int]()

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        began.set()
        await ends.wait()
        await anyio.sleep(0.2)
        done.append(event.body["n"])

    with anyio.fail_after(LIMIT):
        async with agent.running(enable_server=False, event_workers=1, shutdown_timeout=LIMIT) as runtime:
            await agent.aemit("job", {"n": 1})
            await began.wait()
            redis.ask("FLUSHALL")
            ends.set()
    assert done == [1]
    assert runtime.report is not None and runtime.report.clean
    assert runtime.report.duration < LIMIT / 3


async def test_a_redis_that_is_full_refuses_and_is_said_and_what_was_accepted_waits(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url, timeout=0.2)
    async with bus.open(), bus.consume() as deliveries:
        own_redis.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StorageError, match="maxmemory"):
            await bus.publish("refused", {})
        assert "maxmemory" in str(bus.failure)
        bus.publish_nowait("kept", {})
        own_redis.ask("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: bus.failure is None)
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["kept"]


async def test_a_redis_that_is_full_hands_out_what_waits_and_keeps_leases_and_claims(own_redis: RedisServer) -> None:
    bus, other = RedisBus(own_redis.url, lease=0.6), RedisBus(own_redis.url, lease=0.6)
    async with bus.open(), bus.consume() as deliveries, other.open(), other.consume() as others:
        for name in ("in hand", "waits"):
            await bus.publish(name, {})
        await take(deliveries, 1)
        assert await bus.claim("k", 60)
        own_redis.ask("CONFIG", "SET", "maxmemory", "1")
        await anyio.sleep(1.5)
        with anyio.fail_after(LIMIT / 3):
            assert (await anext(others)).name == "waits"
        with anyio.move_on_after(1):
            await anext(others)
            raise AssertionError("what is in hand was taken")
        own_redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert not await other.claim("k", 60)


async def test_what_is_done_is_told_to_a_redis_that_is_full_though_it_refuses_what_is_new(
    own_redis: RedisServer,
) -> None:
    bus = RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries:
        for _ in range(3):
            await bus.publish("old", {})
        jobs = await take(deliveries, 3)
        own_redis.ask("CONFIG", "SET", "maxmemory", "1")
        bus.publish_nowait("new", {})
        await eventually(lambda: bus.failure is not None)
        await jobs[0].ack()
        await jobs[1].dead("no luck")
        await jobs[2].nack(3600)
        await eventually(lambda: own_redis.number("XLEN", "{definable}:line") == 0)
        assert bus.failure is not None
        own_redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert [delivery.name for delivery in await take(deliveries, 1)] == ["new"]
        assert [letter.name for letter in await bus.dead_letters()] == ["old"]


async def test_leases_are_not_taken_from_those_who_could_not_renew_them_since_redis_refused(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    if not own_redis.ask("EVAL", "return redis.call('SET', 'k', '')", "0").startswith(b"-"):
        pytest.skip("before Redis 7 a script writes all the same")
    own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
    bus, other = RedisBus(own_redis.url), RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries, other.open(), other.consume() as others:
        await bus.publish("job", {})
        [job] = await take(deliveries, 1)
        assert isinstance(job, QueueDelivery) and isinstance(job.handle, bytes)
        consumer, longer_than_a_lease = store_of(bus).opening, "40000"
        claim = ("XCLAIM", "{definable}:line", "workers", consumer, "0", job.handle, "IDLE", longer_than_a_lease)
        own_redis.ask_at_once(claim, ("CONFIG", "SET", "min-replicas-to-write", "1"))
        with anyio.move_on_after(4):
            async with anyio.create_task_group() as group:
                group.start_soon(allow_soon, own_redis, caplog)
                taken = await anext(others)
                raise AssertionError(f"attempt {taken.attempt} was begun, and attempt {job.attempt} is under way")


async def allow_soon(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    await eventually(lambda: "nothing can be claimed at present" in caplog.text)
    redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")


async def test_dead_letters_are_listed_also_when_redis_has_evicted_what_they_were(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries:
        for name in ("evicted", "kept"):
            await bus.publish(name, {})
            [job] = await take(deliveries, 1)
            await job.dead("no luck")
            assert [letter.name for letter in await bus.dead_letters()] == [name]
            if name == "evicted":
                own_redis.ask("DEL", "{definable}:dead")


async def test_a_redis_that_takes_no_writes_is_asked_again_with_backoff(own_redis: RedisServer) -> None:
    bus = RedisBus(own_redis.url)
    async with bus.open(), bus.consume() as deliveries:
        own_redis.ask("REPLICAOF", "127.0.0.1", f"{free_port()}")
        before = connections_of(own_redis)
        with anyio.move_on_after(3):
            await anext(deliveries)
        assert connections_of(own_redis) - before < 30
        own_redis.ask("REPLICAOF", "NO", "ONE")
        await eventually(lambda: bus.failure is None)
        assert await bus.publish("job", {})
        await take(deliveries, 1)


def connections_of(redis: RedisServer) -> int:
    """How many there ever were."""
    return redis.number("CLIENT", "ID")


async def test_an_agent_does_not_start_without_its_redis() -> None:
    bus = RedisBus(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=r"Redis at redis://127\.0\.0\.1:\d+/0: .*"):
        async with Agent("offline", bus=bus).running(enable_server=False):
            pass


async def test_a_stop_without_redis_is_bounded_and_counts_what_is_lost(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    load = Load(own_redis)
    began = 0.0
    with anyio.fail_after(LIMIT):
        async with load.agent.running(enable_server=False, shutdown_timeout=0.5) as runtime:
            await load.agent.aemit("job", {"id": "before"})
            await eventually(lambda: load.handled["before"])
            await anyio.sleep(0.1)
            await in_thread(own_redis.kill)
            await eventually(lambda: runtime.bus.failure is not None)
            for number in range(5):
                load.agent.emit("job", {"id": f"{number}"})
            began = anyio.current_time()
    assert anyio.current_time() - began < 10
    assert runtime.report is not None
    assert (runtime.report.completed, runtime.report.never_started) == (1, 5)


async def test_sessions_fail_clearly_and_come_back(own_redis: RedisServer) -> None:
    store = RedisSessionStore(own_redis.url, timeout=0.3)
    async with store.open():
        await store.save(Session("s", "ann"))
        await in_thread(own_redis.kill)
        with pytest.raises(StorageError, match="Redis at redis://"):
            await store.load("s")
        await in_thread(own_redis.start)
        with anyio.fail_after(LIMIT):
            while True:
                try:
                    loaded = await store.load("s")
                    break
                except StorageError:
                    await anyio.sleep(0.05)
        assert loaded == Session("s", "ann")


async def test_any_node_of_a_cluster_leads_to_the_one_that_keeps_the_keys(tmp_path: Path) -> None:
    first, second = (cluster_node(tmp_path / name) for name in ("first", "second"))
    try:
        await in_thread(first.start)
        await in_thread(second.start)
        slot = first.number("CLUSTER", "KEYSLOT", "{definable}:line")
        others = [str(number) for number in range(16384) if number != slot]
        assert first.ask("CLUSTER", "ADDSLOTS", *others) == b"+OK\r\n"
        assert second.ask("CLUSTER", "ADDSLOTS", str(slot)) == b"+OK\r\n"
        assert first.ask("CLUSTER", "MEET", "127.0.0.1", str(second.port)) == b"+OK\r\n"
        with anyio.fail_after(LIMIT):
            for node in (first, second):
                while b"cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
                    await anyio.sleep(0.1)
        bus = RedisBus(first.url)
        async with bus.open(), bus.consume() as deliveries:
            assert await bus.publish("job", {"n": 1}, dedupe_key="k")
            [delivery] = await take(deliveries, 1)
            await delivery.nack(0.01)
            [delivery] = await take(deliveries, 1)
            await delivery.dead("why")
            assert len(await bus.dead_letters()) == 1
        store = RedisSessionStore(first.url)
        async with store.open():
            await store.save(Session("s", "ann"))
            assert await store.load("s") == Session("s", "ann")
        assert second.number("DBSIZE") > 1
        assert first.number("DBSIZE") == 0
    finally:
        first.kill()
        second.kill()


def cluster_node(directory: Path) -> RedisServer:
    directory.mkdir()
    server = RedisServer(directory, "--cluster-enabled", "yes")
    while server.port > 55_000:  # the cluster's own port is this one plus 10,000
        server.port = free_port()
    return server
