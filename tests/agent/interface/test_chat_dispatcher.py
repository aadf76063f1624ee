"""Accepted messages: in order within a chat, chats side by side, a fair share for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from definable.agent.interface import InterfaceMessage
from definable.agent.runtime.chat_dispatcher import Accepted, ChatDispatcher, PendingAnswer
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


def message(chat: str, number: int, platform: str = "test") -> InterfaceMessage:
    return InterfaceMessage(platform, "user", chat, str(number))


class Undelivered:
    """A delivery that nobody settles."""

    id, name, data, attempt, lease = "1", "chat", {}, 1, None

    async def ack(self) -> None: ...
    async def nack(self, delay: float = 0.0) -> None: ...
    async def dead(self, why: str) -> None: ...


def put(dispatcher: ChatDispatcher, message: InterfaceMessage) -> None:
    dispatcher.put(Accepted(message, Undelivered()))


class Answers:
    """Answers each message in a second, and remembers."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.active = self.most = 0

    async def __call__(self, turn: PendingAnswer) -> None:
        message = turn.message
        self.active += 1
        self.most = max(self.most, self.active)
        await anyio.sleep(1)
        self.active -= 1
        self.log.append((message.platform_chat_id, message.platform_message_id))

    @asynccontextmanager
    async def dispatcher(self, max_chats: int) -> AsyncGenerator[ChatDispatcher, None]:
        with anyio.fail_after(1000):
            async with anyio.create_task_group() as tasks:
                yield ChatDispatcher(self, max_chats, tasks)


async def test_messages_of_one_chat_are_answered_one_by_one_in_order() -> None:
    answers = Answers()
    async with answers.dispatcher(10) as dispatcher:
        for number in range(20):
            put(dispatcher, message("a", number))
            await anyio.sleep(0.3)
    assert answers.log == [("a", str(number)) for number in range(20)]
    assert answers.most == 1


async def test_chats_are_answered_side_by_side_up_to_the_limit() -> None:
    answers = Answers()
    async with answers.dispatcher(3) as dispatcher:
        began = anyio.current_time()
        for chat in "abcdef":
            put(dispatcher, message(chat, 0))
    assert answers.most == 3
    assert anyio.current_time() - began == pytest.approx(2)


async def test_accepting_never_waits() -> None:
    answers = Answers()
    async with answers.dispatcher(1) as dispatcher:
        began = anyio.current_time()
        for number in range(100):
            put(dispatcher, message("a", number))
        assert anyio.current_time() == began
        assert dispatcher.waiting() == 100


async def test_a_talkative_chat_leaves_the_others_their_turn() -> None:
    answers = Answers()
    async with answers.dispatcher(1) as dispatcher:
        for number in range(5):
            put(dispatcher, message("talkative", number))
        await anyio.sleep(0.5)
        put(dispatcher, message("quiet", 0))
    assert answers.log.index(("quiet", "0")) <= 2


async def test_the_same_chat_id_on_two_platforms_is_two_chats() -> None:
    answers = Answers()
    async with answers.dispatcher(10) as dispatcher:
        put(dispatcher, message("a", 0, "one"))
        put(dispatcher, message("a", 1, "other"))
    assert answers.most == 2


async def test_waiting_counts_what_nobody_began_to_answer() -> None:
    answers, dispatcher = Answers(), None
    async with anyio.create_task_group() as tasks:
        dispatcher = ChatDispatcher(answers, 1, tasks)
        for number in range(3):
            put(dispatcher, message("a", number))
            put(dispatcher, message("b", number))
        await anyio.sleep(1.5)
        tasks.cancel_scope.cancel()
    assert dispatcher is not None
    assert (dispatcher.waiting(), len(answers.log)) == (4, 1)


async def test_a_chat_that_fell_silent_may_speak_again() -> None:
    answers = Answers()
    async with answers.dispatcher(1) as dispatcher:
        put(dispatcher, message("a", 0))
        await anyio.sleep(5)
        assert dispatcher.waiting() == 0
        put(dispatcher, message("a", 1))
    assert answers.log == [("a", "0"), ("a", "1")]
