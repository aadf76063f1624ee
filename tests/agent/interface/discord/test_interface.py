"""A served Discord bot against the loopback server: from what somebody writes to what the bot posts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
from loopback.discord_bot import GUILD, bot_for, serving
from loopback.discord_objects import BOT, BOT_ID, TOKEN, message, user
from loopback.discord_server import DiscordServer

from definable.agent import Agent
from definable.agent.interface import (
    InterfaceConnectionError,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceResponse,
)
from definable.agent.runtime.supervisor import InterfaceState
from definable.concurrency.backoff import Backoff
from definable.model import ModelReply, ModelRequest, OfflineModel

pytestmark = pytest.mark.anyio


async def test_a_message_is_answered_with_a_reply_that_pings_nobody() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)) as runtime:
        await server.until(lambda: server.on_line)
        message = await server.say("10", "hello @everyone")
        await server.until(lambda: server.posted)
        (posted,) = server.posted
        assert (posted.channel, posted.content, posted.reply_to) == ("10", "hello @everyone", message)
        assert posted.body["allowed_mentions"] == {"parse": []}
        runtime.stop()
    assert runtime.report is not None and runtime.report.sources["discord"].completed == 1
    assert server.violations == []


async def test_its_own_messages_and_those_of_bots_are_not_answered() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.say("10", "a bot's", "8", webhook_id="8")
        await server.say("10", "a question")
        await server.until(lambda: server.posted)
        await anyio.sleep(0.1)  # its own answer comes back over the gateway
        assert [each.content for each in server.posted] == ["a question"]
        assert BOT["bot"] is True


async def test_typing_is_shown_while_the_agent_runs() -> None:
    agent = Agent(OfflineModel(latency=0.5))
    async with DiscordServer().running() as server, serving(agent, bot := bot_for(server)):
        type(bot).typing_interval, former = 0.2, type(bot).typing_interval
        try:
            await server.until(lambda: server.on_line)
            await server.say("10", "hello")
            await server.until(lambda: server.posted)
        finally:
            type(bot).typing_interval = former
        assert former == 8.0 and 2 <= len(server.typings) <= 3


async def test_a_long_reply_comes_in_parts_with_its_code_whole_and_one_reference() -> None:
    code = "\n".join(f"line {number}" for number in range(400))
    agent = Agent(OfflineModel([f"See:\n\n```python\n{code}\n```"]))
    async with DiscordServer().running() as server, serving(agent, bot_for(server)):
        await server.until(lambda: server.on_line)
        message = await server.say("10", "code")
        await server.until(lambda: "line 399" in "".join(each.content for each in server.posted))
        parts = [each.content for each in server.posted]
        assert len(parts) > 1 and all(part.count("```") == 2 and len(part) <= 2000 for part in parts)
        assert [each.reply_to for each in server.posted] == [message] + [None] * (len(parts) - 1)
        assert server.violations == []


async def test_a_conversation_goes_on_after_an_image_in_it_was_deleted() -> None:
    """Providers fetch an image that they are given by its URL anew at every request, and refuse one that is gone."""

    def look(request: ModelRequest) -> str:
        images = [image for message in request.messages for image in message.images]
        for url in [image.url for image in images if image.url is not None]:
            httpx2.get(url, timeout=5).raise_for_status()
        return f"seen: {[image.data for image in images]}"

    class Looker(OfflineModel):
        async def reply(self, request: ModelRequest) -> ModelReply:
            return ModelReply(await anyio.to_thread.run_sync(look, request))

    async with DiscordServer().running() as server, serving(Agent(Looker()), bot_for(server, stream_replies=False)):
        await server.until(lambda: server.on_line)
        await server.say("10", "what is this?", attachments=[server.attach("a.png", b"png", "image/png")])
        await server.until(lambda: len(server.posted) == 1)
        server.files.clear()
        await server.say("10", "and its colour?")
        await server.until(lambda: len(server.posted) == 2)
        assert [each.content for each in server.posted] == ["seen: [b'png']"] * 2
        assert server.violations == []


async def test_what_fails_is_said_to_the_user() -> None:
    agent = Agent(OfflineModel([ZeroDivisionError, "fine"]))
    async with DiscordServer().running() as server, serving(agent, bot_for(server)):
        await server.until(lambda: server.on_line)
        for _ in range(2):
            await server.say("10", "hello")
        await server.until(lambda: len(server.posted) == 2)
        assert server.posted[0].content.startswith("Sorry") and server.posted[1].content == "fine"


async def test_the_error_message_is_a_reply_when_the_answer_was_not_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "definable.agent.interface.discord.rest.RETRY_BACKOFF", Backoff(0.01, max_tries=5, max_retry_after=60)
    )
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        server.fail_next("/messages", 500, 500, 500, 500, 500)
        said = await server.say("10", "hello")
        await server.until(lambda: server.posted)
        assert server.posted[0].content.startswith("Sorry") and server.posted[0].reply_to == said


async def test_a_channel_that_is_closed_to_the_bot_fails_that_message_alone() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)) as runtime:
        server.forbidden_channels.add("20")
        await server.until(lambda: server.on_line)
        await server.say("20", "here?")
        await server.say("10", "there?")
        await server.until(lambda: server.posted and runtime.tracker.active() == 0)
        assert [each.channel for each in server.posted] == ["10"]


async def test_a_channel_whose_history_the_bot_may_not_read_is_answered_without_a_reference() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)) as runtime:
        server.unread_channels.add("20")
        await server.until(lambda: server.on_line)
        await server.say("20", "here?")
        await server.until(lambda: server.posted and runtime.tracker.active() == 0)
        assert [(each.content, each.reply_to) for each in server.posted] == [("here?", None)]
        runtime.stop()
    assert runtime.report is not None and runtime.report.sources["discord"].completed == 1
    assert server.violations == []


FAULTS: dict[str, Callable[[DiscordServer], Any]] = {
    "drop": DiscordServer.drop,
    "op 7": DiscordServer.ask_to_reconnect,
    "op 9, resumable": lambda server: server.invalidate(resumable=True),
    "op 9": lambda server: server.invalidate(resumable=False),
    "no json": lambda server: server.every_connection(lambda connection: connection.raw("{")),
} | {
    f"close {code}": lambda server, code=code: server.close(code)
    for code in (1000, 1001, 1011, *range(4000, 4004), 4005, 4007, 4008, 4009)
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_bot_is_back_after(fault: str) -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.until_back(lambda: FAULTS[fault](server))
        await server.say("10", "still there?")
        await server.until(lambda: server.posted)
        assert not {1000, 1001} & {*server.client_closes}
        new_session = fault in ("op 9", "close 4003", "close 4007", "close 4009")
        assert (len(server.identified), len(server.resumed)) == ((2, 0) if new_session else (1, 1))
        assert server.violations == []


async def test_a_zombie_is_noticed_and_what_it_swallowed_is_replayed() -> None:
    async with DiscordServer(heartbeat_interval=0.1).running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        server.turn_into_zombies()
        await server.say("10", "swallowed")
        await server.until(lambda: server.posted)
        assert [each.content for each in server.posted] == ["swallowed"]
        assert len(server.resumed) == 1 and 4000 in server.client_closes


async def test_events_that_a_resume_brings_again_are_answered_once() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        for number in range(5):
            await server.say("10", str(number))
        await server.until(lambda: len(server.posted) == 5)
        server.replays_again = 10
        await server.until_back(server.drop)
        await server.say("10", "last")
        await server.until(lambda: server.posted[-1].content == "last")
        assert [each.content for each in server.posted] == ["0", "1", "2", "3", "4", "last"]


async def test_events_that_a_resume_brings_again_after_a_restart_are_answered_once() -> None:
    async with DiscordServer().running() as server:
        bot = bot_for(server)
        async with serving(Agent("offline"), bot):
            await server.until(lambda: server.on_line)
            for number in range(3):
                await server.say("10", str(number))
            await server.until(lambda: len(server.posted) == 3)
        server.replays_again = 3
        await server.say("10", "last")
        async with serving(Agent("offline"), bot):
            await server.until(lambda: server.posted[-1].content == "last")
        assert [each.content for each in server.posted] == ["0", "1", "2", "last"]


@pytest.mark.parametrize("poison", [{"id": "9" * 5000}, {"id": None}, {"author": 7}, {"channel_id": 7}])
async def test_an_event_that_makes_no_sense_is_passed_over_and_throws_nobody_off_line(poison: dict[str, Any]) -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.dispatch("MESSAGE_CREATE", message("10", user("7", "user7"), "hm?") | poison)
        await server.say("10", "still there?")
        await server.until(lambda: server.posted)
        assert [each.content for each in server.posted] == ["still there?"]
        assert (len(server.identified), server.resumed) == (1, [])


async def test_a_requested_heartbeat_comes_at_once() -> None:
    async with DiscordServer(heartbeat_interval=60).running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.every_connection(lambda connection: connection.payload(1))
        await server.until(lambda: any(op == 1 for op, _ in server.heard))


@pytest.mark.parametrize("refuse", ["token", "intent"])
async def test_a_refused_bot_fails_for_good_and_health_says_so(refuse: str, caplog: pytest.LogCaptureFixture) -> None:
    async with DiscordServer().running() as server:
        bot = bot_for(server)
        if refuse == "intent":
            server.forbidden_intents = 1 << 15
        elif refuse == "token":
            server.token = "another"
        async with serving(Agent("offline"), bot) as runtime:
            await runtime.supervisors[0].received.wait()
            await runtime.bus.drain()
            assert runtime.supervisors[0].state is InterfaceState.FAILED
            assert runtime.health()[0] is False
        assert TOKEN not in caplog.text


async def test_the_token_is_in_no_log_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.until_back(server.drop)
        await server.say("10", "hello")
        await server.until(lambda: server.posted)
    assert "resumed" in caplog.text and TOKEN not in caplog.text


async def test_a_service_that_comes_back_gets_what_was_said_meanwhile() -> None:
    async with DiscordServer().running() as server:
        agent, bot = Agent("offline"), bot_for(server)
        async with serving(agent, bot):
            await server.until(lambda: server.on_line)
            await server.say("10", "before")
            await server.until(lambda: server.posted)
        await server.say("10", "meanwhile")
        async with serving(agent, bot):
            await server.until(lambda: len(server.posted) == 2)
            await server.say("10", "after")
            await server.until(lambda: len(server.posted) == 3)
        assert [each.content for each in server.posted] == ["before", "meanwhile", "after"]
        assert len(server.identified) == 1 and server.violations == []


async def test_sending_needs_a_served_interface() -> None:
    bot = bot_for(DiscordServer(), base_url="http://127.0.0.1:9")
    with pytest.raises(InterfaceConnectionError, match="not being served"):
        await bot.send(InterfaceMessage("discord", "7", "10", "1"), InterfaceResponse("hello"))


async def test_a_channel_that_may_not_be_written_to_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        server.fail_next("/messages", 403)
        await server.say("10", "one")
        await server.until(lambda: not server.faults)
        await server.say("10", "two")
        await server.until(lambda: server.posted)
        assert [each.content for each in server.posted] == ["two"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "chat 10 cannot be written to" in warning


async def test_a_send_that_discord_refuses_raises_and_a_long_one_is_split() -> None:
    answered = InterfaceMessage("discord", "9", "10", "11", text="hello")
    async with DiscordServer().running() as server, serving(Agent("offline"), bot := bot_for(server)):
        await server.until(lambda: server.on_line)
        await bot.send(answered, InterfaceResponse("word " * 600))
        server.fail_next("/messages", 403)
        with pytest.raises(InterfaceMessageError) as raised:
            await bot.send(answered, InterfaceResponse("hello"))
        assert raised.value.status == 403
        assert "".join(f"{each.content} " for each in server.posted).split() == ["word"] * 600
        assert len(server.posted) == 2


async def test_in_a_server_the_bot_speaks_when_it_is_meant() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line)
        await server.say("10", "Bob, lunch?", guild_id=GUILD)
        await server.say("10", "@everyone meeting", guild_id=GUILD, mention_everyone=True)
        await server.say("10", f"<@{BOT_ID}> what is it?", guild_id=GUILD, mentions=[BOT])
        await server.until(lambda: server.posted)
        assert [each.content for each in server.posted] == ["what is it?"]


async def test_the_commands_of_the_service_are_shown_and_answered() -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)):
        await server.until(lambda: server.on_line and server.commands)
        assert {"stop", "new", "help"} <= server.commands[None].keys()
        used = await server.interactions.use("10", "help", guild_id=GUILD)
        await server.until(lambda: used.answers)
        assert "/new" in used.answers[0] and used.response == {"type": 5, "data": {"flags": 64}}
        asked = await server.interactions.use("10", "ask", "what is 2+2?")
        await server.until(lambda: asked.answers)
        assert "what is 2+2?" in asked.answers[0] and server.violations == []
