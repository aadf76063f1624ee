"""Replies that are edited while the model writes them, as Telegram sees it: in virtual time, with every failure."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import anyio
import pytest
from loopback.openai_server import FAILING_REPLIES, SPOKEN, OpenAIServer
from loopback.slow_typist import SlowTypist
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Call, Fault, Page, Refused, Slow, TelegramServer

from definable.agent import Agent
from definable.agent.interface.splitting import split_text
from definable.model import ModelReply, OpenAIChat, ToolCall

pytestmark = pytest.mark.anyio

SORRY = "Sorry, something went wrong. Please try again."

COUNTING = " ".join(str(number) for number in range(20))
"""Five seconds of a slow typist's work."""

CANNOT_PARSE = Refused(400, "Bad Request: can't parse entities: unsupported start tag")


async def answered(server: TelegramServer, *script: Any, chat: int = 1, seconds: float = 60, **settings: Any) -> None:
    """A user writes, and a slow typist answers."""
    server.write("hello", chat=chat)
    async with Agent(SlowTypist(*script)).running(bot_for(server, **settings), enable_server=False):
        await anyio.sleep(seconds)


def written(server: TelegramServer) -> list[Call]:
    return [call for call in server.calls if call.method in ("sendMessage", "editMessageText", "deleteMessage")]


def methods(server: TelegramServer) -> list[str]:
    return [call.method for call in written(server)]


async def test_a_reply_is_sent_at_its_beginning_and_edited_once_a_second_until_it_is_whole() -> None:
    async with TelegramServer().running() as server:
        await answered(server, COUNTING)
        assert server.shown(1) == [COUNTING]
        assert methods(server) == ["sendMessage"] + ["editMessageText"] * 4
        assert all(later.at - former.at >= 1 for former, later in pairwise(written(server)))
        assert (server.violations, server.refusals, server.updates) == ([], [], [])


async def test_a_quick_reply_is_one_message() -> None:
    async with TelegramServer().running() as server:
        await answered(server, "one two three")
        assert (methods(server), server.shown(1)) == (["sendMessage"], ["one two three"])


async def test_a_character_that_the_model_writes_in_halves_is_whole_at_the_end() -> None:
    async with TelegramServer().running() as server:
        server.write("hello", chat=1)
        model = SlowTypist("smile \ud83d\ude00", pause=1.5, cut=list)
        async with Agent(model).running(bot_for(server), enable_server=False):
            await anyio.sleep(60)
        assert server.shown(1) == ["smile \U0001f600"]


async def test_typing_is_shown_meanwhile() -> None:
    async with TelegramServer().running() as server:
        await answered(server, COUNTING)
        assert len(server.sent(method="sendChatAction")) == 2


async def test_groups_get_it_whole() -> None:
    async with TelegramServer().running() as server:
        await answered(server, COUNTING, chat=-7, groups="all")
        assert (methods(server), server.shown(-7)) == (["sendMessage"], [COUNTING])


async def test_it_is_whole_where_the_bot_is_told_so() -> None:
    async with TelegramServer().running() as server:
        await answered(server, COUNTING, stream_replies=False)
        assert methods(server) == ["sendMessage"]


async def test_it_is_formatted_all_along() -> None:
    async with TelegramServer().running() as server:
        await answered(server, "one **two three four** `five` and six and seven and eight and **nine** ten")
        assert server.shown(1) == ["one two three four five and six and seven and eight and nine ten"]
        (message,) = [message for message in server.chats[1].messages.values() if message.is_own]
        assert [entity["type"] for entity in message.entities] == ["bold", "code", "bold"]


async def test_a_long_one_goes_on_in_further_messages() -> None:
    text = "\n\n".join("word " * 30 for _ in range(3))
    async with TelegramServer().running() as server:
        await answered(server, text, max_message_length=200)
        assert server.shown(1) == [part.strip() for part in split_text(text, 200)] and len(server.shown(1)) == 3
        assert server.violations == []


async def test_what_a_chat_shows_already_is_no_failure() -> None:
    """Telegram drops white space at the end: then the text is not modified."""
    same = Refused(400, "Bad Request: message is not modified: specified new message content and reply markup are ...")
    async with TelegramServer().running() as server:
        server.fail("editMessageText", same)
        await answered(server, COUNTING)
        assert server.shown(1) == [COUNTING]


@pytest.mark.parametrize("failure", [Fault("drop"), Fault("drop after"), Page(), Refused(500, "oh"), Fault("hang")])
async def test_an_edit_that_may_have_arrived_is_made_again_at_the_end(
    failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with TelegramServer().running() as server:
        server.fail("editMessageText", *[failure] * 4)
        await answered(server, COUNTING, request_timeout=3)
        assert server.shown(1) == [COUNTING]
        assert (methods(server).count("sendMessage"), server.violations) == (1, [])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_429_holds_up_the_edits_that_follow() -> None:
    async with TelegramServer().running() as server:
        server.fail("editMessageText", Refused(429, "Too Many Requests: retry after 20", retry_after=20))
        await answered(server, COUNTING)
        posted, edited = written(server)
        assert server.shown(1) == [COUNTING] and edited.at - posted.at > 20


async def test_a_message_that_is_gone_is_sent_anew() -> None:
    async with TelegramServer().running() as server:
        server.write("hello", chat=1)
        async with Agent(SlowTypist(COUNTING)).running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.shown(1))
            server.chats[1].messages.clear()
            await anyio.sleep(60)
        assert server.shown(1) == [COUNTING]


@pytest.mark.parametrize("failure", [Fault("drop after"), Page(), Refused(500, "oh")])
async def test_a_beginning_that_may_have_arrived_is_not_sent_again(failure: Any) -> None:
    async with TelegramServer().running() as server:
        server.fail("sendMessage", failure)
        await answered(server, COUNTING)
        assert server.shown(1)[-1] == COUNTING
        assert methods(server).count("sendMessage") == len(server.shown(1)) <= 2
        assert "editMessageText" not in methods(server)


async def test_entities_that_telegram_cannot_parse_are_left_out() -> None:
    text = "**one** two three four five six seven"
    async with TelegramServer().running() as server:
        server.fail("sendMessage", CANNOT_PARSE)
        server.fail("editMessageText", *[CANNOT_PARSE, Slow(0)] * 5)
        await answered(server, text)
        (message,) = [message for message in server.chats[1].messages.values() if message.is_own]
        assert (message.text, message.entities) == (text.replace("*", ""), None)


@pytest.mark.parametrize("reply", FAILING_REPLIES)
async def test_a_reply_of_a_provider_that_is_no_answer_ends_in_an_apology(reply: str) -> None:
    async with OpenAIServer().running() as provider, TelegramServer().running() as server:
        server.write("hello", chat=1)
        provider.play(*FAILING_REPLIES[reply])
        model = OpenAIChat("gpt-4o", provider.key, provider.url)
        async with Agent(model).running(bot_for(server), enable_server=False):
            await anyio.sleep(30)
            *beginning, sorry = server.shown(1)
            assert sorry == SORRY and len(beginning) <= 1
            assert all(SPOKEN.startswith(text) for text in beginning)
            server.write("again", chat=1)
            await anyio.sleep(30)
        assert server.shown(1)[-1] == "ok"
        assert (server.violations, server.refusals) == ([], [])


async def test_a_run_that_fails_says_so_after_its_beginning() -> None:
    async with TelegramServer().running() as server:
        server.write("hello", chat=1)
        agent = Agent(SlowTypist(COUNTING, fails_after=10))
        async with agent.running(bot_for(server), enable_server=False):
            await anyio.sleep(30)
        beginning, sorry = server.shown(1)
        assert COUNTING.startswith(beginning or "?") and sorry == SORRY


async def test_a_user_who_blocked_the_bot_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    blocked = Refused(403, "Forbidden: bot was blocked by the user")
    async with TelegramServer().running() as server:
        server.fail("sendMessage", blocked, blocked)
        await answered(server, COUNTING)
        assert server.updates == []
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def test_a_stop_waits_for_the_last_edit() -> None:
    async with TelegramServer().running() as server:
        server.write("hello", chat=1)
        async with Agent(SlowTypist(COUNTING)).running(bot_for(server), enable_server=False) as runtime:
            await server.until(lambda server: server.shown(1))
        assert server.shown(1) == [COUNTING]
        assert runtime.report is not None and runtime.report.clean


async def test_many_chats_at_once_keep_the_bot_s_pace() -> None:
    async with TelegramServer().running() as server:
        for chat in range(1, 31):
            server.write("hello", chat=chat)
        agent = Agent(SlowTypist(*[COUNTING] * 30))
        async with agent.running(bot_for(server, max_concurrent_requests=30), enable_server=False):
            await anyio.sleep(120)
        assert all(server.shown(chat) == [COUNTING] for chat in range(1, 31))
        assert server.violations == []
        times = [call.at for call in written(server)]
        assert all(later - former > 0.5 for former, later in zip(times, times[30:], strict=False))


async def test_messages_that_the_reply_does_not_need_after_all_are_deleted() -> None:
    async def look_up() -> str:
        """Look it up."""
        return "7"

    server = TelegramServer()
    call = ModelReply(COUNTING, tool_calls=(ToolCall("look_up", {}),))
    async with server.running():
        server.write("hello", chat=1)
        agent = Agent(SlowTypist(call, "It is 7"), tools=[look_up])
        async with agent.running(bot_for(server, max_message_length=12), enable_server=False):
            await anyio.sleep(60)
        assert server.shown(1) == ["It is 7"]
        assert "deleteMessage" in methods(server) and server.refusals == []


async def test_a_beginning_whose_number_is_not_told_is_not_edited() -> None:
    async with TelegramServer().running() as server:
        server.fail("sendMessage", Page(b'{"ok": true, "result": true}', status=200))
        await answered(server, COUNTING)
        assert server.shown(1) == [COUNTING]
        assert methods(server) == ["sendMessage"]
