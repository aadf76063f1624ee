"""discord.py, an independent client, against the loopback server: why the other tests may trust it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import anyio
import loopback.discord_server
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from loopback.discord_objects import TOKEN
from loopback.discord_server import DiscordServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_spec("discord") is None, reason="discord.py, the reference client, is not installed"),
]

PROGRAM = Path(loopback.discord_server.__file__).with_name("discord_reference.py")


class Reference:
    """The running program, and what it said."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def listen(self, process: Process) -> None:
        assert process.stdout is not None
        async for text in TextReceiveStream(process.stdout):
            self.seen += text.split("\n")[:-1]


@asynccontextmanager
async def reference_client(server: DiscordServer, token: str = TOKEN) -> AsyncIterator[Reference]:
    command = [sys.executable, str(PROGRAM), server.url, server.gateway_url, token]
    reference = Reference()
    with anyio.fail_after(15):
        async with await anyio.open_process(command, stderr=None) as process, anyio.create_task_group() as tasks:
            tasks.start_soon(reference.listen, process)
            yield reference
            process.terminate()
            await process.wait()
            tasks.cancel_scope.cancel()


async def test_it_logs_in_listens_types_and_answers() -> None:
    async with DiscordServer().running() as server, reference_client(server) as reference:
        await server.until(lambda: "ready" in reference.seen)
        message = await server.say("10", "hello")
        await server.until(lambda: server.posted)
        assert [(each.content, each.reply_to) for each in server.posted] == [("echo hello", message)]
        assert [channel for channel, _ in server.typings] == ["10"]
        assert server.violations == []


async def test_it_resumes_and_gets_what_it_missed() -> None:
    async with DiscordServer().running() as server, reference_client(server) as reference:
        await server.until(lambda: "ready" in reference.seen)
        server.turn_into_zombies()
        await server.say("20", "missed")
        await server.drop()
        await server.until(lambda: server.posted and "resumed" in reference.seen)
        assert sorted(reference.seen) == ["heard missed", "ready", "resumed"]
        assert len(server.resumed) == len(server.identified) == 1
        assert server.violations == []


async def test_it_connects_again_when_asked() -> None:
    async with DiscordServer().running() as server, reference_client(server) as reference:
        await server.until(lambda: "ready" in reference.seen)
        await server.until_back(server.ask_to_reconnect)
        await server.until(lambda: "resumed" in reference.seen)
        assert server.violations == []


async def test_it_waits_out_a_429_and_tries_again_after_a_500() -> None:
    async with DiscordServer().running() as server, reference_client(server) as reference:
        await server.until(lambda: "ready" in reference.seen)
        server.limit_next("/messages", 0.1)
        server.fail_next("/messages", 500)
        await server.say("10", "hello")
        await server.until(lambda: server.posted)
        assert server.violations == []


async def test_it_understands_a_refused_token() -> None:
    async with DiscordServer().running() as server:
        server.token = "another"
        async with reference_client(server) as reference:
            await server.until(lambda: "login refused" in reference.seen)


async def test_it_understands_a_refused_intent() -> None:
    async with DiscordServer().running() as server:
        server.forbidden_intents = 1 << 15
        async with reference_client(server) as reference:
            await server.until(lambda: "intents refused" in reference.seen)
