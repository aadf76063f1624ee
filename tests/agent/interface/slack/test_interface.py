"""A Slack app against the loopback Slack, over sockets and over HTTP: what is said, answered, shown and pressed."""

from __future__ import annotations

from typing import Any

import pytest
from loopback.slack import SlackServer
from loopback.slack_bot import Mode, app_for, serving

from definable.agent import Agent
from definable.agent.interface import InterfaceHook, InterfaceMessage

pytestmark = pytest.mark.anyio

MODES: list[Mode] = ["socket", "events"]


class Heard(InterfaceHook):
    """Notes what the agent is about to answer."""

    holds_back_replies = False

    def __init__(self) -> None:
        self.messages: list[InterfaceMessage] = []

    async def on_before_respond(self, message: InterfaceMessage, session: Any) -> None:
        self.messages.append(message)


@pytest.mark.parametrize("mode", MODES)
async def test_a_direct_message_is_answered(mode: Mode) -> None:
    async with SlackServer().running() as server:
        heard = Heard()
        async with serving(Agent("offline"), app_for(server, mode, hooks=[heard]), server):
            await server.say("D1", "hello **you**")
            await server.until(lambda: server.shown("D1"))
        assert server.shown("D1") == ["hello you"] and server.own("D1")[0].get("thread_ts") is None
        (message,) = heard.messages
        assert (message.username, message.locale, message.timezone) == ("Ann", "nb-NO", "Europe/Oslo")
        assert message.is_direct and message.is_addressed and message.thread_id is None
        assert server.violations == [] and server.lost == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_mention_is_two_events_and_one_answer_in_a_thread_of_its_own(mode: Mode) -> None:
    async with SlackServer().running() as server:
        heard = Heard()
        async with serving(Agent("offline"), app_for(server, mode, hooks=[heard]), server):
            ts = await server.say("C1", f"<@{server.bot_user}> hello, <@U2> &amp; <https://e.com/a|all>")
            await server.until(lambda: server.shown("C1"))
            await server.say("D1", "last")
            await server.until(lambda: server.shown("D1"))
        assert server.shown("C1", ts) == ["hello, @Bob & allhttps://e.com/a"] and len(server.own("C1")) == 1
        assert heard.messages[0].text == "hello, @Bob & [all](https://e.com/a)"
        assert (heard.messages[0].thread_id, heard.messages[0].is_direct) == (ts, False)
        assert server.violations == [] and server.lost == []
