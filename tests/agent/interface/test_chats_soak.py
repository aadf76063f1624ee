"""Four platforms with faults, commands and restarts, and a day of a lively group, in virtual time.

`DEFINABLE_SOAK_MESSAGES=10000 DEFINABLE_SOAK=20` is the whole soak: so many messages, over so many restarts.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.interface import InterfaceConnectionError, InterfaceMessageError, Texts
from definable.agent.session import SQLiteSessionStore
from definable.errors import ModelError
from definable.model import Image, ModelRequest, OfflineModel
from definable.testing import VIRTUAL_BACKENDS, FakeChat, virtual_time

MESSAGES = int(os.environ.get("DEFINABLE_SOAK_MESSAGES", "240"))
RESTARTS = int(os.environ.get("DEFINABLE_SOAK", "2"))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120 + MESSAGES * 0.2)]

PLATFORMS = ("one", "two", "three", "four")
USERS = 12

TEXTS = Texts(stopped_all="Stopped. {count}")


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Account:
    """What was written, and what became of it."""

    def __init__(self) -> None:
        self.written: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.answered: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.failed = self.withdrawn = self.commands = 0
        self.slowest = 0.0
        """Seconds until a command had acted."""
        self.next = 0


async def reply(request: ModelRequest) -> str:
    text = request.messages[-1].content
    chance = random.Random(text)
    await anyio.sleep(chance.expovariate(0.5))
    if chance.random() < 0.02:
        raise ModelError("the model is in trouble")
    return text


async def talk(chat: FakeChat, account: Account, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        user = str(chance.randrange(USERS))
        if chance.random() < 0.05:
            account.commands += 1
            began, before = anyio.current_time(), len(chat.messages)
            name = chance.choice(["/stop", "/new"])
            account.next += 1
            await chat.write(name, user=user, message_id=f"command {account.next}")
            said = ("Stopped.", TEXTS.nothing_to_stop) if name == "/stop" else (TEXTS.new_conversation,)
            await chat.until(
                lambda before=before, said=said: any(each.text.startswith(said) for each in chat.messages[before:])
            )
            account.slowest = max(account.slowest, anyio.current_time() - began)
        else:
            account.next += 1
            account.written[chat.name, user].append(account.next)
            await chat.write(str(account.next), user=user, message_id=str(account.next))
        if chance.random() < 0.02:
            chat.fail(chance.choice([InterfaceConnectionError("gone"), InterfaceMessageError("refused")]))
        await anyio.sleep(chance.expovariate(2))


async def test_every_message_of_four_platforms_is_answered_once_in_order_or_counted(tmp_path: Path) -> None:
    account, per_talk = Account(), MESSAGES // (len(PLATFORMS) * (RESTARTS + 1))
    for serving in range(RESTARTS + 1):
        chats = [
            FakeChat(platform=name, texts=TEXTS, stream_replies=False, typing_indicator=False) for name in PLATFORMS
        ]
        agent = Agent(
            OfflineModel(reply),
            bus=SQLiteBus(tmp_path / "bus.db"),
            sessions=SQLiteSessionStore(tmp_path / "sessions.db"),
        )
        async with agent.running(*chats, enable_server=False, shutdown_timeout=10_000) as runtime:
            async with anyio.create_task_group() as tasks:
                for number, chat in enumerate(chats):
                    tasks.start_soon(talk, chat, account, per_talk, serving * 10 + number)
        assert runtime.report is not None and runtime.report.clean
        for chat in chats:
            count = runtime.report.sources[chat.name]
            account.failed += count.failed
            account.withdrawn += count.withdrawn
            for shown in chat.messages:
                if shown.text.isdigit():
                    account.answered[chat.name, shown.chat].append(int(shown.text))
    written, answered = (Counter(chain.from_iterable(each.values())) for each in (account.written, account.answered))
    assert max(answered.values()) == 1 and not answered - written
    for key, numbers in account.answered.items():
        assert numbers == sorted(numbers), key
    # A fault may have met a command, or the message about a failure: what is not answered is counted, and maybe more.
    missing = (written - answered).total()
    assert missing <= account.failed + account.withdrawn <= missing + account.commands
    assert account.slowest < 1


async def test_in_a_day_of_a_lively_group_the_bot_speaks_only_when_it_is_meant() -> None:
    chance, model, chat = random.Random(1), OfflineModel("Sure."), FakeChat(collect=0.8)
    users, meant = [f"user{number}" for number in range(20)], 0
    async with Agent(model).running(chat, enable_server=False, shutdown_timeout=1_000):
        last = await chat.write("good morning", group="team", user="user0")
        while anyio.current_time() < 24 * 3600:
            user, kind = chance.choice(users), chance.random()
            if kind < 0.03:
                meant += 1
                await chat.write("@bot what do you think?", group="team", user=user)
            elif kind < 0.05 and chat.shown("team"):
                meant += 1
                await chat.write("why?", group="team", user=user, reply_to=chance.choice(chat.shown("team")))
            elif kind < 0.07:
                meant += 1
                for number in range(3):
                    caption = "@bot which is best?" if number == 0 else None
                    await chat.write(caption, group="team", user=user, images=(Image(data=b"x"),), group_id=user)
            elif kind < 0.1:
                await chat.write("/start@otherbot", group="team", user=user)
            elif kind < 0.2:
                last = await chat.write("I agree", group="team", user=user, reply_to=last)
            elif kind < 0.22:
                await chat.write(None, group="team", user=user, images=(Image(data=b"x"),), group_id="pictures")
            else:
                last = await chat.write("the bot is nice, mail me at ann@both.example", group="team", user=user)
            await anyio.sleep(2 + chance.expovariate(1 / 120))
    assert meant > 20
    assert chat.texts("team") == ["Sure."] * meant
    assert len(model.requests) == meant
