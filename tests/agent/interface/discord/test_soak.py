"""Five hundred messages through every fault at once: each is answered exactly once, in its channel's order."""

from __future__ import annotations

import random
from collections import defaultdict

import anyio
import pytest
from loopback.discord_bot import bot_for, serving
from loopback.discord_rest import Answer, limited
from loopback.discord_server import DiscordServer, Fault

from definable.agent import Agent
from definable.agent.interface import DiscordInterface
from definable.concurrency.backoff import Backoff
from definable.model import OfflineModel

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CHANNELS = tuple(str(number) for number in range(10, 20))

MESSAGES = 500

REST_FAULTS = (
    Fault("answer", Answer(500, {"message": "fault"}), path="/messages"),
    Fault("answer", Answer(502, content=b"<html>", content_type="text/html"), path="/messages"),
    Fault("answer", limited(0.05, is_global=False), path="/messages"),
    Fault("answer", limited(0.05, is_global=True), path="/messages"),
    Fault("slow", seconds=0.05, path="/messages"),
    Fault("vanish", path="/messages"),
    Fault("vanish after", path="/messages"),
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "definable.agent.interface.discord.rest.RETRY_BACKOFF", Backoff(0.01, max_tries=12, max_retry_after=60)
    )


async def talk(server: DiscordServer, said: dict[str, list[str]], first: int, count: int) -> None:
    for number in range(first, first + count):
        channel = random.choice(CHANNELS)
        said[channel].append(str(number))
        await server.say(channel, str(number), author=str(1000 + number % 17))
        await anyio.sleep(0.002)


async def make_trouble(server: DiscordServer) -> None:
    """One fault after the other, for ever; none of those that lose the session, which lose messages by design."""
    while True:
        await anyio.sleep(random.uniform(0.05, 0.2))
        await server.until(lambda: server.on_line)  # or a slow machine would never get there
        server.replays_again = random.randrange(4)
        match random.randrange(7):
            case 0:
                await server.drop()
            case 1:
                await server.ask_to_reconnect()
            case 2:
                await server.invalidate(resumable=True)
            case 3:
                await server.close(random.choice([1001, 1011, 4000, 4001, 4002, 4005, 4008]))
            case 4:
                server.turn_into_zombies()
            case 5:
                await server.every_connection(lambda connection: connection.raw("{"))
            case _:
                server.faults.append(random.choice(REST_FAULTS))


def answers(server: DiscordServer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for posted in server.posted:
        found[posted.channel].append(posted.content)
    return found


def troubled_server() -> DiscordServer:
    server = DiscordServer(heartbeat_interval=0.1, channels=CHANNELS)
    server.per_window, server.window = 5, 0.02
    return server


def tireless_bot(server: DiscordServer) -> DiscordInterface:
    return bot_for(server, max_concurrent_requests=20, typing_indicator=False)


async def test_every_message_is_answered_exactly_once_in_its_channels_order() -> None:
    said: dict[str, list[str]] = defaultdict(list)
    agent = Agent(OfflineModel(latency=0.001))
    async with troubled_server().running() as server, serving(agent, tireless_bot(server), within=90) as runtime:
        await server.until(lambda: server.on_line)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make_trouble, server)
            await talk(server, said, 0, MESSAGES)
            await server.until(lambda: len(server.posted) >= MESSAGES)
            tasks.cancel_scope.cancel()
        runtime.stop()
    assert answers(server) == said
    assert runtime.report is not None and runtime.report.clean
    assert runtime.report.sources["discord"].completed == MESSAGES
    assert server.violations == [] and len(server.identified) == 1 and len(server.resumed) > 3
    assert server.busiest_second <= 55, "a busy machine may hold up some until the next second's come"


async def test_a_graceful_restart_in_the_middle_loses_and_repeats_nothing() -> None:
    said: dict[str, list[str]] = defaultdict(list)
    agent, completed = Agent(OfflineModel(latency=0.01)), 0
    async with troubled_server().running() as server:
        bot = tireless_bot(server)
        server.per_second = 10_000  # each start has a budget of its own
        for part in range(3):
            async with serving(agent, bot, within=60) as runtime:
                await server.until(lambda: server.on_line)
                await talk(server, said, part * 60, 60)
                runtime.stop()  # with most of them not answered yet
            assert runtime.report is not None and runtime.report.clean
            completed += runtime.report.sources["discord"].completed
            await talk(server, said, 1000 + part * 10, 10)  # while nobody listens
        async with serving(agent, bot, within=60) as runtime:
            await server.until(lambda: len(server.posted) == 210)
        assert runtime.report is not None
        completed += runtime.report.sources["discord"].completed
    assert answers(server) == said
    assert completed == 210 and len(server.identified) == 1 and server.violations == []
