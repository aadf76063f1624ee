"""The primary is lost under load, with Sentinel and with Cluster: the service finds its successor, and goes on.

Redis tells its replicas after it has answered: what it accepted in the last moment may die with it, and nothing else.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from loopback.redis import RedisServer, free_port
from loopback.redis_groups import RedisCluster, SentinelGroup, is_synced, running_cluster, running_sentinels, until

from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.session import RedisSessionStore
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import StorageError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

LIMIT = 60.0
"""Seconds that a test may hang."""

LAST_MOMENT = 1.0
"""Seconds before its death in which a primary may have accepted what its replica has not."""


@pytest.fixture
def sentinels(has_redis: None, tmp_path: Path) -> Iterator[SentinelGroup]:
    with running_sentinels(tmp_path) as group:
        yield group


@pytest.fixture
def cluster(has_redis: None, tmp_path: Path) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path, "{definable}:line") as group:
        yield group


async def in_thread(function: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(function)


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.02)


class Load:
    """An agent whose events are accepted one after the other, and when."""

    def __init__(self, url: str) -> None:
        self.agent = Agent("offline", bus=RedisBus(url, lease=2), sessions=RedisSessionStore(url))
        self.accepted: dict[int, float] = {}
        self.handled: Counter[int] = Counter()
        self.refused = 0
        self.emitting = anyio.CancelScope()
        self.agent.on(EventTrigger("job"))(self.job)

    def job(self, event: TriggerEvent) -> None:
        self.handled[event.body["n"]] += 1

    async def emit(self) -> None:
        with self.emitting:
            for number in itertools.count():
                try:
                    await self.agent.aemit("job", {"n": number})
                    self.accepted[number] = anyio.current_time()
                except StorageError:
                    self.refused += 1
                await anyio.sleep(0.002)

    async def more(self, count: int = 50) -> None:
        """Return once so many more are accepted."""
        before = len(self.accepted)
        await eventually(lambda: len(self.accepted) >= before + count)

    def lost(self) -> set[int]:
        return self.accepted.keys() - self.handled.keys()


async def survives(load: Load, hand_over: Callable[[], object], kill: Callable[[], object]) -> None:
    """A failover that somebody asks for, then the death of the primary."""
    async with load.agent.running(enable_server=False) as runtime, anyio.create_task_group() as group:
        group.start_soon(load.emit)
        await load.more()
        await load.agent.arun("hi", session_id="s")
        await in_thread(hand_over)
        await load.more()
        await eventually(lambda: runtime.bus.failure is None and runtime.health()[0])
        await load.more()
        await in_thread(kill)
        died_at = anyio.current_time()
        await load.more()
        back_after = anyio.current_time() - died_at
        await eventually(lambda: runtime.health()[0])
        with anyio.fail_after(LIMIT):
            await load.agent.arun("hi", session_id="s")
        load.emitting.cancel()
        await eventually(lambda: all(died_at - load.accepted[n] < LAST_MOMENT for n in load.lost()))
        await anyio.sleep(3)  # a lease and more: what was in flight comes again
        lost = load.lost()
    assert all(0 <= died_at - load.accepted[n] < LAST_MOMENT for n in lost), lost
    repeated = sum(count - 1 for count in load.handled.values())
    sys.stdout.write(
        f"{len(load.accepted)} accepted, {len(lost)} lost of the last second before the primary's death, {repeated} "
        f"repeated, {load.refused} refused; accepting again after {back_after:.1f} s\n"
    )


async def test_sentinels_name_the_primary_and_its_successors(sentinels: SentinelGroup) -> None:
    first, second = sentinels.servers

    def hand_over() -> None:
        assert sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", "mymaster") == b"+OK\r\n"
        until(lambda: is_synced(first))

    def kill() -> None:
        sentinels.sentinels[0].kill()  # the others are a majority
        second.kill()

    await survives(Load(sentinels.url), hand_over, kill)
    assert first.number("EXISTS", "{definable}:session:s") == 1


async def test_a_cluster_is_followed_although_its_only_named_node_is_gone(cluster: RedisCluster) -> None:
    def hand_over() -> None:
        assert cluster.replica.ask("CLUSTER", "FAILOVER") == b"+OK\r\n"
        until(lambda: is_synced(cluster.owner))

    await survives(Load(cluster.owner.url), hand_over, cluster.replica.kill)
    assert cluster.owner.number("EXISTS", "{definable}:session:s") == 1


async def test_the_one_named_node_has_the_keys_and_dies(cluster: RedisCluster) -> None:
    load = Load(cluster.owner.url)
    async with load.agent.running(enable_server=False), anyio.create_task_group() as group:
        group.start_soon(load.emit)
        await load.more()
        await in_thread(cluster.owner.kill)
        await load.more()
        load.emitting.cancel()


async def test_an_agent_starts_although_the_first_named_nodes_are_gone(cluster: RedisCluster) -> None:
    where = ",".join(f"127.0.0.1:{port}" for port in (free_port(), free_port(), cluster.others[0].port))
    bus = RedisBus(f"redis+cluster://{where}")
    async with bus.open(), bus.consume() as deliveries:
        assert await bus.publish("job", {"n": 1})
        with anyio.fail_after(LIMIT):
            assert (await anext(deliveries)).data == {"n": 1}


async def test_sentinels_that_are_gone_or_know_no_such_service_are_named(redis: RedisServer) -> None:
    gone = f"127.0.0.1:{free_port()}"
    with pytest.raises(StorageError, match=f"no Sentinel names the primary: {gone}: .*; 127"):
        async with RedisBus(f"redis+sentinel://{gone},127.0.0.1:{redis.port}/mymaster", timeout=1).open():
            pass


async def test_a_redis_that_throws_keys_away_is_warned_of(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def warnings() -> list[str]:
        caplog.clear()
        agent = Agent("offline", bus=RedisBus(own_redis.url), sessions=RedisSessionStore(own_redis.url))
        async with agent.running(enable_server=False):
            pass
        return [each.getMessage() for each in caplog.records if "throws away" in each.getMessage()]

    caplog.set_level(logging.WARNING)
    own_redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert await warnings() == []  # its memory has no bound
    own_redis.ask("CONFIG", "SET", "maxmemory", "100mb")
    of_sessions, of_bus = await warnings()
    assert "RedisSessionStore" in of_sessions and "RedisBus" in of_bus and "allkeys-lru" in of_bus
    own_redis.ask("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    assert len(await warnings()) == 2
    own_redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert await warnings() == []
