"""What a start says: the agent, where it is, what sets it off, who may call."""

from typing import Any

import pytest

from definable.agent import Agent
from definable.agent.auth import AllowlistAuth, APIKeyAuth, GitHubSignature
from definable.agent.interface import TelegramConfig, TelegramInterface
from definable.agent.runtime import AgentRuntime
from definable.agent.runtime.banner import banner, warnings
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.model import OpenAIChat

pytestmark = pytest.mark.anyio


async def nothing(event: TriggerEvent) -> None:
    pass


async def test_a_start_says_all_that_is_served(anyio_backend_name: str) -> None:
    agent = Agent("offline", name="all", auth=APIKeyAuth("a-long-random-key"))
    triggers = [
        Webhook("/a"),
        Webhook("/b", auth=False),
        Cron("0 9 * * *", timezone="Asia/Tokyo"),
        EventTrigger("user.*"),
    ]
    for trigger in triggers:
        agent.on(trigger)(nothing)
    async with agent.running(host="127.0.0.1", port=0, dev=True) as runtime:
        first, http, docs, api, one, two, cron, event, auth, attempt = banner(runtime.summary()).splitlines()
    assert first == f"all on offline ({anyio_backend_name})"
    assert (http, docs) == (f"  http     {runtime.url}", f"  docs     {runtime.url}/docs")
    assert api == "  api      /run, /runs, /sessions (APIKeyAuth)"
    assert (one, two) == ("  webhook  POST /a (APIKeyAuth)", "  webhook  POST /b (public)")
    assert cron.startswith("  cron     0 9 * * *  next 20")
    assert cron.endswith("09:00:00 JST")
    assert event == "  event    user.*"
    assert auth == "  auth     APIKeyAuth"
    assert attempt.startswith(f"  try      curl {runtime.url}/run ")
    assert "a-long-random-key" not in banner(runtime.summary())


@pytest.mark.parametrize("auth", [None, APIKeyAuth("a-long-random-key")])
async def test_the_command_to_try_it_has_credentials_where_they_are_needed(auth: APIKeyAuth | None) -> None:
    async with Agent("offline", auth=auth).running(host="127.0.0.1", port=0) as runtime:
        attempt = banner(runtime.summary()).splitlines()[-1]
    assert ("Authorization: Bearer" in attempt) is (auth is not None)
    assert attempt.endswith("""-d '{"input": "hello"}'""")


async def test_who_starts_it_is_warned_of_an_open_door_and_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    agent = Agent(OpenAIChat("gpt-4o"))
    async with agent.running(host="0.0.0.0", port=0) as runtime:
        door, key = warnings(runtime.summary())
    assert "anybody may use this agent" in door
    assert "no API key" in key


async def test_nobody_is_warned_of_a_closed_door() -> None:
    async with Agent("offline").running(host="127.0.0.1", port=0) as runtime:
        assert list(warnings(runtime.summary())) == []


async def test_a_webhook_of_its_own_auth_beside_open_endpoints_is_warned_of_by_name() -> None:
    agent = Agent("offline")
    agent.on(Webhook("/github", auth=GitHubSignature("s")))(nothing)
    agent.on(Webhook("/public", auth=False))(nothing)
    async with agent.running(host="127.0.0.1", port=0) as runtime:
        (line,) = warnings(runtime.summary())
        lines = banner(runtime.summary()).splitlines()
    assert "POST /github" in line
    assert "/run" in line
    assert "/public" not in line
    assert "  api      /run, /runs, /sessions (public)" in lines
    assert "  webhook  POST /github (GitHubSignature)" in lines
    agent.auth = APIKeyAuth("a-long-random-key")
    async with agent.running(host="127.0.0.1", port=0) as runtime:
        assert list(warnings(runtime.summary())) == []


@pytest.mark.parametrize(
    ("auth", "own", "who"),
    [
        (None, None, "public"),
        (APIKeyAuth("k"), None, "public"),
        (APIKeyAuth("k"), AllowlistAuth({"42"}), "AllowlistAuth"),
        (AllowlistAuth({"42"}), None, "AllowlistAuth"),
        (AllowlistAuth({"42"}), False, "public"),
    ],
)
async def test_the_banner_says_who_may_write_in_a_chat(auth: Any, own: Any, who: str) -> None:
    token = "1:" + "a" * 35
    chat = TelegramInterface(TelegramConfig(bot_token=token), auth=own)
    listed = TelegramInterface(TelegramConfig(bot_token=token, allowed_user_ids={42}), auth=own)
    lines = banner(AgentRuntime(Agent("offline", auth=auth), [chat, listed]).summary()).splitlines()
    assert f"  chat     telegram ({who})" in lines
    assert f"  chat     telegram ({'allow-list' if who == 'public' else who})" in lines
