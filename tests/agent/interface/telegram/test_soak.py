"""A thousand messages, a service that is restarted, a Bot API that fails: each answered once, in its order."""

from __future__ import annotations

import random
from collections import defaultdict

import anyio
import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Failure, Fault, Page, Refused, Slow, TelegramServer

from definable.agent import Agent
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

MESSAGES, CHATS = 1000, 40


def poll_failure(chance: random.Random) -> Failure:
    failures = [
        Fault("drop"),
        Fault("drop after"),
        Refused(409, "Conflict"),
        Refused(500, "oh"),
        Page(),
        Page(b"{", 200),
    ]
    return chance.choice([*failures, Slow(3), Refused(429, "Too Many Requests", retry_after=2)])


async def write(server: TelegramServer, chance: random.Random) -> None:
    numbers: dict[int, int] = defaultdict(int)
    for _ in range(MESSAGES):
        chat = chance.randint(1, CHATS)
        server.write(f"{chat}/{numbers[chat]}", chat=chat)
        numbers[chat] += 1
        if chance.random() < 0.05:
            server.fail("getUpdates", poll_failure(chance))
        if chance.random() < 0.03 and not server.is_failing("sendMessage"):
            server.fail("sendMessage", Refused(429, "Too Many Requests", retry_after=chance.randint(1, 5)))
        await anyio.sleep(chance.expovariate(10))


@pytest.mark.parametrize("seed", [1])
async def test_every_message_is_answered_once_in_its_order(seed: int) -> None:
    chance = random.Random(seed)
    async with TelegramServer().running() as server, anyio.create_task_group() as writing:
        writing.start_soon(write, server, chance)
        for seconds in (5, 30, 20, 1, 15_000):
            agent = Agent(OfflineModel(latency=0.7))
            async with agent.running(bot_for(server), enable_server=False, shutdown_timeout=200):
                with anyio.move_on_after(seconds):
                    await server.until(lambda server: len(server.sent()) >= MESSAGES)
    answers: dict[str, list[int]] = defaultdict(list)
    for text in server.sent():
        chat, _, number = text.partition("/")
        answers[chat].append(int(number))
    assert sum(map(len, answers.values())) == MESSAGES
    assert all(numbers == list(range(len(numbers))) for numbers in answers.values())
    assert (server.updates, server.refusals) == ([], [])
