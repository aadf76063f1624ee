"""Tasks that a handler started and left behind: no rights of accepted work, and no bound gives way to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from definable.agent import Agent
from definable.agent.bus import EventBusClosed, SQLiteBus
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


@pytest.fixture(params=["memory", "sqlite"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Agent:
    return Agent("offline", bus=SQLiteBus(tmp_path / "bus.db") if request.param == "sqlite" else None)


@asynccontextmanager
async def served(agent: Agent, *interfaces: BaseInterface, **options: Any) -> AsyncGenerator[AgentRuntime, None]:
    with anyio.fail_after(5000):
        async with agent.running(*interfaces, enable_server=False, **options) as runtime:
            yield runtime


@asynccontextmanager
async def outside_group() -> AsyncGenerator[TaskGroup, None]:
    """A task group of the program's own, which outlives serving and is cancelled at the end."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


# --- a stop


async def tick_until_refused(emit: Callable[[], Awaitable[None]], outcomes: list[str]) -> None:
    while True:
        try:
            await emit()
        except EventBusClosed as refused:
            outcomes.append(str(refused))
            return
        await anyio.sleep(0.01)


@pytest.mark.parametrize("verb", ["emit", "aemit", "fire"])
async def test_a_ticker_that_a_handler_left_behind_is_refused_once_a_stop_begins(agent: Agent, verb: str) -> None:
    outcomes: list[str] = []
    tick_trigger = EventTrigger("tick")
    stop_began = 0.0

    async def emit() -> None:
        if verb == "emit":
            agent.emit("tick")
        elif verb == "aemit":
            await agent.aemit("tick")
        else:
            await runtime.fire(tick_trigger)

    async def start(event: TriggerEvent) -> None:
        group.start_soon(tick_until_refused, emit, outcomes)

    async def tick(event: TriggerEvent) -> None:
        await anyio.sleep(0.02)

    agent.on(EventTrigger("start"))(start)
    agent.on(tick_trigger)(tick)
    async with outside_group() as group:
        async with served(agent, shutdown_timeout=60) as runtime:
            agent.emit("start")
            await anyio.sleep(1)
            assert outcomes == []
            stop_began = anyio.current_time()
        assert anyio.current_time() - stop_began < 5
        assert runtime.report is not None
        assert runtime.report.clean, str(runtime.report)
        assert len(outcomes) == 1
        assert "the agent is stopping" in outcomes[0]


async def test_a_handler_may_emit_to_its_end_while_a_stop_drains_also_from_its_own_tasks(agent: Agent) -> None:
    seen: list[str] = []
    draining = anyio.Event()

    async def start(event: TriggerEvent) -> None:
        await draining.wait()
        agent.emit("seen", "itself")
        async with anyio.create_task_group() as own:
            own.start_soon(agent.aemit, "seen", "its task")
        await anyio.to_thread.run_sync(agent.emit, "seen", "its thread")

    async def see(event: TriggerEvent) -> None:
        seen.append(event.body["data"])

    agent.on(EventTrigger("start"))(start)
    agent.on(EventTrigger("seen"))(see)
    async with anyio.create_task_group() as group:
        async with served(agent, shutdown_timeout=60) as runtime:
            agent.emit("start")
            await anyio.sleep(1)

            async def say() -> None:
                await runtime.draining.wait()
                draining.set()

            group.start_soon(say)
    assert runtime.report is not None
    assert runtime.report.clean
    assert sorted(seen) == ["its task", "its thread", "itself"]


async def test_work_of_one_agent_is_not_accepted_work_of_another() -> None:
    other, agent = Agent("offline"), Agent("offline")
    outcomes: list[str] = []

    async def tick(event: TriggerEvent) -> None:
        async def emit() -> None:
            other.emit("tick")

        await tick_until_refused(emit, outcomes)

    async def take(event: TriggerEvent) -> None: ...

    agent.on(EventTrigger("start"))(tick)
    other.on(EventTrigger("tick"))(take)
    async with served(agent):
        async with served(other, shutdown_timeout=60) as runtime:
            agent.emit("start")
            await anyio.sleep(1)
        assert runtime.report is not None
        assert runtime.report.clean
        assert runtime.report.duration < 5
        await anyio.sleep(1)
        assert len(outcomes) == 1


class Chat(BaseInterface):
    """Delivers one message; its answer starts a task that it leaves behind."""

    def __init__(self, on_send: Callable[[], None]) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="chat"))
        self.on_send = on_send

    async def receive(self, accept: Accept) -> None:
        await accept(InterfaceMessage("chat", "ann", "home", "1", text="hello"))
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.on_send()


async def test_what_an_answered_chat_message_left_behind_is_refused_too(agent: Agent) -> None:
    outcomes: list[str] = []

    async def emit() -> None:
        agent.emit("nobody")

    async with outside_group() as group:
        chat = Chat(lambda: group.start_soon(tick_until_refused, emit, outcomes))
        async with served(agent, chat, shutdown_timeout=60) as runtime:
            await anyio.sleep(1)
        assert runtime.report is not None
        assert runtime.report.duration < 5
        await anyio.sleep(1)
        assert len(outcomes) == 1


# --- the bound


async def test_producers_that_a_handler_left_behind_wait_for_room_like_everybody() -> None:
    agent, accepted = Agent("offline"), list[int]()

    async def produce() -> None:
        with suppress(EventBusClosed):  # it waits until the bus is closed
            for number in range(200):
                await agent.aemit("x", number)
                accepted.append(number)

    @agent.on(EventTrigger("start"))
    async def start(event: TriggerEvent) -> None:
        for _ in range(20):
            group.start_soon(produce)

    @agent.on(EventTrigger("x"))
    async def x(event: TriggerEvent) -> None:
        await anyio.sleep_forever()

    async with outside_group() as group:
        async with served(agent, event_buffer=10, event_workers=2, shutdown_timeout=0.2):
            agent.emit("start")
            await anyio.sleep(60)
            assert len(accepted) == 12  # the buffer, and one in each worker's hands


async def test_calls_that_one_handler_gathers_are_one_worker_that_waits() -> None:
    agent, accepted = Agent("offline"), list[int]()

    async def produce() -> None:
        for number in range(200):
            await agent.aemit("x", number)
            accepted.append(number)

    @agent.on(EventTrigger("start"))
    async def start(event: TriggerEvent) -> None:
        async with anyio.create_task_group() as own:
            for _ in range(20):
                own.start_soon(produce)

    @agent.on(EventTrigger("x"))
    async def x(event: TriggerEvent) -> None:
        await anyio.sleep_forever()

    async with served(agent, event_buffer=10, event_workers=2, shutdown_timeout=0.2):
        agent.emit("start")
        await anyio.sleep(60)
        assert len(accepted) == 11  # the other worker is busy, which is no reason to exceed the bound


async def test_a_left_behind_call_that_waits_does_not_make_its_former_worker_count_as_waiting() -> None:
    agent, accepted, busy = Agent("offline"), list[str](), anyio.Event()

    async def produce(name: str) -> None:
        with suppress(EventBusClosed):  # it waits until the bus is closed
            await agent.aemit("x", name)
            accepted.append(name)

    @agent.on(EventTrigger("start"))
    async def start(event: TriggerEvent) -> None:
        for number in range(3):
            group.start_soon(produce, f"left behind {number}")
        await anyio.sleep(1)  # long enough for them to wait while this worker holds the delivery

    @agent.on(EventTrigger("late"))
    async def late(event: TriggerEvent) -> None:
        await busy.wait()
        await produce("late")

    @agent.on(EventTrigger("x"))
    async def x(event: TriggerEvent) -> None:
        await anyio.sleep_forever()

    async with outside_group() as group:
        async with served(agent, event_buffer=1, event_workers=2, shutdown_timeout=0.2):
            agent.emit("late")
            await anyio.sleep(0.1)
            agent.emit("start")
            await anyio.sleep(10)  # the worker of `start` is in `x` by now; two wait, one is in the buffer
            in_time = list(accepted)
            busy.set()
            await anyio.sleep(10)
            assert accepted == in_time  # `late` waits too: the other worker is busy, and waits for nobody


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("gather", ["sequence", "task group", "asyncio.gather"])
async def test_handlers_that_emit_into_a_full_bus_never_wait_for_themselves(
    workers: int, gather: str, anyio_backend_name: str
) -> None:
    if gather == "asyncio.gather" and anyio_backend_name != "asyncio":
        pytest.skip("trio has no asyncio.gather")
    agent, done = Agent("offline"), list[int]()

    @agent.on(EventTrigger("start"))
    async def start(event: TriggerEvent) -> None:
        if gather == "sequence":
            for number in range(30):
                await agent.aemit("x", number)
        elif gather == "asyncio.gather":
            await asyncio.gather(*[agent.aemit("x", number) for number in range(30)])
        else:
            async with anyio.create_task_group() as own:
                for number in range(30):
                    own.start_soon(agent.aemit, "x", number)

    @agent.on(EventTrigger("x"))
    async def x(event: TriggerEvent) -> None:
        done.append(event.body["data"])

    async with served(agent, event_buffer=2, event_workers=workers, shutdown_timeout=60) as runtime:
        for _ in range(2 * workers):
            await agent.aemit("start")
        await anyio.sleep(1)
    assert runtime.report is not None
    assert runtime.report.clean
    assert len(done) == 60 * workers
