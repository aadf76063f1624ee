"""A reply that was made reaches the user, whatever Telegram does not take of it; buttons and the menu."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from loopback.slow_typist import SlowTypist
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Fault, Page, Refused, TelegramServer

from definable.agent import Agent
from definable.agent.interface import (
    Button,
    InterfaceHook,
    InterfaceMessage,
    InterfaceResponse,
    InterfaceSession,
    Media,
)
from definable.agent.interface.telegram import client
from definable.model import Image

pytestmark = pytest.mark.anyio

GROUP = -1001

THREAD_GONE = Refused(400, "Bad Request: message thread not found")
REPLIED_GONE = Refused(400, "Bad Request: message to be replied not found")
TOO_LARGE_PAGE = Page(b"<html>413 Request Entity Too Large</html>", 413)
PDF = Media(b"%PDF", filename="a.pdf", media_type="application/pdf")


class Answers(InterfaceHook):
    """Answers with a response of its own."""

    def __init__(self, response: InterfaceResponse) -> None:
        self.response = response
        self.received: list[InterfaceMessage] = []

    async def on_message_received(self, message: InterfaceMessage) -> None:
        self.received.append(message)

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        return self.response


async def answered(server: TelegramServer, response: InterfaceResponse, *, chat: int = 1, **fields: Any) -> None:
    """Serve a bot until it has answered one message, and nothing more comes."""
    server.write("show me", chat=chat, **fields)
    bot = bot_for(server, hooks=[Answers(response)], groups="all")
    async with Agent("offline").running(bot, enable_server=False):
        await anyio.sleep(30)


def methods(server: TelegramServer) -> list[str]:
    return [
        call.method for call in server.calls if call.method.startswith(("send", "edit")) and "Action" not in call.method
    ]


@pytest.mark.parametrize("failure", [THREAD_GONE, Refused(400, "Bad Request: TOPIC_CLOSED")])
async def test_a_topic_that_is_gone_is_answered_in_its_chat(failure: Refused) -> None:
    async with TelegramServer().running() as server:
        server.fail("sendMessage", failure)
        await answered(server, InterfaceResponse("hello"), chat=GROUP, message_thread_id=11, is_topic_message=True)
        (call,) = [call for call in server.calls if call.method == "sendMessage"]
        assert call.parameters == {"chat_id": str(GROUP), "text": "hello"}


async def test_media_of_a_topic_that_is_gone_go_to_its_chat() -> None:
    async with TelegramServer(closed_topics={11}).running() as server:
        await answered(server, InterfaceResponse(files=(PDF,)), chat=GROUP, message_thread_id=11, is_topic_message=True)
        assert "message_thread_id" not in server.sent(GROUP, "sendDocument")[-1]


async def test_a_message_that_is_gone_is_answered_without_reference() -> None:
    async with TelegramServer().running() as server:
        server.fail("sendMessage", REPLIED_GONE)
        await answered(server, InterfaceResponse("hello"), chat=GROUP)
        (call,) = [call for call in server.calls if call.method == "sendMessage"]
        assert (call.parameters["text"], "reply_parameters" in call.parameters) == ("hello", False)


@pytest.mark.parametrize(
    "failure",
    [
        Refused(403, "Forbidden: bot was kicked from the supergroup chat"),
        Refused(400, "Bad Request: not enough rights to send text messages to the chat"),
        Refused(400, "Bad Request: CHAT_WRITE_FORBIDDEN"),
    ],
)
async def test_a_chat_that_may_not_be_written_to_is_one_line(
    failure: Refused, caplog: pytest.LogCaptureFixture
) -> None:
    async with TelegramServer().running() as server:
        server.fail("sendMessage", failure)
        await answered(server, InterfaceResponse("hello"), chat=GROUP)
        assert server.sent(GROUP) == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and f"chat {GROUP} cannot be written to" in warnings[0]


@pytest.mark.parametrize(
    "failure", [Refused(400, "Bad Request: wrong file"), TOO_LARGE_PAGE, Refused(413, "Too Large")]
)
async def test_a_file_that_is_refused_costs_the_file_and_not_the_text(failure: Any) -> None:
    async with TelegramServer().running() as server:
        server.fail("sendDocument", failure, failure)
        await answered(server, InterfaceResponse("here it is", files=(PDF,)))
        assert server.shown(1) == ["here it is", "[a.pdf: not sent, 4 bytes]"]


async def test_a_file_that_may_have_arrived_is_not_sent_again() -> None:
    async with TelegramServer().running() as server:
        server.fail("sendDocument", Fault("drop after"))
        await answered(server, InterfaceResponse("here it is", files=(PDF,)))
        assert methods(server).count("sendDocument") == 1
        assert server.sent() == ["here it is", "[a.pdf: not sent, 4 bytes]"]


async def test_a_file_that_telegram_would_not_take_is_not_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_LOCAL_UPLOAD", 3)
    async with TelegramServer().running() as server:
        await answered(server, InterfaceResponse("here it is", files=(PDF,)))
        assert methods(server) == ["sendMessage", "sendMessage"]
        assert server.shown(1) == ["here it is", "[a.pdf: not sent, 4 bytes]"]


async def test_a_photo_that_is_refused_goes_out_as_a_file() -> None:
    refused = Refused(400, "Bad Request: PHOTO_INVALID_DIMENSIONS")
    async with TelegramServer().running() as server:
        server.fail("sendPhoto", refused, refused)
        await answered(server, InterfaceResponse("look", images=(Image(data=b"png"),)))
        assert methods(server) == ["sendMessage", "sendDocument"]
        assert server.shown(1)[0] == "look"


async def test_a_photo_elsewhere_that_is_refused_is_a_link() -> None:
    refused = Refused(400, "Bad Request: failed to get HTTP URL content")
    async with TelegramServer().running() as server:
        server.fail("sendPhoto", refused, refused)
        await answered(server, InterfaceResponse("look", images=(Image(url="https://example.com/a.png"),)))
        assert server.shown(1) == ["look", "https://example.com/a.png"]


async def test_an_album_that_is_refused_goes_out_one_by_one() -> None:
    refused = Refused(400, "Bad Request: group send failed")
    images = (Image(data=b"a"), Image(data=b"b"))
    async with TelegramServer().running() as server:
        server.fail("sendMediaGroup", refused, refused)
        await answered(server, InterfaceResponse("look", images=images))
        assert methods(server) == ["sendMessage", "sendPhoto", "sendPhoto"]


async def test_a_text_is_the_caption_of_its_medium_or_album() -> None:
    async with TelegramServer().running() as server:
        await answered(server, InterfaceResponse("**look** here", images=(Image(data=b"a"), Image(data=b"b"))))
        (album,) = server.sent(1, "sendMediaGroup")
        assert [each.get("caption") for each in album["media"]] == ["look here", None]
        assert album["media"][0]["caption_entities"] == [{"type": "bold", "offset": 0, "length": 4}]
        assert server.sent() == [] and server.refusals == []


async def test_a_text_too_long_for_a_caption_goes_before_its_medium() -> None:
    async with TelegramServer().running() as server:
        await answered(server, InterfaceResponse("word " * 300, images=(Image(data=b"a"),)))
        assert methods(server) == ["sendMessage", "sendPhoto"] and server.refusals == []


async def test_more_media_than_an_album_has_are_several() -> None:
    images = tuple([Image(data=b"png")] * 12)
    async with TelegramServer().running() as server:
        await answered(server, InterfaceResponse("look", images=images))
        assert [len(each["media"]) for each in server.sent(1, "sendMediaGroup")] == [10, 2]


@pytest.mark.parametrize("wait", [130, 599])
async def test_a_flood_wait_of_minutes_is_waited_for(wait: int) -> None:
    async with TelegramServer().running() as server:
        server.fail("sendMessage", Refused(429, f"Too Many Requests: retry after {wait}", retry_after=wait))
        server.write("hello", chat=1)
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await anyio.sleep(wait + 5)
        assert server.sent() == ["hello"]


async def test_a_long_flood_wait_at_the_last_edit_is_a_new_message() -> None:
    flood = Refused(429, "Too Many Requests: retry after 3000", retry_after=3000)
    text = "one two three four five six seven eight"
    async with TelegramServer().running() as server:
        server.fail("editMessageText", *[flood] * 5)
        server.write("hello", chat=1)
        async with Agent(SlowTypist(text)).running(bot_for(server), enable_server=False):
            await anyio.sleep(60)
        assert server.shown(1)[-1] == text


# --- buttons and the menu

BUTTONS = ((Button("Yes", "yes:7"), Button("No")), (Button("Docs", url="https://example.com"),))


async def test_buttons_go_out_and_come_back() -> None:
    async with TelegramServer().running() as server:
        hook = Answers(InterfaceResponse("Sure?", buttons=BUTTONS))
        server.write("delete all", chat=1)
        async with Agent("offline").running(bot_for(server, hooks=[hook]), enable_server=False):
            await server.until(lambda server: server.shown(1))
            number = max(server.chats[1].messages)
            assert server.chats[1].messages[number].markup["inline_keyboard"] == [
                [{"text": "Yes", "callback_data": "yes:7"}, {"text": "No", "callback_data": "No"}],
                [{"text": "Docs", "url": "https://example.com"}],
            ]
            server.press(number, "Yes")
            await anyio.sleep(5)
        assert [(each.text, each.button) for each in hook.received] == [("delete all", None), ("Yes", "yes:7")]
        assert server.refusals == []


@pytest.mark.parametrize(
    ("button", "shown"),
    [
        (Button("Long", "x" * 65), "Sure?\n\n• Long"),
        (Button("File", url="file:///etc/passwd"), "Sure?\n\n• File: file:///etc/passwd"),
    ],
)
async def test_a_button_that_telegram_does_not_take_is_written(button: Button, shown: str) -> None:
    async with TelegramServer().running() as server:
        await answered(server, InterfaceResponse("Sure?", buttons=((button,),)))
        assert (server.shown(1), server.refusals) == ([shown], [])


async def test_a_button_in_another_script_comes_back_whole() -> None:
    text = "Zobrazit podrobnosti objednávky číslo 1234, příští týden, také účet"
    async with TelegramServer().running() as server:
        hook = Answers(InterfaceResponse("?", buttons=((Button(text),),)))
        server.write("order", chat=1)
        async with Agent("offline").running(bot_for(server, hooks=[hook]), enable_server=False):
            await server.until(lambda server: server.shown(1))
            server.press(max(server.chats[1].messages), text)
            await anyio.sleep(5)
        assert (hook.received[-1].button, server.refusals) == (text, [])


async def test_buttons_of_a_refused_address_cost_the_buttons_alone() -> None:
    async with TelegramServer().running() as server:
        server.fail(
            "sendMessage", Refused(400, "Bad Request: inline keyboard button URL 'x' is invalid: Wrong HTTP URL")
        )
        await answered(server, InterfaceResponse("Sure?", buttons=BUTTONS))
        assert server.shown(1) == ["Sure?"]


async def test_buttons_are_under_a_medium_and_not_under_an_album() -> None:
    async with TelegramServer().running() as server:
        await answered(server, InterfaceResponse("Sure?", images=(Image(data=b"a"),), buttons=BUTTONS))
        (message,) = [each for each in server.chats[1].messages.values() if each.is_own]
        assert (message.text, bool(message.markup)) == ("Sure?", True)
    async with TelegramServer().running() as server:
        images = (Image(data=b"a"), Image(data=b"b"))
        await answered(server, InterfaceResponse("Sure?", images=images, buttons=BUTTONS))
        assert methods(server) == ["sendMessage", "sendMediaGroup"] and server.refusals == []


@pytest.mark.parametrize("is_gone", [False, True])
async def test_buttons_of_a_streamed_reply_are_under_it(is_gone: bool) -> None:
    message = InterfaceMessage("telegram", "1", "1", "1", text="hello")
    async with TelegramServer().running() as server:
        bot = bot_for(server)
        async with Agent("offline").running(bot, enable_server=False):
            number = await bot.post(message, "Sure?")
            if is_gone:
                server.chats[1].messages.clear()
            await bot.send(message, InterfaceResponse(buttons=BUTTONS))
        (shown,) = server.chats[1].messages.values()
        assert (shown.text, bool(shown.markup), number) == ("…" if is_gone else "Sure?", True, "1")


async def test_a_button_that_waits_no_longer_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    message = InterfaceMessage("telegram", "1", "1", "callback-7", metadata={"callback_query_id": "7"})
    too_old = Refused(400, "Bad Request: query is too old and response timeout expired or query ID is invalid")
    async with TelegramServer().running() as server:
        bot = bot_for(server)
        async with Agent("offline").running(bot, enable_server=False):
            await bot.acknowledge(message)
            server.fail("answerCallbackQuery", too_old)
            await bot.acknowledge(message)
        assert server.sent(method="answerCallbackQuery") == [{"callback_query_id": "7"}]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_menu_shows_what_telegram_takes() -> None:
    async with TelegramServer().running() as server:
        bot = bot_for(server)
        async with Agent("offline").running(bot, enable_server=False):
            await anyio.sleep(1)
            await bot.show_commands({"stop": "Stop", "long": "x" * 300, "no-dash": "not on Telegram", "empty": ""})
        assert [(each["command"], len(each["description"])) for each in server.commands] == [
            ("stop", 4),
            ("long", 256),
            ("empty", 5),
        ]
