"""Interface messages on the event bus: kept where it is durable, each once, and an interface's own affair."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent, RunContext
from definable.agent.bus import EventBus, MemoryBus, SQLiteBus
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceAuthenticationError,
    InterfaceConfig,
    InterfaceConnectionError,
    InterfaceMessage,
    InterfaceResponse,
    Media,
    QuotedMessage,
)
from definable.agent.interface.message_json import message_from_json, message_to_json
from definable.agent.runtime import AgentRuntime, WorkCount
from definable.agent.runtime.supervisor import InterfaceState
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.model import Image, OfflineModel
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Chat(BaseInterface):
    """A platform in memory, which delivers what it has until it is told that a message is safe."""

    def __init__(self, *inbound: InterfaceMessage, name: str = "chat", max_concurrent_requests: int = 10) -> None:
        super().__init__(InterfaceConfig(collect=0, platform=name, max_concurrent_requests=max_concurrent_requests))
        self.inbound = list(inbound)
        self.accepted: list[bool] = []
        self.safe: list[str] = []
        self.sent: list[tuple[str, str | None]] = []
        self.failing = False

    async def receive(self, accept: Accept) -> None:
        for message in self.inbound:
            self.accepted.append(await accept(message))
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        if self.failing:
            raise InterfaceConnectionError("the platform is away")
        self.sent.append((message.platform_chat_id, response.content))

    def handled(self, message: InterfaceMessage) -> None:
        self.safe.append(message.platform_message_id)


def message(number: int, chat: str = "home", **fields: Any) -> InterfaceMessage:
    return InterfaceMessage("chat", "ann", chat, str(number), text=f"message {number}", **fields)


@asynccontextmanager
async def served(
    agent: Agent, *chats: BaseInterface, grace: float = 30, event_buffer: int = 1000
) -> AsyncGenerator[AgentRuntime, None]:
    with anyio.fail_after(50):
        async with agent.running(
            *chats, enable_server=False, shutdown_timeout=grace, event_buffer=event_buffer
        ) as runtime:
            yield runtime


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.005)


# --- JSON


def test_a_message_survives_json() -> None:
    media = Media(b"\0\xff", filename="a.bin", duration=1.5)
    original = message(
        7,
        username="ann",
        images=(Image("https://example.com/a.png"), Image(data=b"\x89PNG", media_type="image/png")),
        audio=(media,),
        videos=(Media(url="https://example.com/v", size=3),),
        files=(Media(platform_id="x"),),
        reply_to_message_id="6",
        metadata={"a": [1, None]},
        is_direct=False,
        is_addressed=False,
        thread_id="42",
        context=(
            QuotedMessage("reply", "Ann", "Shall we?", (Image("https://example.com/b.png"),), (media,), "6"),
            QuotedMessage("forward"),
        ),
        notes=("location 52.52, 13.405", "sticker 👍"),
        is_edit=True,
        button="yes",
        command="ask",
        group_id="album",
        locale="de",
        timezone="Europe/Berlin",
    )
    assert message_from_json(json.loads(json.dumps(message_to_json(original)))) == original
    assert message_from_json(message_to_json(message(8))).files == ()


@pytest.mark.parametrize("value", [None, [], {}, {"platform": "chat"}, {"platform": "c", "nobody": 1}])
def test_what_is_no_message_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not a message"):
        message_from_json(value)


async def test_sys_exit_of_an_interface_that_is_told_of_an_end_is_logged_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Leaving(Chat):
        def handled(self, message: InterfaceMessage) -> None:
            super().handled(message)
            raise SystemExit(3)

    chat = Leaving(message(1), message(2))
    async with served(Agent("offline"), chat) as runtime:
        await until(lambda: len(chat.safe) == 2)
        assert runtime.health()[0]
    assert "Leaving.handled() failed" in caplog.text
    assert len(chat.sent) == 2


# --- durable


@pytest.mark.parametrize("is_durable", [True, False], ids=["durable", "in memory"])
async def test_a_user_whom_a_platform_knows_by_a_number_is_answered(is_durable: bool, tmp_path: Path) -> None:
    ann: Any = 42
    chat = Chat(InterfaceMessage("chat", ann, "home", "1", text="hello"))
    async with served(Agent("offline", bus=SQLiteBus(tmp_path / "events.db") if is_durable else None), chat):
        await until(lambda: chat.accepted == [True])
    assert chat.sent == [("home", "hello")]


async def test_what_a_durable_bus_keeps_is_safe_before_it_is_answered(tmp_path: Path) -> None:
    chat = Chat(message(1), message(1), message(2))
    agent = Agent(OfflineModel(latency=1000), bus=SQLiteBus(tmp_path / "bus.db"))
    async with served(agent, chat, grace=0.1):
        await until(lambda: len(chat.safe) == 2)
    assert (chat.accepted, chat.safe, chat.sent) == ([True, False, True], ["1", "2"], [])


async def test_messages_that_a_stop_cut_off_are_answered_after_a_restart_in_their_order(tmp_path: Path) -> None:
    bus = tmp_path / "bus.db"
    chat = Chat(*[message(number, chat=f"chat {number % 3}") for number in range(12)])
    async with served(Agent(OfflineModel(latency=1000), bus=SQLiteBus(bus)), chat, grace=0.1) as runtime:
        await until(lambda: len(chat.accepted) == 12)
    assert runtime.report is not None
    assert runtime.report.sources["chat"] == WorkCount(cancelled=3)  # the others wait in the file, which is no loss
    again = Chat(*chat.inbound)  # the platform, too, delivers them once more
    async with served(Agent("offline", bus=SQLiteBus(bus)), again):
        await until(lambda: len(again.sent) == 12)
    assert again.accepted == [False] * 12
    for chat_id in ("chat 0", "chat 1", "chat 2"):
        numbers = [int(str(text).split()[1]) for where, text in again.sent if where == chat_id]
        assert numbers == sorted(numbers) and len(numbers) == 4


async def test_metadata_that_is_no_json_is_refused_where_it_cannot_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = message(1, metadata={"socket": object()})
    chat = Chat(odd)
    async with served(Agent("offline", bus=SQLiteBus(tmp_path / "bus.db")), chat) as runtime:
        await until(lambda: runtime.supervisors[0].state is InterfaceState.RESTARTING)
    assert "metadata.socket is <object objec" in caplog.text
    in_memory = Chat(odd)
    async with served(Agent("offline", bus=MemoryBus()), in_memory):
        await until(lambda: bool(in_memory.sent))


async def test_a_message_for_an_interface_that_cannot_open_waits_for_the_next_start(tmp_path: Path) -> None:
    class Broken(Chat):
        @asynccontextmanager
        async def connection(self) -> AsyncGenerator[None, None]:
            raise InterfaceAuthenticationError("bad token")
            yield

    bus, chat = tmp_path / "bus.db", Chat(message(1))
    async with served(Agent(OfflineModel(latency=1000), bus=SQLiteBus(bus)), chat, grace=0.1):
        await until(lambda: bool(chat.safe))
    async with served(Agent("offline", bus=SQLiteBus(bus)), Broken()) as runtime:
        await until(lambda: runtime.supervisors[0].ended.is_set())
        assert runtime.supervisors[0].state is InterfaceState.FAILED
    assert runtime.report is not None
    assert runtime.report.duration < 1  # what nobody here will answer holds up no stop
    mended = Chat()
    async with served(Agent("offline", bus=SQLiteBus(bus)), mended):
        await until(lambda: bool(mended.sent))


class Opening(Chat):
    """Opens once a message waits for it, if it opens."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.may_open = anyio.Event()
        self.failure = failure

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None, None]:
        await self.may_open.wait()
        if self.failure is not None:
            raise self.failure
        yield


async def test_a_message_from_before_waits_until_the_interface_is_open(tmp_path: Path) -> None:
    bus, chat = tmp_path / "bus.db", Chat(message(1), message(2))
    async with served(Agent(OfflineModel(latency=1000), bus=SQLiteBus(bus)), chat, grace=0.1):
        await until(lambda: len(chat.safe) == 2)
    opening = Opening()
    async with served(Agent("offline", bus=SQLiteBus(bus)), opening) as runtime:
        await until(lambda: runtime.supervisors[0].message_queue.waiting() == 2)
        assert opening.sent == []
        opening.may_open.set()
        await until(lambda: len(opening.sent) == 2)
    assert opening.sent == [("home", "message 1"), ("home", "message 2")]


async def test_a_message_from_before_goes_back_when_the_interface_does_not_open(tmp_path: Path) -> None:
    bus, chat = tmp_path / "bus.db", Chat(message(1))
    async with served(Agent(OfflineModel(latency=1000), bus=SQLiteBus(bus)), chat, grace=0.1):
        await until(lambda: bool(chat.safe))
    broken = Opening(InterfaceAuthenticationError("bad token"))
    async with served(Agent("offline", bus=SQLiteBus(bus)), broken) as runtime:
        await until(lambda: runtime.supervisors[0].message_queue.waiting() == 1)
        broken.may_open.set()
        await until(lambda: runtime.supervisors[0].state is InterfaceState.FAILED)
        await until(lambda: runtime.supervisors[0].message_queue.waiting() == 0)
    mended = Chat()
    async with served(Agent("offline", bus=SQLiteBus(bus)), mended):
        await until(lambda: bool(mended.sent))
    assert mended.sent == [("home", "message 1")]


async def test_a_message_that_comes_back_while_the_interface_closes_waits_for_the_next_start(tmp_path: Path) -> None:
    class SlowToClose(Chat):
        @asynccontextmanager
        async def connection(self) -> AsyncGenerator[None, None]:
            yield
            await anyio.sleep(10)

    bus, chat, broken = tmp_path / "bus.db", Chat(message(1)), Opening(InterfaceAuthenticationError("bad token"))
    async with served(Agent(OfflineModel(latency=1000), bus=SQLiteBus(bus)), chat, grace=0.1):
        await until(lambda: bool(chat.safe))
    async with served(Agent("offline", bus=SQLiteBus(bus)), broken) as runtime:
        await until(lambda: runtime.supervisors[0].message_queue.waiting() == 1)
        broken.may_open.set()
        await until(lambda: runtime.supervisors[0].message_queue.waiting() == 0)
    async with served(Agent("offline", bus=SQLiteBus(bus)), SlowToClose()) as runtime:
        pass
    assert runtime.report is not None and runtime.report.clean
    mended = Chat()
    async with served(Agent("offline", bus=SQLiteBus(bus)), mended):
        await until(lambda: bool(mended.sent))
    assert mended.sent == [("home", "message 1")]


# --- any bus


@pytest.fixture(params=["memory", "sqlite"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> EventBus:
    return MemoryBus() if request.param == "memory" else SQLiteBus(tmp_path / "bus.db")


async def test_a_message_that_is_not_answered_is_kept_among_the_dead_letters(bus: EventBus) -> None:
    chat = Chat(message(1))
    chat.failing = True
    async with served(Agent("offline", bus=bus), chat) as runtime:
        await until(lambda: len(chat.safe) == 1)
        await until(lambda: runtime.tracker.counts()["chat"].failed == 1)
        await bus.drain()
        (letter,) = await bus.dead_letters()
        assert letter.name == "interface chat"
        chat.failing = False
        assert await bus.replay(letter.id)
        await until(lambda: bool(chat.sent))
    assert chat.sent == [("home", "message 1")]


@pytest.mark.parametrize(
    "value",
    [
        {"platform": "chat", "from": "another version"},
        message_to_json(message(1)) | {"images": ["a.png"]},
        message_to_json(message(1)) | {"files": ["a.pdf"]},
        message_to_json(message(1)) | {"platform_chat_id": ["home"]},
    ],
)
async def test_a_delivery_that_is_no_message_is_dead_and_holds_nobody_up(
    bus: EventBus, caplog: pytest.LogCaptureFixture, value: dict[str, Any]
) -> None:
    chat = Chat()
    async with served(Agent("offline", bus=bus), chat) as runtime:
        await bus.publish("interface chat", {"message": value})
        await bus.publish("interface chat", {"message": message_to_json(message(2))})
        await until(lambda: bool(chat.sent))
        assert runtime.tracker.counts()["chat"].failed == 1
        (letter,) = await bus.dead_letters()
        assert "not a message" in letter.why
    assert chat.sent == [("home", "message 2")]
    assert f"chat: delivery {letter.id} cannot be read and is dead: " in caplog.text


async def test_two_bots_of_one_platform_have_their_own_messages_and_accounts(bus: EventBus) -> None:
    bots = Chat(message(1)), Chat(message(1))  # in one chat: the message has one number
    async with served(Agent("offline", bus=bus), *bots) as runtime:
        await until(lambda: all(bot.sent for bot in bots))
    assert runtime.report is not None
    assert runtime.report.sources["chat"] == runtime.report.sources["chat#2"] == WorkCount(completed=1)


async def test_a_chat_may_emit_into_a_full_bus() -> None:
    agent, handled = Agent("offline", bus=MemoryBus(buffer=1)), list[object]()

    @agent.on(EventTrigger("said"))
    async def said(event: TriggerEvent) -> None:
        handled.append(event.body)

    @agent.before_request
    async def tell(context: RunContext) -> None:
        for _ in range(5):
            await agent.aemit("said", {"input": str(context.input)})

    chat = Chat(*[message(number, chat=str(number)) for number in range(20)])
    async with served(agent, chat):
        await until(lambda: len(chat.sent) == 20)
    assert len(handled) == 100


async def test_it_is_said_once_that_too_many_messages_wait(caplog: pytest.LogCaptureFixture) -> None:
    chat = Chat(*[message(number) for number in range(25)])
    async with served(Agent(OfflineModel(latency=0.1)), chat, event_buffer=5):
        await until(lambda: len(chat.sent) == 25)
    assert caplog.text.count("messages wait for their answers, and no more are taken meanwhile") == 1


async def test_an_interface_waits_with_the_next_message_when_too_many_wait() -> None:
    chat = Chat(*[message(number) for number in range(50)])
    async with served(Agent(OfflineModel(latency=1000)), chat, grace=0.1, event_buffer=5) as runtime:
        await until(lambda: runtime.supervisors[0].message_queue.waiting() >= 5)
        await anyio.wait_all_tasks_blocked()
        count = len(chat.accepted)
        assert count <= 1 + 5 + 5, "in flight, in the queue, and on the bus"
    assert runtime.report is not None
    assert runtime.report.sources["chat"] == WorkCount(cancelled=1, never_started=count - 1)


async def test_an_interface_goes_on_when_there_is_room_again() -> None:
    chat = Chat(*[message(number) for number in range(20)])
    async with served(Agent(OfflineModel(latency=0.5)), chat, event_buffer=5) as runtime:
        await until(lambda: len(chat.accepted) == 20)
        assert len(chat.sent) >= 20 - 1 - 5 - 5
        assert runtime.supervisors[0].error is None
    assert chat.sent == [("home", f"message {number}") for number in range(20)]
