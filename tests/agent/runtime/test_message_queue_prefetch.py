"""Many messages for a chat interface in a file: taken are those that can be begun, the rest stays in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.interface.message_json import message_to_json
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.model import OfflineModel
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Chat(BaseInterface):
    """A platform in memory."""

    def __init__(self, *inbound: InterfaceMessage, places: int = 2) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="chat", max_concurrent_requests=places))
        self.inbound = inbound
        self.accepted = 0
        self.sent: list[tuple[str, str | None]] = []

    async def receive(self, accept: Accept) -> None:
        for message in self.inbound:
            await accept(message)
            self.accepted += 1
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.sent.append((message.platform_chat_id, message.text))


def message(number: int, chat: str) -> InterfaceMessage:
    return InterfaceMessage("chat", f"user {number}", chat, str(number), text=str(number))


@asynccontextmanager
async def served(agent: Agent, chat: Chat, **options: Any) -> AsyncGenerator[AgentRuntime, None]:
    with anyio.fail_after(100_000):
        async with agent.running(chat, enable_server=False, **options) as runtime:
            yield runtime


async def fill(path: Path, *messages: InterfaceMessage) -> None:
    """Leave messages in the file, as a process that died does."""
    bus = SQLiteBus(path)
    async with bus.open():
        for each in messages:
            bus.publish_nowait("interface chat", {"message": message_to_json(each)})


async def attempts(path: Path) -> list[int]:
    """How often each delivery that is in the file was begun."""
    bus, found = SQLiteBus(path), list[int]()
    async with bus.open(), bus.consume() as deliveries:
        with anyio.move_on_after(10):
            while True:
                found.append((await anext(deliveries)).attempt - 1)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


async def test_a_backlog_stays_in_the_file_until_it_can_be_begun(path: Path) -> None:
    await fill(path, *[message(number, f"chat {number}") for number in range(500)])
    chat = Chat(places=2)
    async with served(Agent(OfflineModel(latency=1e9), bus=SQLiteBus(path)), chat, shutdown_timeout=0.1) as runtime:
        await anyio.sleep(10)
        assert runtime.supervisors[0].message_queue.waiting() == 4
    counts = await attempts(path)
    assert len(counts) == 500
    assert sum(counts) == 2  # those that are ready beside were not begun


async def test_all_of_a_backlog_is_answered_each_chat_in_its_order_and_what_comes_meanwhile_behind_it(
    path: Path,
) -> None:
    await fill(path, *[message(number, f"chat {number % 7}") for number in range(300)])
    chat = Chat(*[message(number, f"chat {number % 7}") for number in range(300, 400)])
    async with served(Agent(OfflineModel(latency=1), bus=SQLiteBus(path)), chat) as runtime:
        while len(chat.sent) < 400:
            await anyio.sleep(1)
    assert runtime.report is not None
    assert runtime.report.clean
    for number in range(7):
        mine = [int(str(text)) for where, text in chat.sent if where == f"chat {number}"]
        assert mine == list(range(number, 400, 7))


async def test_events_and_other_chats_are_not_held_up_by_a_backlog(path: Path) -> None:
    agent, handled = Agent(OfflineModel(latency=1000), bus=SQLiteBus(path)), list[float]()

    @agent.on(EventTrigger("event"))
    async def event(event: TriggerEvent) -> None:
        handled.append(anyio.current_time())

    await fill(path, *[message(number, f"chat {number}") for number in range(200)])
    async with served(agent, Chat(), shutdown_timeout=0.1, event_workers=2):
        await anyio.sleep(10)
        for _ in range(20):
            began = anyio.current_time()
            await agent.aemit("event")
            await anyio.sleep(1)
            assert handled[-1] - began < 0.5
    assert len(handled) == 20


async def test_one_talkative_chat_holds_no_other_up(path: Path) -> None:
    await fill(path, *[message(number, "talkative") for number in range(100)], message(100, "quiet"))
    chat = Chat(places=2)
    async with served(Agent(OfflineModel(latency=10), bus=SQLiteBus(path)), chat, shutdown_timeout=0.1):
        await anyio.sleep(35)
        assert ("quiet", "100") in chat.sent
        assert len(chat.sent) < 10


async def test_a_stop_answers_a_backlog_as_far_as_its_time_allows(path: Path) -> None:
    await fill(path, *[message(number, f"chat {number}") for number in range(100)])
    chat = Chat(places=2)
    async with served(Agent(OfflineModel(latency=1), bus=SQLiteBus(path)), chat, shutdown_timeout=1000) as runtime:
        await anyio.sleep(1)
    assert runtime.report is not None
    assert runtime.report.clean
    assert len(chat.sent) == 100


async def test_an_interface_waits_with_the_next_message_when_too_many_wait_in_the_file_too(path: Path) -> None:
    chat = Chat(*[message(number, f"chat {number}") for number in range(200)])
    agent = Agent(OfflineModel(latency=1e9), bus=SQLiteBus(path))
    async with served(agent, chat, shutdown_timeout=0.1, event_buffer=50):
        await anyio.sleep(100)
        assert 50 <= chat.accepted <= 50 + 2 + 1


async def test_a_bus_with_room_for_few_goes_on_for_as_long_as_messages_are_answered(path: Path) -> None:
    chat = Chat(*[message(number, f"chat {number % 3}") for number in [*range(300), *range(300)]])
    async with served(Agent(OfflineModel(latency=0.1), bus=SQLiteBus(path)), chat, event_buffer=5):
        while chat.accepted < 600:
            await anyio.sleep(1)
    assert len(chat.sent) == 300
