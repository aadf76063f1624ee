"""A bot that can no longer hear or speak is never silent about it: log line, `/health`, and how serving ends."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from loopback.slack import SlackServer
from loopback.slack_bot import app_for, serving

from definable.agent import Agent
from definable.agent.interface import InterfaceHook, InterfaceMessage
from definable.agent.runtime.supervisor import Supervisor
from definable.errors import ServeError
from definable.testing import served

pytestmark = pytest.mark.anyio


def set_to(name: str, value: Any) -> Callable[[SlackServer], None]:
    return lambda server: setattr(server, name, value)


FATAL = {
    "invalid_auth": (set_to("token_error", "invalid_auth"), "auth.test: Slack answered invalid_auth"),
    "token_revoked": (set_to("token_error", "token_revoked"), "auth.test: Slack answered token_revoked"),
    "missing_scope": (
        lambda server: server.missing_scopes.add("connections:write"),
        "scope connections:write is needed",
    ),
    "link_disabled": (set_to("refuses_sockets", "link_disabled"), "Socket Mode is turned off"),
}

PASSING = {
    "too_many_websockets": (set_to("refuses_sockets", "too_many_websockets"), "more than 10 sockets"),
    "sockets rejected": (set_to("rejects_sockets", True), "no WebSocket at"),
    "no greeting": (set_to("is_silent", True), "did not greet a socket within|timed out during opening"),
    "502": (lambda server: server.fail_next("auth.test", *[502] * 50), "auth.test: Slack answered 502"),
    "internal_error": (lambda server: server.fail_next("auth.test", *["internal_error"] * 50), "internal_error"),
    "ratelimited": (lambda server: server.limit_next("auth.test", 3000), "auth.test: Slack answered 429"),
}
"""What passes: the interface is tried again."""


async def health_of(agent: Agent, server: SlackServer, state: str, **settings: Any) -> tuple[int, Any]:
    """What `/health` says once the interface is in a state."""
    with anyio.fail_after(40):
        async with served(agent, app_for(server, **settings)) as service:
            while True:
                response = await service.client.get("/health")
                if response.json()["children"]["slack"]["state"] == state:
                    return response.status_code, response.json()
                await anyio.sleep(0.01)


@pytest.mark.parametrize("name", FATAL)
async def test_what_cannot_be_mended_by_waiting(name: str, caplog: pytest.LogCaptureFixture) -> None:
    change, words = FATAL[name]
    async with SlackServer().running() as server:
        change(server)
        status, document = await health_of(Agent("offline"), server, "failed")
        assert (status, document["status"]) == (503, "degraded")
        assert "interface slack has failed for good" in caplog.text and words in caplog.text
        with pytest.raises(ServeError, match="nothing is left to serve"), anyio.fail_after(40):
            await Agent("offline").aserve(app_for(server), enable_server=False)


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    change, words = PASSING[name]
    async with SlackServer().running() as server:
        change(server)
        status, _ = await health_of(Agent("offline"), server, "restarting", connect_timeout=0.2)
        assert status == 200  # two minutes of it are no news
        assert "interface slack is down" in caplog.text and re.search(words, caplog.text)
        assert "ticket" not in caplog.text


@pytest.mark.parametrize("mode", ["socket", "events"])
async def test_a_token_that_is_revoked_while_serving_is_noticed(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with SlackServer().running() as server:
        server.events_url = None
        interface = app_for(server, mode)
        async with serving(Agent("offline"), interface, server) as runtime:
            await server.say("D1", "hello")  # the token was taken
            await server.until(lambda: server.shown("D1"))
            await server.dispatch({"type": "tokens_revoked", "tokens": {"bot": [server.bot_user]}})
            server.token_error = "token_revoked"
            supervisor: Supervisor = runtime.supervisors[0]
            await server.until(lambda: supervisor.state == "restarting")  # for some minutes, then it has failed
        assert "interface slack is down, InterfaceAuthenticationError: auth.test: Slack answered" in caplog.text


class Errors(InterfaceHook):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
        self.seen.append(str(error))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda server: server.not_joined.add("C1"), "chat C1 cannot be written to: .*not_in_channel"),
        (lambda server: server.archived.add("C1"), "chat C1 cannot be written to: .*is_archived"),
        (
            lambda server: server.missing_scopes.add("chat:write"),
            "cannot be written to: .*the scope chat:write is needed",
        ),
    ],
    ids=["not joined", "archived", "scope"],
)
async def test_a_channel_that_cannot_be_written_to(
    change: Callable[[SlackServer], Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SlackServer().running() as server:
        errors = Errors()
        change(server)
        async with serving(Agent("offline"), app_for(server, hooks=[errors]), server):
            await server.say("C1", f"<@{server.bot_user}> hello", ts="1700000000.000100")
            await server.until(lambda: errors.seen)
        assert re.search(words, caplog.text)


async def test_a_post_after_a_503_or_429_is_made_again_and_one_without_an_answer_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with SlackServer().running() as server:
        async with serving(Agent("offline"), app_for(server, stream_replies=False), server):
            server.fail_next("chat.postMessage", "service_unavailable")
            server.limit_next("chat.postMessage", 0)
            await server.say("D1", "hello")
            await server.until(lambda: server.shown("D1") == ["hello"])
            server.fail_next("chat.postMessage", 502)
            await server.say("D2", "lost?")
            await server.until(lambda: server.shown("D2"))
        assert server.shown("D2") == ["Sorry, something went wrong. Please try again."]
        assert "chat.postMessage: Slack answered 502" in caplog.text
