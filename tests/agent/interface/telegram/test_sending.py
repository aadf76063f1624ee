"""What goes out: formatted, split, paced, tried again where that cannot send it twice."""

from __future__ import annotations

import logging
import sys
from itertools import pairwise
from typing import Any

import anyio
import pytest
import trio.testing
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Fault, Page, Refused, TelegramServer

from definable.agent import Agent
from definable.agent.interface import (
    InterfaceHook,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceResponse,
    InterfaceSession,
    Media,
    TelegramInterface,
    rendering,
)
from definable.model import Image, OfflineModel

pytestmark = pytest.mark.anyio

SORRY = "Sorry, something went wrong. Please try again."


async def answered(server: TelegramServer, count: int = 1, *, seconds: float = 300, **settings: Any) -> None:
    """Serve an echoing bot until so many texts were sent, or for so long."""
    with anyio.move_on_after(seconds):
        async with Agent("offline").running(bot_for(server, **settings), enable_server=False):
            await server.until(lambda server: len(server.sent()) >= count)


def sent_at(server: TelegramServer, chat: int | None = None) -> list[float]:
    calls = [call for call in server.calls if call.method == "sendMessage"]
    return [call.at for call in calls if chat is None or int(call.parameters["chat_id"]) == chat]


async def test_markdown_is_sent_as_text_with_entities() -> None:
    async with TelegramServer().running() as server:
        server.write("# Title\n**bold** `code`", chat=1)
        await answered(server)
        call = server.sent(1, "sendMessage")[0]
        parameters = next(call.parameters for call in server.calls if call.method == "sendMessage")
        assert call.split() == ["Title", "bold", "code"]
        assert {entity["type"] for entity in parameters["entities"]} == {"bold", "code"}
        assert "parse_mode" not in parameters


async def test_without_parse_mode_text_goes_out_as_it_is() -> None:
    async with TelegramServer().running() as server:
        server.write("**bold** <b>", chat=1)
        await answered(server, parse_mode=None)
        assert server.sent() == ["**bold** <b>"]


async def test_without_the_extra_text_goes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "definable.agent.interface.markdown", None)
    rendering._parser.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        async with TelegramServer().running() as server:
            server.write("**bold**", chat=1)
            await answered(server)
            assert server.sent() == ["**bold**"]
    finally:
        rendering._parser.cache_clear()  # pyright: ignore[reportPrivateUsage]


async def test_a_reply_that_the_converter_fails_at_goes_out_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    deep = "> " * 1000 + "**bold**"
    async with TelegramServer().running() as server:
        server.write(deep, chat=1)
        await answered(server)
        assert server.sent() == [deep]
    assert "a reply could not be formatted, it is sent as it is" in caplog.text


async def test_entities_that_telegram_cannot_parse_are_left_out() -> None:
    async with TelegramServer().running() as server:
        server.write("**bold**", chat=1)
        server.fail("sendMessage", Refused(400, "Bad Request: can't parse entities: unsupported start tag"))
        await answered(server)
        parameters = [call.parameters for call in server.calls if call.method == "sendMessage"]
        assert [(each["text"], "entities" in each) for each in parameters] == [("bold", False)]


async def test_a_long_reply_is_split_in_order_a_second_apart() -> None:
    text = "\n\n".join(f"paragraph {number} " + "word " * 100 for number in range(60))
    async with TelegramServer().running() as server:
        server.write("tell me", chat=1)
        with anyio.move_on_after(100):
            bot = bot_for(server)
            async with Agent(OfflineModel(text)).running(bot, enable_server=False):
                await server.until(lambda server: "paragraph 59" in "".join(server.sent()))
        assert "".join("".join(server.sent()).split()) == "".join(text.split())
        assert server.refusals == []
        assert all(after - before >= 1 for before, after in pairwise(sent_at(server)))


async def test_a_429_is_waited_for_and_nothing_is_sent_twice() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.write("two", chat=2)
        server.fail("sendMessage", Refused(429, "Too Many Requests: retry after 7", retry_after=7))
        await answered(server, 2)
        assert sorted(server.sent()) == ["one", "two"]
        times = sent_at(server)
        assert times[1] - times[0] >= 7  # the other chat did not wait


async def test_a_429_of_hours_is_not_waited_for() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.fail("sendMessage", Refused(429, "Too Many Requests", retry_after=7200))
        await answered(server)
        assert server.sent() == [SORRY]


async def test_a_429_that_does_not_end_fails_the_message_after_five_tries_ever_further_apart() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        began = anyio.current_time()
        server.fail("sendMessage", *[Refused(429, "Too Many Requests")] * 5)
        await answered(server)
        assert server.sent() == [SORRY]
        assert sent_at(server)[0] - began >= 1 + 2 + 4 + 8


async def test_what_telegram_refuses_for_good_is_not_tried_again() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.fail("sendMessage", Refused(400, "Bad Request: message text is empty"))
        await answered(server)
        assert server.sent() == [SORRY]


@pytest.mark.parametrize("failure", [Fault("drop after"), Page(), Refused(500, "Internal Server Error")])
async def test_what_may_have_been_sent_is_not_sent_again(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.fail("sendMessage", failure)
        await answered(server, 2, seconds=30)
        assert server.sent().count("one") <= 1
        assert server.sent()[-1] == SORRY
    assert caplog.text.count("was not answered") == 1
    assert "Traceback" not in caplog.text


async def test_a_read_time_out_is_not_tried_again() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.fail("sendMessage", Fault("hang"))
        await answered(server, request_timeout=5)
        assert server.sent() == [SORRY]


async def test_a_group_that_became_a_supergroup_is_followed() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=-7)
        server.write("two", chat=-7)
        server.fail(
            "sendMessage", Refused(400, "Bad Request: group chat was upgraded to a supergroup chat", moved_to=-1007)
        )
        await answered(server, 2, groups="all", collect=0)
        assert (server.sent(-7), server.sent(-1007)) == ([], ["one", "two"])


async def test_a_user_who_blocked_the_bot_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.write("two", chat=2)
        server.fail("sendMessage", Refused(403, "Forbidden: bot was blocked by the user"))
        await answered(server)
        assert server.sent() in (["one"], ["two"])
        assert server.updates == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([line for line in warnings if "Forbidden: bot was blocked by the user" in line]) == 1
    assert not any("not answered" in line for line in warnings)


async def test_a_send_that_telegram_refuses_raises_and_a_long_one_is_split() -> None:
    message = InterfaceMessage("telegram", "1", "1", "1", text="hello")
    async with TelegramServer().running() as server:
        bot = bot_for(server)
        async with Agent("offline").running(bot, enable_server=False):
            await bot.send(message, InterfaceResponse("word " * 1000, images=(Image(data=b"png"),)))
            server.fail("sendMessage", Refused(403, "Forbidden: bot was blocked by the user"))
            with pytest.raises(InterfaceMessageError, match="blocked by the user") as raised:
                await bot.send(message, InterfaceResponse("hello"))
        assert raised.value.status == 403
        assert " ".join(server.sent(1, "sendMessage")).split() == ["word"] * 1000
        assert [len(server.sent(1, method)) for method in ("sendMessage", "sendPhoto")] == [2, 1]
        assert server.refusals == []


class Names(InterfaceHook):
    """Answers with what a user is called."""

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        return InterfaceResponse(f"{message.username}, {message.metadata['display_name']}")


async def test_a_user_without_a_username_has_the_name_that_telegram_shows() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.write("two", chat=2, **{"from": {"id": 2, "is_bot": False, "first_name": "Ann", "last_name": "Lee"}})
        await answered(server, 2, hooks=[Names()])
        assert sorted(server.sent()) == ["Ann Lee, Ann Lee", "user1, U"]


async def test_a_group_gets_replies_and_a_topic_its_own() -> None:
    async with TelegramServer().running() as server:
        number = server.write("one", chat=-7, user=3, message_thread_id=99, is_topic_message=True)
        await answered(server, groups="all")
        parameters = next(call.parameters for call in server.calls if call.method == "sendMessage")
        assert parameters["reply_parameters"] == {"message_id": number, "allow_sending_without_reply": True}
        assert parameters["message_thread_id"] == 99


async def test_typing_is_shown_every_four_seconds_while_the_agent_runs() -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        async with Agent(OfflineModel(latency=10)).running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
            await anyio.sleep(20)
        times = [call.at for call in server.calls if call.method == "sendChatAction"]
        assert [round(after - before) for before, after in pairwise(times)] == [4, 4]


async def test_a_failing_typing_indicator_is_nobody_s_business(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.fail("sendChatAction", Fault("drop"))
        async with Agent(OfflineModel(latency=10)).running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_pace_of_groups_and_of_the_whole_bot_is_kept() -> None:
    """As the server sees it, give or take what data on its way loses to a clock that jumps."""
    async with TelegramServer().running() as server:
        for number in range(40):
            server.write("group", chat=-1, user=number + 1)
        for number in range(200):
            server.write("private", chat=number + 1)
        await answered(server, 240, seconds=1000, max_concurrent_requests=500, groups="all")
        group, everything = sent_at(server, -1), sent_at(server)
        assert len(everything) == 240
        assert all(later - sooner > 55 for sooner, later in zip(group, group[20:], strict=False))
        assert all(later - sooner > 0.5 for sooner, later in zip(everything, everything[30:], strict=False))


class Illustrates(InterfaceHook):
    """Sends one of each."""

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        return InterfaceResponse(
            content="look",
            images=(Image(data=b"png"), Image(url="https://example.com/a.png")),
            audio=(Media(b"ogg", media_type="audio/ogg"), Media(platform_id="file-7", media_type="audio/mpeg")),
            videos=(Media(b"mp4", media_type="video/mp4"),),
            files=(Media(b"%PDF", filename="a.pdf", media_type="application/pdf"),),
        )


async def test_media_go_out_each_by_its_method_and_several_as_an_album() -> None:
    async with TelegramServer().running() as server:
        server.write("show me", chat=-1)
        bot = bot_for(server, hooks=[Illustrates()], groups="all")
        async with Agent("offline").running(bot, enable_server=False):
            await server.until(lambda server: server.sent(-1, "sendDocument"))
        assert server.refusals == []
        assert server.sent() == ["look"]
        (album,) = server.sent(-1, "sendMediaGroup")
        assert [(each["type"], each["media"]) for each in album["media"]] == [
            ("photo", "attach://file0"),
            ("photo", "https://example.com/a.png"),
            ("video", "attach://file2"),
        ]
        assert (album["file0"], album["file2"]) == (("photo", b"png", "image/png"), ("video", b"mp4", "video/mp4"))
        assert server.sent(-1, "sendVoice")[0]["voice"][1] == b"ogg"
        assert server.sent(-1, "sendAudio")[0]["audio"] == "file-7"
        assert server.sent(-1, "sendDocument")[0]["document"] == ("a.pdf", b"%PDF", "application/pdf")


def test_a_bot_that_is_served_again_on_another_event_loop_is_not_mute() -> None:
    bots: list[TelegramInterface] = []

    async def answer_one() -> None:
        async with TelegramServer().running() as server:
            bot = bots[0] if bots else bot_for(server)
            bots.append(bot)
            bot.config = bot.config.with_updates(base_url=server.url)
            server.write("hello", chat=1)
            with anyio.fail_after(5):
                async with Agent("offline").running(bot, enable_server=False, shutdown_timeout=0):
                    await server.until(lambda server: server.sent(1))

    for begins_at in (1000.0, 0.0):  # trio's clock begins anywhere with every run
        clock = trio.testing.MockClock(rate=1.0)
        clock.jump(begins_at)
        anyio.run(answer_one, backend="trio", backend_options={"clock": clock})
