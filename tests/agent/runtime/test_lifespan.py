"""`Agent(lifespan=...)`: what is open around serving."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from definable.agent import Agent
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.errors import ConfigurationError
from definable.testing import served

pytestmark = pytest.mark.anyio

LIMIT = 10.0


class Pool:
    """A client with a task of its own."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @asynccontextmanager
    async def open(self, agent: Agent) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            self.steps.append(f"opened for {agent.name}")
            yield
            self.steps.append("closed")
            group.cancel_scope.cancel()


def agent_of(pool: Pool, **options: object) -> Agent:
    agent = Agent("offline", lifespan=pool.open, **options)

    @agent.on(Webhook("/hook"))
    async def hook(event: TriggerEvent) -> None:
        pool.steps.append("used")

    return agent


async def test_it_is_open_from_before_the_first_request_to_after_the_last() -> None:
    pool = Pool()
    with anyio.fail_after(LIMIT):
        async with served(agent_of(pool, name="bot")) as target:
            await target.client.post("/hook", json={})
    assert pool.steps == ["opened for bot", "used", "closed"]


async def test_it_is_open_without_a_server() -> None:
    pool, handled = Pool(), anyio.Event()
    agent = Agent("offline", lifespan=pool.open)

    @agent.on(EventTrigger("x"))
    async def handle(event: TriggerEvent) -> None:
        pool.steps.append("used")
        handled.set()

    with anyio.fail_after(LIMIT):
        async with agent.running(enable_server=False):
            agent.emit("x")
            await handled.wait()
    assert pool.steps == ["opened for agent", "used", "closed"]


async def test_under_a_foreign_server() -> None:
    pool = Pool()
    with anyio.fail_after(LIMIT):
        async with agent_of(pool).asgi().lifespan():
            assert pool.steps == ["opened for agent"]
    assert pool.steps == ["opened for agent", "closed"]


async def test_an_async_generator_function_will_do() -> None:
    steps: list[str] = []

    async def lifespan(agent: Agent) -> AsyncGenerator[None]:
        steps.append("opened")
        yield
        steps.append("closed")

    with anyio.fail_after(LIMIT):
        async with Agent("offline", lifespan=lifespan).running(enable_server=False):
            pass
    assert steps == ["opened", "closed"]


async def test_what_fails_to_open_fails_the_start() -> None:
    @asynccontextmanager
    async def lifespan(agent: Agent) -> AsyncGenerator[None]:
        raise ConnectionRefusedError("no database")
        yield

    with anyio.fail_after(LIMIT), pytest.raises(ConnectionRefusedError, match="no database"):
        async with Agent("offline", lifespan=lifespan).running(port=0, host="127.0.0.1"):
            pass


async def test_it_closes_also_when_serving_is_cancelled() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(agent: Agent) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await anyio.lowlevel.checkpoint()
            steps.append("closed")

    agent = Agent("offline", lifespan=lifespan)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            await group.start(agent.aserve)
            group.cancel_scope.cancel()
    assert steps == ["closed"]


def test_what_is_no_lifespan_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="asynccontextmanager"):
        Agent("offline", lifespan=Pool())  # type: ignore[arg-type]
