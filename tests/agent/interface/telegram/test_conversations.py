"""Telegram and the common way of chats together: groups, topics, albums, commands, buttons, corrections."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from loopback.slow_typist import SlowTypist
from loopback.telegram_bot import bot_for
from loopback.telegram_server import TelegramServer

from definable.agent import Agent
from definable.agent.interface import Button, InterfaceHook, InterfaceMessage, InterfaceResponse, InterfaceSession
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

GROUP = -1001

TOPIC = {"is_topic_message": True}


def asked(model: OfflineModel) -> list[str]:
    """What the model was asked, message by message."""
    return [request.messages[-1].content for request in model.requests]


async def test_in_a_lively_group_the_bot_speaks_when_it_is_meant() -> None:
    model = OfflineModel(lambda request: "ok")
    bot_user = {"id": 123456789, "is_bot": True, "first_name": "Bot", "username": "a_bot"}
    async with TelegramServer(limits_chats=False).running() as server:
        async with Agent(model).running(bot_for(server), enable_server=False):
            for number in range(20):
                server.write(f"chatter {number}", chat=GROUP, user=number % 3 + 5)
            text = "@a_bot what time is it?"
            server.write(text, chat=GROUP, user=5, entities=[{"type": "mention", "offset": 0, "length": 6}])
            reply = {"message_id": 3, "date": 1, "chat": {"id": GROUP, "type": "supergroup"}, "from": bot_user}
            server.write("and now?", chat=GROUP, user=6, reply_to_message=reply | {"text": "It is 7"})
            server.write("/start@other_bot", chat=GROUP, user=5)
            server.write("lunch?", chat=GROUP, user=7)
            await anyio.sleep(20)
        assert asked(model) == ["what time is it?", "In reply to a message of Bot:\n> It is 7\n\nand now?"]
        assert len(server.sent(GROUP)) == 2 and server.updates == []


async def test_topics_are_conversations_of_their_own() -> None:
    model = OfflineModel(lambda request: "ok")
    async with TelegramServer(limits_chats=False).running() as server:
        async with Agent(model).running(bot_for(server, groups="all"), enable_server=False):
            server.write("my name is Ann", chat=GROUP, user=5, message_thread_id=11, **TOPIC)
            await server.until(lambda server: server.sent(GROUP))
            server.write("who am I?", chat=GROUP, user=5, message_thread_id=22, **TOPIC)
            server.write("who am I?", chat=GROUP, user=5, message_thread_id=11, **TOPIC)
            await server.until(lambda server: len(server.sent(GROUP)) == 3)
        histories = sorted(len(request.messages) for request in model.requests)
        assert histories == [1, 1, 3]
        calls = [call.parameters["message_thread_id"] for call in server.calls if call.method == "sendMessage"]
        assert sorted(calls) == [11, 11, 22]


async def test_an_album_is_one_message() -> None:
    model = OfflineModel(lambda request: "ok")
    async with TelegramServer(files={"a": b"1", "b": b"2", "c": b"3"}).running() as server:
        async with Agent(model).running(bot_for(server, collect=0.8), enable_server=False):
            for number, name in enumerate("abc"):
                caption: dict[str, Any] = {"caption": "compare these"} if number == 0 else {}
                server.write(chat=1, media_group_id="77", photo=[{"file_id": name}], **caption)
            await anyio.sleep(20)
        assert server.sent(1) == ["ok"] and server.updates == []
        (request,) = model.requests
        assert [image.data for image in request.messages[-1].images] == [b"1", b"2", b"3"]
        assert "compare these" in request.messages[-1].content


async def test_a_command_stops_an_answer_and_another_begins_anew() -> None:
    model = SlowTypist("word " * 400, "second", pause=0.5)
    async with TelegramServer().running() as server:
        async with Agent(model).running(bot_for(server), enable_server=False):
            server.write("tell me everything", chat=1)
            await anyio.sleep(10)
            written = anyio.current_time()
            server.write("/stop", chat=1)
            await server.until(lambda server: "Stopped." in server.shown(1))
            assert anyio.current_time() - written < 5
            server.write("/new", chat=1)
            await server.until(lambda server: "A new conversation begins." in server.shown(1))
            server.write("hello", chat=1)
            await server.until(lambda server: "second" in server.shown(1))
        assert [message.content for message in model.requests[-1].messages] == ["hello"]


async def test_the_menu_shows_the_bot_s_commands() -> None:
    def balance(message: InterfaceMessage, session: InterfaceSession) -> str:
        """What is left."""
        return "7"

    async with TelegramServer().running() as server:
        async with Agent("offline").running(bot_for(server, commands={"balance": balance}), enable_server=False):
            server.write("/balance", chat=1)
            await server.until(lambda server: server.commands and server.sent(1))
        assert server.sent(1) == ["7"]
        menu = {each["command"]: each["description"] for each in server.commands}
        assert menu["balance"] == "What is left." and {"stop", "new", "help"} <= {*menu}


class Decides(InterfaceHook):
    """Asks with buttons, and answers what was pressed."""

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        return InterfaceResponse("Sure?", buttons=((Button("Yes", "yes:7"),),))

    async def on_button(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceResponse:
        return InterfaceResponse(f"{message.button} by {message.username}")


@pytest.mark.parametrize("chat", [1, GROUP])
async def test_a_button_is_acknowledged_and_answered(chat: int) -> None:
    async with TelegramServer().running() as server:
        server.write("@a_bot delete all", chat=chat, user=5)
        async with Agent("offline").running(bot_for(server, hooks=[Decides()]), enable_server=False):
            await server.until(lambda server: server.shown(chat))
            server.press(max(server.chats[chat].messages), "Yes", chat=chat, user=6)
            await server.until(lambda server: len(server.shown(chat)) == 2)
            await server.until(lambda server: server.sent(method="answerCallbackQuery"))
        assert server.shown(chat) == ["Sure?", "yes:7 by user6"]
        assert (server.refusals, server.updates) == ([], [])


async def test_a_correction_says_so() -> None:
    model = OfflineModel(lambda request: "ok")
    async with TelegramServer(limits_chats=False).running() as server:
        async with Agent(model).running(bot_for(server), enable_server=False):
            number = server.write("buy 7 apples", chat=1)
            await server.until(lambda server: server.sent(1))
            user = {"id": 1, "is_bot": False, "first_name": "U"}
            edited = {
                "message_id": number,
                "date": 1,
                "edit_date": 2,
                "chat": {"id": 1, "type": "private"},
                "from": user,
            }
            server.push({"edited_message": edited | {"text": "buy 9 apples"}})
            await server.until(lambda server: len(server.sent(1)) == 2)
        assert "buy 9 apples" in asked(model)[1] and asked(model)[1] != "buy 9 apples"
        assert server.updates == []
