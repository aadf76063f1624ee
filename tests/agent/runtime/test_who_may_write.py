"""Which chats an agent's auth provider closes, which it leaves open, and what is said of it at the start."""

import logging
from typing import Any

import anyio
import httpx2
import pytest

from definable.agent import Agent
from definable.agent.auth import (
    AllowlistAuth,
    APIKeyAuth,
    AuthContext,
    AuthProvider,
    AuthRequest,
    CompositeAuth,
    GitHubSignature,
    JWTAuth,
)
from definable.agent.interface import BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.interface.base import Accept
from definable.agent.interface.discord import DiscordConfig, DiscordInterface
from definable.agent.interface.telegram import TelegramConfig, TelegramInterface
from definable.agent.runtime import ShutdownReport
from definable.agent.runtime.banner import warnings
from definable.agent.runtime.report import WorkCount
from definable.agent.runtime.runtime import AgentRuntime
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio

KEYS = APIKeyAuth("a-long-random-key")


class Chat(BaseInterface):
    """Brings one message, and ends once it was dealt with."""

    def __init__(self, platform: str = "telegram", **options: Any) -> None:
        super().__init__(InterfaceConfig(platform=platform), **options)
        self.platform = platform
        self.sent: list[str | None] = []
        self.done = anyio.Event()

    async def receive(self, accept: Accept) -> None:
        await accept(InterfaceMessage(self.platform, "42", "42", "1", text="hello"))
        await self.done.wait()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.sent.append(response.content)

    def handled(self, message: InterfaceMessage) -> None:
        self.done.set()


class Plain:
    """A provider that says nothing of where it speaks."""

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        return AuthContext("somebody") if request.user_id == "42" else None


class TelegramOnly:
    platforms = frozenset({"telegram"})

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        assert request.platform == "telegram", "it is asked nowhere else"
        return None


async def answered(auth: AuthProvider, chat: Chat) -> ShutdownReport:
    agent = Agent("offline", auth=auth)
    async with agent.running(chat, enable_server=False) as runtime:
        with anyio.fail_after(10):
            await chat.done.wait()
    assert runtime.report is not None
    assert runtime.report.clean
    return runtime.report


@pytest.mark.parametrize(
    ("auth", "platform", "is_open"),
    [
        (KEYS, "telegram", True),
        (KEYS, "a platform of one's own", True),
        (JWTAuth("s" * 32), "telegram", True),
        (GitHubSignature("s"), "telegram", True),
        (CompositeAuth(KEYS, JWTAuth("s" * 32)), "discord", True),
        (TelegramOnly(), "discord", True),
        (CompositeAuth(TelegramOnly(), KEYS), "discord", True),
        (AllowlistAuth({"42"}), "telegram", True),
        (CompositeAuth(KEYS, AllowlistAuth({"42"})), "telegram", True),
        (Plain(), "telegram", True),
        (AllowlistAuth({"7"}), "telegram", False),
        (AllowlistAuth({"42"}, platforms={"telegram"}), "discord", False),
        (CompositeAuth(KEYS, AllowlistAuth({"7"})), "telegram", False),
        (CompositeAuth(KEYS, TelegramOnly()), "telegram", False),
        (TelegramOnly(), "telegram", False),
    ],
)
async def test_a_provider_guards_the_platforms_on_which_it_speaks(
    auth: AuthProvider, platform: str, is_open: bool
) -> None:
    chat = Chat(platform)
    report = await answered(auth, chat)
    assert chat.sent == (["hello"] if is_open else [])
    expected = WorkCount(completed=1) if is_open else WorkCount(refused=1)
    assert report.sources[platform] == expected
    assert (report.completed, report.refused) == (expected.completed, expected.refused)
    assert ("1 refused" in str(report)) is not is_open


async def test_the_last_program_of_the_documentation_answers_on_telegram_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        chat = Chat()
        await answered(KEYS, chat)
    assert chat.sent == ["hello"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("telegram is open to everybody")
    for way_out in ("APIKeyAuth", "auth=AllowlistAuth(user_ids)", "auth=False"):
        assert way_out in line


def said(agent: Agent, *interfaces: BaseInterface) -> list[str]:
    return list(warnings(AgentRuntime(agent, interfaces)))


def telegram(**config: Any) -> TelegramInterface:
    return TelegramInterface(TelegramConfig(bot_token="1:" + "a" * 35, **config))


def discord(**config: Any) -> DiscordInterface:
    return DiscordInterface(DiscordConfig(bot_token="a.b.c", **config))


@pytest.mark.parametrize(
    ("auth", "chat"),
    [
        (None, Chat()),
        (KEYS, Chat(auth=False)),
        (KEYS, Chat(auth=AllowlistAuth({"42"}))),
        (KEYS, telegram(allowed_user_ids={42})),
        (KEYS, telegram(allowed_chat_ids={42})),
        (KEYS, discord(allowed_guild_ids={42})),
        (KEYS, Chat(agent=Agent("offline", auth=AllowlistAuth({"42"})))),
        (AllowlistAuth({"42"}), Chat()),
        (CompositeAuth(KEYS, AllowlistAuth({"42"})), Chat()),
        (Plain(), Chat()),
    ],
)
async def test_a_chat_that_is_closed_or_meant_to_be_open_is_not_warned_of(
    auth: AuthProvider | None, chat: BaseInterface
) -> None:
    assert said(Agent("offline", auth=auth), chat) == []


async def test_each_open_chat_is_warned_of_by_name() -> None:
    first, second, third = said(Agent("offline", auth=KEYS), telegram(), discord(), Chat())
    assert first.startswith("telegram is open")
    assert second.startswith("discord is open")
    assert third.startswith("telegram#2 is open")


async def test_an_interface_whose_own_provider_knows_no_chats_is_warned_of() -> None:
    (line,) = said(Agent("offline"), Chat(auth=KEYS))
    assert line.startswith("telegram answers nobody")


@pytest.mark.parametrize("auth", [AllowlistAuth({"42"}), TelegramOnly()])
async def test_http_is_closed_and_warned_of_where_no_provider_speaks_there(auth: AuthProvider) -> None:
    agent = Agent("offline", auth=auth)
    async with agent.running(host="127.0.0.1", port=0) as runtime:
        (line,) = warnings(runtime)
        async with httpx2.AsyncClient(base_url=runtime.url or "") as client:
            assert (await client.post("/run", json={"input": "hi"})).status_code == 401
    assert "nobody over HTTP" in line


@pytest.mark.parametrize("platforms", ["http", 5])
def test_platforms_that_are_no_set_are_refused_where_the_provider_is_given(platforms: Any) -> None:
    class Wrong(Plain):
        pass

    Wrong.platforms = platforms  # pyright: ignore[reportAttributeAccessIssue]
    for give in (lambda: Agent("offline", auth=Wrong()), lambda: CompositeAuth(Wrong()), lambda: Chat(auth=Wrong())):
        with pytest.raises(ConfigurationError, match="platforms="):
            give()
