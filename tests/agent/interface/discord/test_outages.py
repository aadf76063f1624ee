"""A bot that cannot hear says so: each failure with its log line, and with what `/health` says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from loopback.discord_bot import bot_for, serving
from loopback.discord_objects import TOKEN
from loopback.discord_server import DiscordServer

from definable.agent import Agent
from definable.agent.runtime.supervisor import InterfaceState
from definable.concurrency.backoff import Backoff

pytestmark = pytest.mark.anyio

FATAL = [
    (4004, "Discord refuses the bot's token (closed with 4004"),
    (4010, "Discord refuses the bot (closed with 4010: invalid shard"),
    (4011, "closed with 4011: the bot is in too many servers for one connection: sharding is required"),
    (4012, "closed with 4012: invalid version of the gateway"),
    (4013, "closed with 4013: invalid intents"),
    (
        4014,
        "switch on the Message Content Intent on the page Bot of the developer portal, or set intents_message_content",
    ),
]
"""Close codes after which Discord's "Opcodes and Status Codes" says not to connect again, and what the log says."""

PASSING: dict[str, tuple[Callable[[DiscordServer], Any], str]] = {
    "drop": (DiscordServer.drop, "the connection broke"),
    "op 7": (DiscordServer.ask_to_reconnect, "Discord asks to connect again"),
    "op 9, resumable": (lambda server: server.invalidate(resumable=True), "the session is not to be had just now"),
    "op 9": (lambda server: server.invalidate(resumable=False), "the session is no longer valid"),
    "no json": (
        lambda server: server.every_connection(lambda connection: connection.raw("{")),
        "the gateway sent something else than a payload",
    ),
    **{
        f"close {code}": (lambda server, code=code: server.close(code), f"closed with {code}")
        for code in (4000, 4001, 4002, 4003, 4005, 4007, 4008, 4009)
    },
}
"""What happens several times a day or now and then, and what the log says of it."""

OUTAGES: dict[str, tuple[Callable[[DiscordServer], Any], str]] = {
    "no gateway": (lambda server: setattr(server, "rejects_sockets", True), "the gateway cannot be reached: "),
    "no session starts": (
        lambda server: vars(server).update(session_starts_left=0, start_limit_resets=3600.0),
        "Discord session start limit: retry in 3600 s",
    ),
    "API down": (lambda server: server.fail_next("/gateway/bot", *[503] * 50), "GET /gateway/bot: 503"),
    "API refuses": (
        lambda server: setattr(server, "token", "another"),
        "Discord refuses the bot's token (GET /gateway/bot: 401",
    ),
    "shut out": (lambda server: server.limit_next("/gateway/bot", 3600.0, is_global=True), "GET /gateway/bot: 429"),
}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "definable.agent.interface.discord.rest.RETRY_BACKOFF", Backoff(0.01, max_tries=5, max_retry_after=60)
    )


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def check_that_it_is_said(runtime: Any, server: DiscordServer, words: str, caplog: Any) -> None:
    await server.until(lambda: errors(caplog))
    well, document = runtime.health()  # one that is tried again is well for two minutes
    state = document["children"]["discord"]["state"]
    assert state in ("failed", "restarting") and well == (state == "restarting")
    assert len(errors(caplog)) == 1 and words in errors(caplog)[0], errors(caplog)
    assert "Traceback" not in caplog.text and TOKEN not in caplog.text


@pytest.mark.parametrize(("code", "words"), FATAL)
async def test_a_bot_that_is_refused_says_why_and_shows_in_health(
    code: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)) as runtime:
        await server.until(lambda: server.on_line)
        await server.close(code)
        await check_that_it_is_said(runtime, server, words, caplog)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_said_once_and_shows_in_health(outage: str, caplog: pytest.LogCaptureFixture) -> None:
    happens, words = OUTAGES[outage]
    async with DiscordServer().running() as server:
        happens(server)
        async with serving(Agent("offline"), bot_for(server)) as runtime:
            await check_that_it_is_said(runtime, server, words, caplog)


@pytest.mark.parametrize("event", PASSING)
async def test_what_passes_is_no_error_and_stands_in_the_log(event: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "definable")
    happens, words = PASSING[event]
    async with DiscordServer().running() as server, serving(Agent("offline"), bot_for(server)) as runtime:
        await server.until(lambda: server.on_line)
        await server.until_back(lambda: happens(server))
        assert runtime.health()[0] and runtime.supervisors[0].state is InterfaceState.RUNNING
    ends = [line for line in caplog.messages if "the gateway connection ended" in line]
    assert len(ends) == 1 and words in ends[0] and errors(caplog) == []


async def test_missed_heartbeats_are_no_error_and_stand_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "definable")
    async with DiscordServer(heartbeat_interval=0.1).running() as server:
        async with serving(Agent("offline"), bot_for(server)) as runtime:
            await server.until(lambda: server.on_line)
            before = server.came_on_line
            server.turn_into_zombies()
            await server.until(lambda: server.came_on_line > before and server.on_line)
            assert runtime.health()[0]
    assert "the last heartbeat was not acknowledged" in caplog.text and errors(caplog) == []
