"""Answers of Redis that are not of the shape that was asked for: failures of the storage, which pass; nothing ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from loopback.redis import RedisServer
from loopback.redis_proxy import proxied, whole_answer

from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.bus.redis_script import READERS
from definable.agent.session import RedisSessionStore, Session
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import StorageError
from definable.model import Message
from definable.testing import served

pytestmark = pytest.mark.anyio

ODD: dict[str, Callable[[bytes], bytes]] = {
    "nil": lambda answer: b"_\r\n",
    "nil of RESP2": lambda answer: b"$-1\r\n",
    "a number": lambda answer: b":7\r\n",
    "a string": lambda answer: b"$3\r\nodd\r\n",
    "an empty list": lambda answer: b"*0\r\n",
    "a list too long": lambda answer: b"*9\r\n" + b":1\r\n" * 9,
    "a map": lambda answer: b"%1\r\n$1\r\na\r\n:1\r\n",
    "a truth": lambda answer: b"#t\r\n",
    "nothing": lambda answer: b"",
    "twice": lambda answer: answer * 2,
    "no RESP": lambda answer: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an error": lambda answer: b"-ERR unknown command\r\n",
}

SERVED = ("nil", "a number", "a list too long", "nothing")
"""Those that a served agent is put to: it takes seconds."""


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.01)


def test_the_proxy_knows_where_an_answer_ends() -> None:
    for answer in (
        b"+OK\r\n",
        b":1\r\n",
        b"$3\r\n\r\n1\r\n",
        b"$-1\r\n",
        b"_\r\n",
        b"*2\r\n$1\r\na\r\n*0\r\n",
        b"%1\r\n+a\r\n:1\r\n",
    ):
        assert whole_answer(answer + b":2\r\n") == len(answer)
        assert [whole_answer(answer[:end]) for end in range(len(answer))] == [None] * len(answer)


@pytest.mark.parametrize("odd", [ODD[name] for name in SERVED], ids=SERVED)
async def test_a_served_agent_lives_through_odd_answers_and_loses_nothing(odd: Any, redis: RedisServer) -> None:
    """All answers are odd for a while, then one in five: events are refused or handled, and the service goes on."""
    async with proxied(redis.port) as proxy:
        handled: set[int] = set()
        accepted: set[int] = set()
        agent = Agent(
            "offline",
            bus=RedisBus(proxy.url, timeout=0.3, lease=1.0),
            sessions=RedisSessionStore(proxy.url, timeout=0.3),
        )

        @agent.on(EventTrigger("job"))
        async def job(event: TriggerEvent) -> None:
            handled.add(event.body["n"])

        async def accept(numbers: range) -> None:
            for n in numbers:
                with anyio.move_on_after(0.4):
                    try:
                        await agent.aemit("job", {"n": n})
                        accepted.add(n)
                    except StorageError:
                        pass

        chance = random.Random(1)
        async with served(agent, enable_server=True, shutdown_timeout=10) as service:
            await accept(range(5))
            await eventually(lambda: handled >= accepted)
            proxy.alter = odd
            await accept(range(10, 13))
            for _ in range(2):
                response = await service.client.post("/run", json={"input": "hi", "session_id": "s"})
                assert response.status_code in (200, 503)
            proxy.alter = lambda answer: odd(answer) if chance.random() < 0.2 else answer
            await accept(range(20, 26))
            proxy.alter = None
            while (await service.client.get("/health")).status_code != 200:
                await anyio.sleep(0.05)
            await accept(range(30, 35))
            while (await service.client.post("/run", json={"input": "hi", "session_id": "s"})).status_code != 200:
                await anyio.sleep(0.05)
            assert accepted >= set(range(30, 35))
            await eventually(lambda: handled >= accepted)
        assert proxy.altered > 0


@pytest.mark.parametrize(
    "odd", [odd for name, odd in ODD.items() if name != "twice"], ids=[n for n in ODD if n != "twice"]
)
async def test_a_bus_that_cannot_be_opened_says_so(odd: Any, redis: RedisServer) -> None:
    async with proxied(redis.port) as proxy:
        proxy.alter = odd
        with pytest.raises(StorageError, match="Redis at redis://127"):
            async with RedisBus(proxy.url, timeout=0.3).open():
                pass


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_a_session_store_answers_with_a_storage_error(odd: Any, redis: RedisServer) -> None:
    async with proxied(redis.port) as proxy:
        store = RedisSessionStore(proxy.url, timeout=0.3)
        session = Session("s", "ann", (Message("user", "hi"),))
        async with store.open():
            await store.save(session)
            proxy.alter = odd
            for _ in range(2):
                for ask in (lambda: store.load("s"), lambda: store.save(session), lambda: store.delete("other")):
                    try:
                        await ask()
                    except StorageError:
                        pass
            proxy.alter = None
            with anyio.fail_after(5):
                while True:
                    try:
                        await store.save(session)
                        assert await store.load("s") == session
                        break
                    except StorageError:
                        await anyio.sleep(0.05)


@pytest.mark.parametrize(
    "answer", [None, 7, b"odd", [], [1] * 9, {b"a": 1}, True, [None, None, None], "text", [[b"a"]]]
)
def test_a_script_reads_an_odd_answer_or_says_that_it_is_odd(answer: Any) -> None:
    for read in READERS:
        try:
            read(answer)
        except ValueError:
            pass
