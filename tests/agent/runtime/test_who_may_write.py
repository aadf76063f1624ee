"""Which chats an agent's auth provider closes, which it leaves open, and what is said of it at the start."""

import logging
import time
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jwt
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
from definable.agent.interface import (
    Accept,
    BaseInterface,
    DiscordConfig,
    DiscordInterface,
    InterfaceConfig,
    InterfaceMessage,
    InterfaceResponse,
    TelegramConfig,
    TelegramInterface,
)
from definable.agent.runtime import AgentRuntime, ShutdownReport, WorkCount
from definable.agent.runtime.banner import warnings
from definable.agent.session import MemorySessionStore, Session, SQLiteSessionStore
from definable.errors import ConfigurationError
from definable.model import Message

pytestmark = pytest.mark.anyio

KEYS = APIKeyAuth("a-long-random-key")


class Chat(BaseInterface):
    """Brings one message, and ends once it was dealt with."""

    def __init__(self, platform: str = "telegram", **options: Any) -> None:
        super().__init__(InterfaceConfig(collect=0, platform=platform), **options)
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
    return list(warnings(AgentRuntime(agent, interfaces).summary()))


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
        (line,) = warnings(runtime.summary())
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


# --- who a user of a chat is


async def test_users_of_chats_are_namespaced_with_and_without_a_provider() -> None:
    seen: list[tuple[str | None, AuthContext | None]] = []
    for auth in (None, KEYS, AllowlistAuth({"42"}), CompositeAuth(KEYS, AllowlistAuth({"42"}))):
        agent, chat = Agent("offline", auth=auth), Chat()
        agent.before_request(lambda context: seen.append((context.user_id, context.auth)))
        async with agent.running(chat, enable_server=False):
            with anyio.fail_after(10):
                await chat.done.wait()
    assert [user_id for user_id, _ in seen] == ["telegram:42"] * 4
    assert [context is not None and context.user_id for _, context in seen] == [False, False, *["telegram:42"] * 2]


@pytest.mark.parametrize("token_user", ["42", "telegram:42"])
async def test_a_token_makes_nobody_a_user_of_a_chat(token_user: str) -> None:
    secret, chat = "s" * 32, Chat()
    agent = Agent("offline", auth=CompositeAuth(AllowlistAuth({"42"}), JWTAuth(secret)))
    sessions: list[str] = []
    agent.before_request(lambda context: sessions.append(context.session_id))
    async with agent.running(chat, host="127.0.0.1", port=0, enable_server=True) as runtime:
        with anyio.fail_after(10):
            await chat.done.wait()
        headers = {"Authorization": f"Bearer {jwt.encode({'sub': token_user}, secret, 'HS256')}"}
        async with httpx2.AsyncClient(base_url=runtime.url or "", headers=headers) as client:
            assert (await client.get("/runs")).json()["runs"] == []
            for session_id in (sessions[0], sessions[0].removeprefix("chat~")):
                for method in ("GET", "DELETE"):
                    assert (await client.request(method, f"/sessions/{session_id}")).status_code == 404
            answer = await client.post("/run", json={"input": "mine", "session_id": sessions[0]})
            assert answer.status_code == 200
    stored = await agent.sessions.load(sessions[0])
    assert stored is not None
    assert stored.user_id == "telegram:42"
    assert [message.content for message in stored.messages] == ["hello", "hello"]


@pytest.mark.parametrize("auth", [None, AllowlistAuth({"42"})])
async def test_a_conversation_that_was_stored_under_the_bare_id_goes_on(
    tmp_path: Path, auth: AuthProvider | None
) -> None:
    """As versions wrote it in which `AllowlistAuth` named the user without the platform."""
    store, now = SQLiteSessionStore(tmp_path / "sessions.db"), time.time()
    said_before = (Message("user", "my name is Ann"), Message("assistant", "hello Ann"))
    await store.save(Session("session_1", "42", said_before, {"k": 1}, now, now))
    await store.save(Session("interface:telegram:42:42", None, (), {"session_id": "session_1"}, now, now))
    for times in (1, 2):
        agent, chat = Agent("offline", auth=auth, sessions=store), Chat()
        async with agent.running(chat, enable_server=False):
            with anyio.fail_after(10):
                await chat.done.wait()
        stored = await store.load("session_1")
        assert stored is not None
        assert (stored.user_id, stored.state) == ("telegram:42", {"k": 1})
        assert len(stored.messages) == 2 + 2 * times


@pytest.mark.parametrize("owner", ["7", "discord:42", None, "ann"])
async def test_a_stored_conversation_of_somebody_else_does_not_go_on(owner: str | None) -> None:
    store, now = MemorySessionStore(), time.time()
    await store.save(Session("session_1", owner, (Message("user", "a secret"),), {}, now, now))
    await store.save(Session("interface:telegram:42:42", None, (), {"session_id": "session_1"}, now, now))
    agent, chat = Agent("offline", sessions=store), Chat()
    async with agent.running(chat, enable_server=False):
        with anyio.fail_after(10):
            await chat.done.wait()
    stored = await store.load("session_1")
    assert stored is not None
    assert (stored.user_id, len(stored.messages)) == (owner, 1)
