"""A delivery whose lease is lost is somebody else's: it is cut off, and counted by whoever has it now."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import Delivery, MemoryBus
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.runtime import AgentRuntime, WorkCount
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.model import OfflineModel
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


@dataclasses.dataclass(eq=False)
class Leased:
    """A delivery with a lease; once that is lost, the bus does not listen to how the delivery ends."""

    delivery: Delivery
    lease: anyio.CancelScope = dataclasses.field(default_factory=anyio.CancelScope)

    @property
    def id(self) -> str:
        return self.delivery.id

    @property
    def name(self) -> str:
        return self.delivery.name

    @property
    def data(self) -> Mapping[str, Any]:
        return self.delivery.data

    @property
    def attempt(self) -> int:
        return self.delivery.attempt

    async def ack(self) -> None:
        await self.delivery.ack()

    async def nack(self, delay: float = 0.0) -> None:
        await self.delivery.nack(delay)

    async def dead(self, why: str) -> None:
        await self.delivery.dead(why)

    async def lose(self) -> None:
        """Somebody else has it, and will end it."""
        self.lease.cancel()
        await self.delivery.ack()


class LeasedDeliveries:
    """For any number of workers."""

    def __init__(self, deliveries: AsyncIterator[Delivery], handed_out: list[Leased]) -> None:
        self._deliveries = deliveries
        self._handed_out = handed_out

    def __aiter__(self) -> LeasedDeliveries:
        return self

    async def __anext__(self) -> Delivery:
        self._handed_out.append(leased := Leased(await anext(self._deliveries)))
        return leased


class LeasingBus(MemoryBus):
    """A bus in memory whose deliveries have leases, as those of a bus that replicas share."""

    def __init__(self) -> None:
        super().__init__()
        self.handed_out: list[Leased] = []

    @asynccontextmanager
    async def consume(self) -> AsyncGenerator[AsyncIterator[Delivery], None]:
        async with super().consume() as deliveries:
            yield LeasedDeliveries(deliveries, self.handed_out)


def counts(runtime: AgentRuntime, source: str) -> WorkCount:
    assert runtime.report is not None
    return runtime.report.sources[source]


async def test_a_handler_is_cut_off_and_not_counted_and_the_next_delivery_is_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, ended = LeasingBus(), list[Any]()
    agent = Agent("offline", bus=bus)

    @agent.on(EventTrigger("job", max_concurrency=1, retries=3))
    async def job(event: TriggerEvent) -> None:
        await anyio.sleep(event.body["seconds"])
        ended.append(event.body["seconds"])

    async with agent.running(enable_server=False, event_workers=1) as runtime:
        agent.emit("job", {"seconds": 1000})
        agent.emit("job", {"seconds": 1})
        await anyio.sleep(10)
        await bus.handed_out[0].lose()
        await anyio.sleep(10)
        assert (ended, runtime.workers.lost) == ([1], 1)
    assert counts(runtime, "event") == WorkCount(completed=1)
    assert caplog.text.count("was cut off: the lease of delivery") == 1


async def test_what_was_lost_while_it_stood_in_line_is_not_begun() -> None:
    bus, begun = LeasingBus(), list[Any]()
    agent = Agent("offline", bus=bus)

    @agent.on(EventTrigger("job", max_concurrency=1))
    async def job(event: TriggerEvent) -> None:
        begun.append(event.body["n"])
        await anyio.sleep(10)

    async with agent.running(enable_server=False) as runtime:
        for n in range(3):
            agent.emit("job", {"n": n})
        await anyio.sleep(1)
        await bus.handed_out[1].lose()
    assert begun == [0, 2]
    assert (counts(runtime, "event"), runtime.workers.lost) == (WorkCount(completed=2), 1)


async def test_nothing_was_lost_where_nothing_was() -> None:
    agent = Agent("offline", bus=LeasingBus())
    agent.on(EventTrigger("job"))(lambda event: None)
    async with agent.running(enable_server=False) as runtime:
        agent.emit("job")
    assert (counts(runtime, "event"), runtime.workers.lost) == (WorkCount(completed=1), 0)


class Chat(BaseInterface):
    """Hears three messages of one chat and keeps what it answers."""

    def __init__(self) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="chat"))
        self.answers: list[str] = []

    async def receive(self, accept: Accept) -> None:
        for number, text in enumerate(("first", "second", "third")):
            await accept(InterfaceMessage("chat", "ann", "home", str(number), text=text))
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.answers.append(response.content or "")


async def test_an_answer_is_cut_off_and_not_counted_and_the_next_messages_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, chat = LeasingBus(), Chat()
    agent = Agent(OfflineModel(), bus=bus)

    @agent.before_request
    async def think(context: Any) -> None:
        await anyio.sleep(100)

    async with agent.running(chat, enable_server=False, shutdown_timeout=1000) as runtime:
        await anyio.sleep(50)
        await bus.handed_out[0].lose()
    assert chat.answers == ["second", "third"]
    assert counts(runtime, "chat") == WorkCount(completed=2)
    assert caplog.text.count("a message was cut off: the lease of") == 1
