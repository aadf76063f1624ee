"""Replies that are edited while the model writes them, as Discord sees it: at a tenth of the usual intervals."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from loopback.discord_bot import bot_for, serving
from loopback.discord_rest import limited
from loopback.discord_server import DiscordServer, Fault
from loopback.openai_server import FAILING_REPLIES, SPOKEN, OpenAIServer
from loopback.slow_typist import SlowTypist

from definable.agent import Agent
from definable.agent.interface import (
    DiscordInterface,
    InterfaceConnectionError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)
from definable.agent.interface.discord.rest import open_rest
from definable.agent.interface.splitting import split_text
from definable.concurrency.backoff import Backoff
from definable.model import ModelReply, OpenAIChat, ToolCall

pytestmark = pytest.mark.anyio

COUNTING = " ".join(str(number) for number in range(20))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiscordInterface, "edit_interval", 0.1)
    monkeypatch.setattr(
        "definable.agent.interface.discord.rest.RETRY_BACKOFF", Backoff(0.01, max_tries=5, max_retry_after=60)
    )


def counting(*script: Any, **options: Any) -> Agent:
    return Agent(SlowTypist(*(script or (COUNTING,)), **{"pause": 0.025, **options}))


async def answered(server: DiscordServer, agent: Agent, **settings: Any) -> str:
    """Somebody writes, and is answered to the end; returns the message's id."""
    async with serving(agent, bot_for(server, **settings)) as runtime:
        await server.until(lambda: server.on_line)
        said = await server.say("10", "hello")
        await server.until(lambda: server.shown("10"))
        runtime.stop()
    assert runtime.report is not None and runtime.report.clean
    return said


async def test_a_reply_is_posted_at_its_beginning_and_edited_until_it_is_whole() -> None:
    async with DiscordServer().running() as server:
        said = await answered(server, counting())
        assert server.shown("10") == [COUNTING]
        (posted,) = server.posted
        assert posted.reply_to == said and COUNTING.startswith(posted.content) and posted.content != COUNTING
        assert 2 <= len(server.edits) <= 6
        assert server.violations == []


async def test_a_quick_reply_is_one_message() -> None:
    async with DiscordServer().running() as server:
        await answered(server, counting("one two"))
        assert server.shown("10") == ["one two"] and server.edits == []


async def test_a_long_one_goes_on_in_further_messages_the_first_of_which_is_the_reply() -> None:
    async with DiscordServer().running() as server:
        said = await answered(server, counting(), max_message_length=12)
        assert server.shown("10") == split_text(COUNTING, 10)  # of 12, some are kept for backslashes
        assert [each.reply_to for each in server.posted] == [said] + [None] * (len(server.posted) - 1)
        assert server.violations == []


async def test_edits_ping_nobody() -> None:
    async with DiscordServer().running() as server:
        await answered(server, counting("@everyone " + COUNTING))
        assert server.edits and server.violations == []  # the server looks at every edit


async def test_what_the_reply_does_not_need_after_all_is_deleted() -> None:
    def look_up() -> str:
        """Look it up."""
        return "7"

    call = ModelReply(COUNTING, tool_calls=(ToolCall("look_up", {}),))
    agent = Agent(SlowTypist(call, "It is 7", pause=0.025), tools=[look_up])
    async with DiscordServer().running() as server:
        await answered(server, agent, max_message_length=12)
        assert server.shown("10") == ["It is 7"]
        assert len(server.posted) > 1 and server.violations == []


async def test_the_buckets_of_posts_and_edits_are_kept_apart_and_full_ones_waited_for() -> None:
    async with DiscordServer().running() as server:
        server.per_window, server.window = 2, 0.5
        await answered(server, counting(pause=0.05))
        assert server.shown("10") == [COUNTING]
        assert server.violations == []


async def test_a_429_holds_up_the_edits_that_follow() -> None:
    async with DiscordServer().running() as server:
        server.faults.append(Fault("answer", limited(0.6, is_global=False), path="/messages"))
        await answered(server, counting(pause=0.05))
        assert server.shown("10") == [COUNTING] and server.violations == []


@pytest.mark.parametrize("kind", ["vanish", "vanish after"])
async def test_the_beginning_is_there_once_although_its_answer_was_lost(kind: Any) -> None:
    async with DiscordServer().running() as server:
        server.faults.append(Fault(kind, path="/messages"))
        await answered(server, counting(pause=0.05))
        assert server.shown("10") == [COUNTING] and len(server.posted) == 1


async def test_a_message_that_is_gone_is_posted_anew() -> None:
    async with DiscordServer().running() as server, serving(counting(pause=0.05), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.say("10", "hello")
        await server.until(lambda: server.posted)
        server.messages.clear()
        await server.until(lambda: server.shown("10"))
        assert server.shown("10") == [COUNTING]


@pytest.mark.parametrize("reply", FAILING_REPLIES)
async def test_a_reply_of_a_provider_that_is_no_answer_ends_in_an_apology(reply: str) -> None:
    async with OpenAIServer().running() as provider, DiscordServer().running() as server:
        provider.play(*FAILING_REPLIES[reply])
        model = OpenAIChat("gpt-4o", provider.key, provider.url)
        async with serving(Agent(model), bot_for(server)):
            await server.until(lambda: server.on_line)
            await server.say("10", "hello")
            await server.until(lambda: any(text.startswith("Sorry") for text in server.shown("10")))
            *beginning, sorry = server.shown("10")
            assert sorry.startswith("Sorry") and len(beginning) <= 1
            assert all(SPOKEN.startswith(text) for text in beginning)
            await server.say("10", "again")
            await server.until(lambda: server.shown("10")[-1] == "ok")
        assert server.violations == []


async def test_a_run_that_fails_says_so_after_its_beginning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with DiscordServer().running() as server, serving(counting(fails_after=12), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.say("10", "hello")
        await server.until(lambda: len(server.shown("10")) == 2)
        beginning, sorry = server.shown("10")
        assert COUNTING.startswith(beginning) and sorry.startswith("Sorry")


async def test_an_edit_is_tried_once_and_waits_for_no_bucket_that_is_empty_for_long() -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        id = await rest.create_message("10", {"content": "one", "nonce": "1", "allowed_mentions": {"parse": []}})
        assert id is not None
        server.fail_next(id, 500, 404)
        with pytest.raises(InterfaceConnectionError):
            await rest.edit_message("10", id, {"content": "two", "allowed_mentions": {"parse": []}})
        with pytest.raises(InterfaceMessageError) as caught:
            await rest.edit_message("10", id, {"content": "two", "allowed_mentions": {"parse": []}})
        assert caught.value.status == 404
        server.limit_next(id, 30)
        for _ in range(2):  # the second without a request
            with pytest.raises(InterfaceRateLimitError) as limit:
                await rest.edit_message("10", id, {"content": "two", "allowed_mentions": {"parse": []}})
            assert limit.value.retry_after == pytest.approx(30, abs=1)
        await rest.create_message("10", {"content": "posts have a bucket of their own", "nonce": "2"})
        await rest.delete_message("10", id)
        assert server.shown("10") == ["posts have a bucket of their own"]
