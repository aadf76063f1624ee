"""A connection that is dead although nobody says so: it is replaced at the first time-out, and the caller served."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from loopback.redis import RedisServer
from loopback.redis_proxy import proxied

from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.session import RedisSessionStore, Session
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import StorageError
from definable.testing import served

pytestmark = pytest.mark.anyio

LIMIT = 30.0
"""Seconds that a test may hang."""


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_session_store_asks_again_on_a_new_connection_within_its_timeout(redis: RedisServer) -> None:
    async with proxied(redis.port) as proxy:
        store = RedisSessionStore(proxy.url)
        async with store.open():
            await store.save(Session("s", "ann"))
            for ask in (lambda: store.load("s"), lambda: store.delete("s")):
                proxy.forget_all()
                assert await ask()
            assert store.failure is None
        assert proxy.connections == 3


async def test_a_dead_connection_is_replaced_also_when_all_callers_give_up_before(redis: RedisServer) -> None:
    async with proxied(redis.port) as proxy:
        store = RedisSessionStore(proxy.url, timeout=2.5)
        async with store.open():
            await store.save(Session("s", "ann"))
            proxy.forget_all()
            with anyio.move_on_after(0.05) as impatient:
                await store.load("s")
            assert impatient.cancelled_caught
            await eventually(lambda: store.failure is not None)
            await eventually(lambda: store.failure is None)
            assert await store.load("s") == Session("s", "ann")
        assert proxy.connections == 2


async def test_a_bus_on_dead_connections_accepts_and_hands_out_long_before_a_lease_is_over(redis: RedisServer) -> None:
    async with proxied(redis.port) as proxy:
        bus = RedisBus(proxy.url, lease=3600, timeout=2.5)
        async with bus.open(), bus.consume() as deliveries:
            assert await bus.publish("job", {"n": 0})
            await (await anext(deliveries)).ack()
            for n in range(1, 4):
                proxy.forget_all()
                assert await bus.publish("job", {"n": n})
                with anyio.fail_after(LIMIT):
                    delivery = await anext(deliveries)
                assert (delivery.data, delivery.attempt) == ({"n": n}, 1)
                await delivery.ack()
            await eventually(lambda: redis.number("XLEN", "{definable}:line") == 0)


async def test_what_was_handed_to_a_dead_connection_comes_long_before_a_lease_is_over(redis: RedisServer) -> None:
    async with proxied(redis.port) as proxy:
        bus, other = RedisBus(proxy.url, lease=3600, timeout=2.5), RedisBus(redis.url, lease=3600)
        async with bus.open(), other.open(), bus.consume() as deliveries:
            asked = anyio.Event()

            async def ask() -> None:
                asked.set()
                delivery = await anext(deliveries)
                assert (delivery.data, delivery.attempt) == ({"n": 1}, 1)
                await delivery.ack()

            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as group:
                    group.start_soon(ask)
                    await eventually(lambda: b"xreadgroup" in redis.ask("CLIENT", "LIST"))
                    proxy.forget_all()
                    assert await other.publish("job", {"n": 1})
            await eventually(lambda: redis.number("XLEN", "{definable}:line") == 0)


@pytest.mark.parametrize("what", ["hangs", "is gone"])
async def test_health_names_the_sessions_when_their_redis_fails(own_redis: RedisServer, what: str) -> None:
    agent = Agent("offline", sessions=RedisSessionStore(own_redis.url, timeout=1.0))
    async with served(agent) as service:

        async def status() -> int:
            return (await service.client.post("/run", json={"input": "hi", "session_id": "s"})).status_code

        async def children() -> object:
            return (await service.client.get("/health")).json()["children"].get("sessions")

        assert (await status(), await children()) == (200, None)
        if what == "hangs":
            with own_redis.stopped():
                assert await status() == 503
                with anyio.fail_after(LIMIT):
                    while await children() != {"state": "failing"}:
                        await anyio.sleep(0.01)
        else:
            await anyio.to_thread.run_sync(own_redis.kill)
            assert await status() == 503
            assert await children() == {"state": "failing"}
            await anyio.to_thread.run_sync(own_redis.start)
        with anyio.fail_after(LIMIT):
            while await status() != 200 or await children() is not None:
                await anyio.sleep(0.01)


async def test_a_run_on_a_dead_connection_is_answered(redis: RedisServer) -> None:
    handled = list[int]()
    async with proxied(redis.port) as proxy:
        agent = Agent("offline", bus=RedisBus(proxy.url), sessions=RedisSessionStore(proxy.url))

        @agent.on(EventTrigger("job"))
        async def job(event: TriggerEvent) -> None:
            handled.append(event.body["n"])

        async with served(agent) as service:
            for n in range(2):
                assert (await service.client.post("/run", json={"input": "hi", "session_id": "s"})).status_code == 200
                try:
                    await agent.aemit("job", {"n": n})
                except StorageError:
                    pytest.fail("a new connection would have taken it")
                proxy.forget_all()
            await eventually(lambda: handled == [0, 1])
