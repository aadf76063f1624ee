"""Both platforms at one service, faults throughout, graceful restarts in the middle: every message answered once.

A few hundred messages; with DEFINABLE_SOAK_MESSAGES=10000 the whole soak, which also watches the service's memory.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from loopback.discord_rest import Answer, limited
from loopback.discord_server import DiscordServer
from loopback.discord_server import Fault as DiscordFault
from loopback.telegram_server import Fault, Page, Refused, Slow, TelegramServer

MESSAGES = int(os.environ.get("DEFINABLE_SOAK_MESSAGES", "240"))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + MESSAGES * 0.3)]

SERVINGS = 3

PER_SECOND = 20
"""Messages of each platform; Telegram takes 30 answers a second, Discord 50 requests."""

CHATS = tuple(range(1, 41))

CHANNELS = tuple(str(number) for number in range(100, 140))

MAX_GROWTH = 1.1
"""Of the service's memory between a third of the soak, when every conversation is as long as it may be, and its end."""

TELEGRAM_FAULTS = (Fault("drop"), Fault("drop after"), Refused(500, "oh"), Page(), Page(b"{", 200), Slow(1))

DISCORD_FAULTS = (
    DiscordFault("answer", Answer(500, {"message": "fault"}), path="/messages"),
    DiscordFault("answer", Answer(502, content=b"<html>", content_type="text/html"), path="/messages"),
    DiscordFault("answer", limited(0.05, is_global=False), path="/messages"),
    DiscordFault("slow", seconds=0.05, path="/messages"),
    DiscordFault("vanish", path="/messages"),
    DiscordFault("vanish after", path="/messages"),
)

Said = dict[str, list[str]]


class Service:
    """The service's process."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.accounts: list[dict[str, Any]] = []
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> dict[str, Any]:
        return json.loads(await self._lines.receive_until(b"\n", 65536))

    async def stop(self) -> None:
        """Stop it gracefully, and take its account."""
        self.process.terminate()
        self.accounts.append(await self.line())

    @property
    def memory(self) -> int:
        """Bytes."""
        return psutil.Process(self.process.pid).memory_info().rss


@asynccontextmanager
async def service(backend: str, telegram: TelegramServer, discord: DiscordServer) -> AsyncGenerator[Service, None]:
    script = Path(__file__).with_name("soak_service.py")
    where = (telegram.url, telegram.token, discord.url, discord.token)
    async with await anyio.open_process([sys.executable, script, backend, str(SERVINGS), *where], stderr=None) as child:
        try:
            yield Service(child)
        finally:
            if child.returncode is None:
                child.kill()


async def write_to_telegram(server: TelegramServer, said: Said, chance: random.Random) -> None:
    for number in range(MESSAGES // 2):
        chat = chance.choice(CHATS)
        said[str(chat)].append(str(number))
        server.write(str(number), chat=chat)
        if chance.random() < 0.02 and not server.is_failing("getUpdates"):
            server.fail("getUpdates", chance.choice(TELEGRAM_FAULTS))
        if chance.random() < 0.02 and not server.is_failing("sendMessage"):
            server.fail("sendMessage", Refused(429, "Too Many Requests", retry_after=1))
        await anyio.sleep(chance.expovariate(PER_SECOND))


async def write_to_discord(server: DiscordServer, said: Said, chance: random.Random) -> None:
    for number in range(MESSAGES // 2):
        channel = chance.choice(CHANNELS)
        said[channel].append(str(number))
        await server.say(channel, str(number), author=f"9{channel}")
        if chance.random() < 0.05 and not server.faults:
            server.faults.append(chance.choice(DISCORD_FAULTS))
        if chance.random() < 0.02 and server.on_line:
            await trouble(server, chance)
        await anyio.sleep(chance.expovariate(PER_SECOND))


async def trouble(server: DiscordServer, chance: random.Random) -> None:
    """A connection that ends, in a way that does not lose the session: that loses messages by design."""
    server.replays_again = chance.randrange(4)
    kinds: list[Callable[[], Awaitable[Any]]] = [
        server.drop,
        server.ask_to_reconnect,
        lambda: server.invalidate(resumable=True),
        lambda: server.close(chance.choice([1001, 1011, 4000, 4001, 4002, 4005, 4008])),
        lambda: server.every_connection(lambda connection: connection.raw("{")),
    ]
    await chance.choice(kinds)()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.sleep(0.05)


async def test_every_message_of_both_platforms_is_answered_once_in_its_chats_order(anyio_backend_name: str) -> None:
    telegram, discord = TelegramServer(), DiscordServer(heartbeat_interval=1.0, channels=CHANNELS)
    said: tuple[Said, Said] = defaultdict(list), defaultdict(list)

    def answered() -> int:
        return sum(len(telegram.shown(chat)) for chat in CHATS) + len(discord.posted)

    async with telegram.running(), discord.running(), service(anyio_backend_name, telegram, discord) as served:
        async with anyio.create_task_group() as writing:
            await served.line()
            await discord.until(lambda: discord.on_line)
            writing.start_soon(write_to_telegram, telegram, said[0], random.Random(1))
            writing.start_soon(write_to_discord, discord, said[1], random.Random(2))
            await until(lambda: answered() >= MESSAGES / 3)
            memory = served.memory
            for part in (2, 3):  # while messages go on coming in
                await until(lambda part=part: answered() >= MESSAGES * part / 5)
                await served.stop()
                await served.line()
        await until(lambda: answered() >= MESSAGES)
        growth = served.memory / memory
        await served.stop()
        await served.process.wait()

    assert {str(chat): telegram.shown(chat) for chat in CHATS} == {str(chat): said[0][str(chat)] for chat in CHATS}
    posts: Said = defaultdict(list)
    for posted in discord.posted:
        posts[posted.channel].append(posted.content)
    assert posts == said[1]
    for platform in ("telegram", "discord"):
        accounts = [account[platform] for account in served.accounts]
        assert sum(account["completed"] for account in accounts) == MESSAGES // 2
        assert not any(account["failed"] or account["cancelled"] or account["never_started"] for account in accounts)
    assert (telegram.updates, telegram.refusals, discord.violations) == ([], [], [])
    assert len(discord.identified) == 1 and served.process.returncode == 0
    if MESSAGES >= 5_000:
        assert growth < MAX_GROWTH
