"""What Discord refuses of an answer costs the decoration, never the text."""

from __future__ import annotations

import pytest
from loopback.discord_bot import bot_for, serving
from loopback.discord_rest import Answer
from loopback.discord_server import DiscordServer, Fault

from definable.agent import Agent
from definable.agent.interface import (
    Button,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceRateLimitError,
    InterfaceResponse,
    Media,
)
from definable.agent.interface.discord.rest import LONGEST_POST_WAIT
from definable.concurrency.backoff import Backoff

pytestmark = pytest.mark.anyio

ANSWERED = InterfaceMessage("discord", "7", "10", "11", text="hello")

BUTTONS = ((Button("Yes", "y"), Button("Read", url="https://e.com")), (Button("No"),))


def file(name: str, size: int = 3) -> Media:
    return Media(data=b"x" * size, filename=name)


async def sent(response: InterfaceResponse, *answers: Answer, message: InterfaceMessage = ANSWERED) -> DiscordServer:
    """A server that was sent a response, and answered the first posts so."""
    server = DiscordServer()
    async with server.running(), serving(Agent("offline"), bot := bot_for(server)):
        await server.until(lambda: server.on_line)
        server.faults.extend(Fault("answer", answer, path="/messages") for answer in answers)
        await bot.send(message, response)
    assert server.violations == []
    return server


def refusal(status: int, code: int, message: str = "no") -> Answer:
    return Answer(status, {"message": message, "code": code})


@pytest.mark.parametrize(
    "answer",
    [
        refusal(413, 40005, "Request entity too large"),
        Answer(413, content=b"<html>413", content_type="text/html"),
        refusal(400, 50035, "Invalid Form Body"),
        refusal(403, 50013, "Missing Permissions"),  # to attach files
        refusal(400, 20009, "Explicit content cannot be sent to the desired recipient(s)"),
    ],
)
async def test_a_file_that_is_refused_is_named_under_the_text(answer: Answer) -> None:
    server = await sent(InterfaceResponse("THE ANSWER", files=(file("a.bin"),)), answer)
    assert [each.content for each in server.posted] == ["THE ANSWER\n[a.bin: not sent, 3 bytes]"]


async def test_of_several_files_those_that_are_taken_are_sent() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot := bot_for(server)):
        await server.until(lambda: server.on_line)
        server.largest_upload = 3
        response = InterfaceResponse("THE ANSWER", files=(file("a"), file("big", 4), file("c")))
        await bot.send(ANSWERED, response)
        assert [(each.content, list(each.files)) for each in server.posted] == [
            ("THE ANSWER", []),
            ("", ["a"]),
            ("[big: not sent, 4 bytes]", []),
            ("", ["c"]),
        ]


async def test_links_and_buttons_that_are_refused_are_written() -> None:
    link = Media(url="https://e.com/a b", filename="x")
    server = await sent(InterfaceResponse("see", files=(link,)), refusal(400, 50035))
    assert [each.content for each in server.posted] == ["see\nhttps://e.com/a b"]
    server = await sent(InterfaceResponse("ok?", buttons=BUTTONS[:1]), refusal(400, 50035))
    assert [each.content for each in server.posted] == ["ok?\n- Yes\n- Read: https://e.com"]


async def test_a_reference_that_is_refused_is_left_out() -> None:
    server = await sent(InterfaceResponse("hello"), refusal(400, 50035, "Cannot reply to a system message"))
    assert [(each.content, each.reply_to) for each in server.posted] == [("hello", None)]


async def test_a_text_that_is_refused_raises() -> None:
    blocked = refusal(400, 200000, "Message was blocked by automatic moderation")
    async with DiscordServer().running() as server, serving(Agent("offline"), bot := bot_for(server)):
        await server.until(lambda: server.on_line)
        server.faults.extend([Fault("answer", blocked, path="/messages")] * 2)
        with pytest.raises(InterfaceMessageError, match="automatic moderation"):
            await bot.send(ANSWERED, InterfaceResponse("hello"))
        assert server.posted == []


async def test_the_channel_of_a_thread_that_is_gone_is_answered() -> None:
    message = InterfaceMessage("discord", "7", "10", "11", text="hello", thread_id="404")
    server = await sent(InterfaceResponse("THE ANSWER", files=(file("a"),)), message=message)
    assert [(each.channel, each.content, list(each.files)) for each in server.posted] == [("10", "THE ANSWER", ["a"])]


async def test_a_message_waits_longer_for_a_limit_than_what_only_decorates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "definable.agent.interface.discord.rest.RETRY_BACKOFF", Backoff(0.01, max_tries=5, max_retry_after=0.1)
    )
    async with DiscordServer().running() as server, serving(Agent("offline"), bot := bot_for(server)):
        await server.until(lambda: server.on_line)
        server.limit_next("/typing", 0.3)
        with pytest.raises(InterfaceRateLimitError):
            await bot.typing(ANSWERED)
        server.limit_next("/messages", 0.3)
        await bot.send(ANSWERED, InterfaceResponse("THE ANSWER"))
        assert [each.content for each in server.posted] == ["THE ANSWER"]
    assert LONGEST_POST_WAIT >= 90
