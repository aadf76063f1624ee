"""Messages through every fault of sockets and of the Web API, with restarts in the middle: each is answered once.

Some messages; DEFINABLE_SOAK_MESSAGES sets another number. The bus is durable: it remembers over a
restart what came before, also where its acknowledgement was lost.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import anyio
import pytest
from loopback.slack import Answer, Fault, SlackServer
from loopback.slack_bot import app_for, serving
from loopback.slack_socket import SocketConnection

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.interface.slack import client, sockets
from definable.concurrency.backoff import Backoff
from definable.model import OfflineModel

MESSAGES = int(os.environ.get("DEFINABLE_SOAK_MESSAGES", "45"))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120 + MESSAGES * 0.3)]

SERVINGS = 3

CHANNELS = tuple(f"D{number}" for number in range(100, 140))

REST_FAULTS = (
    Fault("answer", "chat.postMessage", Answer(document={"ok": False, "error": "service_unavailable"})),
    Fault("answer", "chat.postMessage", Answer(503, content=b"<html>", content_type="text/html")),
    Fault("answer", "chat.postMessage", Answer(429, {"ok": False, "error": "ratelimited"}, {"Retry-After": "0"})),
    Fault("answer", "users.info", Answer(502, content=b"<html>", content_type="text/html")),
    Fault("slow", "chat.postMessage", seconds=0.05),
    Fault("vanish", "auth.test"),
    Fault("vanish", "apps.connections.open"),
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Backoff(0.01, max_tries=20, max_retry_after=60)
    monkeypatch.setattr(client.SlackAPI.call, "__kwdefaults__", {"backoff": quick})
    monkeypatch.setattr(sockets, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(sockets, "PONG_TIMEOUT", 1.0)
    monkeypatch.setattr(sockets, "PATIENCE", 1000)  # the supervisor's waits are not what is soaked


async def make_trouble(server: SlackServer) -> None:
    """One fault after the other, for ever."""
    await server.every_connection(SocketConnection.drop)
    while True:
        await anyio.sleep(random.uniform(0.02, 0.1))
        await server.until(lambda: server.on_line)
        match random.randrange(7):
            case 0:
                await server.every_connection(SocketConnection.drop)
            case 1:
                await server.every_connection(lambda socket: socket.close(random.choice([1000, 1001, 1011])))
            case 2:
                await server.every_connection(lambda socket: socket.disconnect("warning"))
            case 3:
                await server.every_connection(lambda socket: socket.disconnect("refresh_requested"))
            case 4:
                for connection in server.connections:
                    connection.is_zombie = True
            case 5:
                await server.every_connection(lambda socket: socket.raw("{"))
            case _:
                server.faults.append(random.choice(REST_FAULTS))


async def talk(server: SlackServer, first: int, count: int) -> None:
    for number in range(first, first + count):
        await server.say(random.choice(CHANNELS), f"message {number}", user=random.choice(["U1", "U2"]))
        await anyio.sleep(0.005)


async def test_every_message_is_answered_once(tmp_path: Path) -> None:
    share, completed = MESSAGES // SERVINGS, 0
    async with SlackServer().running() as server:
        server.channels |= dict.fromkeys(CHANNELS, "im")
        server.within, server.retry_delays, server.tiers[4] = 0.5, (0.1,) * 1000, (10_000, 60.0)
        server.connection_limit = server.tiers[3] = (10_000, 60.0)
        for part in range(SERVINGS):
            agent = Agent(OfflineModel(latency=0.001), bus=SQLiteBus(tmp_path / "bus.db"))
            interface = app_for(server, typing_indicator=False)
            async with serving(agent, interface, server, within=100 + share * 0.2) as runtime:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(make_trouble, server)
                    await talk(server, part * share, share)
                    if part == SERVINGS - 1:
                        await server.until(lambda: len(answers(server)) >= SERVINGS * share)
                    tasks.cancel_scope.cancel()
                runtime.stop()
            assert runtime.report is not None and runtime.report.clean
            completed += runtime.report.sources["slack"].completed
        assert answers(server) == Counter({f"message {number}": 1 for number in range(SERVINGS * share)})
        assert completed == SERVINGS * share and server.lost == [] and server.violations == []
        assert server.greeted > SERVINGS


def answers(server: SlackServer) -> Counter[str]:
    return Counter(text for channel in CHANNELS for text in server.shown(channel))
