"""Services that share a Redis: each agent's sessions and events are its own, by its name.

Keys in Redis are read as they are, since their names are what other versions and services meet.
"""

from __future__ import annotations

import anyio
import pytest
from loopback.redis import RedisServer

from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.session import RedisSessionStore
from definable.agent.trigger import Cron, TriggerEvent
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio


async def test_agents_of_two_names_do_not_read_each_others_sessions(redis: RedisServer) -> None:
    sales, support = (
        Agent("offline", name=name, sessions=RedisSessionStore(redis.url)) for name in ("sales", "support team")
    )
    await sales.arun("a secret", session_id="s1")
    assert await support.sessions.load("s1") is None
    output = await support.arun("hello", session_id="s1")
    assert [message.content for message in output.messages if message.role == "user"] == ["hello"]
    assert redis.number("EXISTS", "{definable:sales}:session:s1", "{definable:support%20team}:session:s1") == 2


async def test_replicas_of_one_name_share_sessions(redis: RedisServer) -> None:
    first, second = (Agent("offline", name="sales", sessions=RedisSessionStore(redis.url)) for _ in range(2))
    await first.arun("hello", session_id="s1")
    assert await second.sessions.load("s1") is not None


async def test_a_prefix_is_what_it_was_whatever_the_name(redis: RedisServer) -> None:
    agent = Agent("offline", name="sales", sessions=RedisSessionStore(redis.url, prefix="mine"))
    await agent.arun("hello", session_id="s1")
    await Agent("offline", sessions=RedisSessionStore(redis.url)).arun("hello", session_id="s2")
    assert redis.number("EXISTS", "{mine}:session:s1", "{definable}:session:s2") == 2


async def test_two_services_each_fire_their_own_cron_jobs(redis: RedisServer) -> None:
    fired: dict[str, int] = {"sales": 0, "support": 0}
    all_fired = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for name in fired:
            agent = Agent("offline", name=name, bus=RedisBus(redis.url))

            @agent.on(Cron("* * * * * *"))
            async def tick(event: TriggerEvent, name: str = name) -> None:
                fired[name] += 1
                if min(fired.values()) >= 2:
                    all_fired.set()

            await tasks.start(
                lambda task_status, agent=agent: agent.aserve(enable_server=False, task_status=task_status)
            )
        with anyio.fail_after(20):
            await all_fired.wait()
        tasks.cancel_scope.cancel()
    assert max(fired.values()) - min(fired.values()) <= 1


@pytest.mark.parametrize("part", ["sessions", "bus"])
def test_one_store_for_agents_of_two_names_needs_a_prefix(part: str, redis: RedisServer) -> None:
    shared = RedisSessionStore(redis.url) if part == "sessions" else RedisBus(redis.url)
    Agent("offline", name="sales", **{part: shared})
    with pytest.raises(ConfigurationError, match=r"'sales' and no name.*prefix="):
        Agent("offline", **{part: shared})
