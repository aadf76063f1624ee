"""Socket Mode: sockets replace each other, envelopes are acknowledged once they are safe, and nothing is lost."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from loopback.slack import SlackServer
from loopback.slack_bot import Mode, app_for, serving
from loopback.slack_socket import SocketConnection

from definable.agent import Agent
from definable.agent.interface.slack import sockets

pytestmark = pytest.mark.anyio


async def answered(server: SlackServer, *texts: str) -> None:
    await server.until(lambda: sorted(server.shown("D1")) == sorted(texts))


@pytest.mark.parametrize(
    "end",
    [
        lambda socket: socket.disconnect("warning"),
        lambda socket: socket.disconnect("refresh_requested"),
        SocketConnection.close,
        SocketConnection.drop,
    ],
    ids=["warning", "refresh", "close", "drop"],
)
async def test_another_socket_is_opened(end: Any) -> None:
    async with SlackServer().running() as server, serving(Agent("offline"), app_for(server), server):
        await server.until_back(end)
        await server.say("D1", "hello")
        await answered(server, "hello")
        assert server.violations == [] and server.lost == []


async def test_the_next_socket_is_open_before_the_last_one_is_gone() -> None:
    async with SlackServer().running() as server, serving(Agent("offline"), app_for(server), server):
        (old,) = server.connections
        await server.until_back(lambda socket: socket.disconnect("warning"))
        assert old in server.connections and old.is_ready and len(server.connections) == 2
        for number in range(4):  # over both
            await server.say("D1", str(number))
        await answered(server, *map(str, range(4)))
        await old.close()
        await server.until(lambda: len(server.connections) == 1)
        await server.say("D1", "last")
        await answered(server, *map(str, range(4)), "last")
        assert server.greeted == 2 and server.violations == [] and server.lost == []


async def test_a_socket_of_which_one_end_is_gone_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(sockets, "PONG_TIMEOUT", 0.4)
    async with SlackServer().running() as server, serving(Agent("offline"), app_for(server), server):
        server.within, server.retry_delays = 0.2, (0.1,) * 200  # Slack's own last for minutes
        for connection in server.connections:
            connection.is_zombie = True
        await server.say("D1", "into the void")  # not acknowledged: it comes again over the next socket
        await answered(server, "into the void")


@pytest.mark.parametrize("mode", ["socket", "events"])
async def test_what_is_not_safe_is_not_acknowledged_and_comes_again(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SlackServer().running() as server:
        server.within = 3.0 if mode == "events" else 0.2
        interface = app_for(server, mode)
        async with serving(Agent("offline"), interface, server):
            accept, tries = interface._accept, list[str]()  # pyright: ignore[reportPrivateUsage]
            assert accept is not None

            async def refuse_once(message: Any) -> bool:
                tries.append(message.text)
                if len(tries) == 1:
                    raise ConnectionError("the bus is away")
                return await accept(message)

            monkeypatch.setattr(interface, "_accept", refuse_once)
            await server.say("D1", "hello")
            await answered(server, "hello")
            assert tries == ["hello", "hello"] and server.lost == []


async def test_a_late_acknowledgement_costs_a_repeat_and_no_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SlackServer().running() as server:
        server.within, interface = 0.1, app_for(server)
        async with serving(Agent("offline"), interface, server):
            accept = interface._accept  # pyright: ignore[reportPrivateUsage]
            assert accept is not None
            hold, seen = anyio.Event(), list[bool]()

            async def slowly(message: Any) -> bool:
                is_new = await accept(message)
                seen.append(is_new)
                await hold.wait()
                return is_new

            monkeypatch.setattr(interface, "_accept", slowly)
            await server.say("D1", "hello")
            await server.until(lambda: server.late)
            hold.set()
            await server.until(lambda: len(seen) >= 2)
            await server.say("D1", "after")
            await answered(server, "hello", "after")
            assert seen[:2] == [True, False]


async def test_several_processes_share_the_events_of_an_app() -> None:
    async with SlackServer().running() as server:
        async with (
            serving(Agent("offline"), app_for(server), server),
            serving(Agent("offline"), app_for(server), server),
        ):
            await server.until(lambda: server.greeted == 2)
            for number in range(4):
                await server.say("D1", str(number))
            await answered(server, *map(str, range(4)))
        assert server.violations == [] and server.lost == []
