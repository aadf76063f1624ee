"""A bot that cannot hear or speak says so: each failure with its log line, what `/health` says, and how it ends."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import BOT, Fault, Page, Refused, TelegramServer

from definable.agent import Agent
from definable.agent.runtime.supervisor import InterfaceState
from definable.errors import ServeError

pytestmark = pytest.mark.anyio

POLLS = "getUpdates"

TABLE = [
    (POLLS, Refused(409, "Conflict: terminated by other getUpdates request"), "Another process polls with this token"),
    (POLLS, Refused(409, "Conflict: can't use getUpdates method while webhook is active"), "deleteWebhook"),
    (POLLS, Refused(429, "Too Many Requests: retry after 5", retry_after=5), "getUpdates: Telegram answered 429"),
    (POLLS, Refused(500, "Internal Server Error"), "getUpdates: Telegram answered 500: Internal Server Error"),
    (POLLS, Page(), "getUpdates: Telegram answered 502, and not in JSON"),
    (POLLS, Fault("drop"), "getUpdates: no answer from Telegram: "),
    (POLLS, Fault("hang"), "getUpdates: no answer from Telegram: ReadTimeout"),
    ("getMe", Page(), "getMe: Telegram answered 502, and not in JSON"),
    ("getMe", Refused(429, "Too Many Requests: retry after 5", retry_after=5), "getMe: Telegram answered 429"),
]
"""What fails, how, and what the log says."""


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("method", "failure", "said"), TABLE)
async def test_an_outage_is_said_once_shows_in_health_and_passes(
    method: str, failure: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with TelegramServer().running() as server:
        server.fail(method, *[failure] * 1000)
        bot = bot_for(server, request_timeout=5, polling_timeout=5)
        async with Agent("offline").running(bot, enable_server=False) as runtime:
            await anyio.sleep(200)
            well, document = runtime.health()
            assert not well and document["children"]["telegram"]["state"] in ("restarting", "stalled")
            assert len(errors(caplog)) == 1 and "interface telegram is down" in errors(caplog)[0]
            assert said in errors(caplog)[0]
            server.recover()
            server.write("hello", chat=1)
            await server.until(lambda server: server.sent(1))
            await anyio.sleep(70)
            assert runtime.health()[0] and runtime.supervisors[0].state is InterfaceState.RUNNING
        assert server.sent(1) == ["hello"] and len(server.calls) < 300
    assert "Traceback" not in caplog.text and server.token not in caplog.text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://telegram.invalid"], ids=["refused", "no such host"])
async def test_a_network_that_is_gone_is_said_and_shows_in_health(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Agent("offline").running(bot_for(TelegramServer(url=url)), enable_server=False) as runtime:
        await anyio.sleep(200)
        assert not runtime.health()[0]
        assert runtime.supervisors[0].state is InterfaceState.RESTARTING
    # The clock may jump while a name is looked up: then the reason is a time-out.
    assert errors(caplog) and all("getMe: Telegram cannot be reached: Connect" in line for line in errors(caplog))


@pytest.mark.parametrize(
    "failure",
    [Refused(429, "Too Many Requests: retry after 2", retry_after=2), Page(), Fault("drop"), Refused(500, "oh")],
)
async def test_a_single_failure_of_a_poll_is_no_outage(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.fail(POLLS, failure)
        async with Agent("offline").running(bot_for(server), enable_server=False) as runtime:
            server.write("hello", chat=1)
            await server.until(lambda server: server.sent(1))
            assert runtime.health()[0]
    assert errors(caplog) == []


async def test_a_group_that_moves_is_followed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    chat = {"id": -5, "type": "group"}
    user = {"id": 5, "is_bot": False, "first_name": "U"}
    async with TelegramServer().running() as server:
        server.push({"message": {"message_id": 7, "date": 1, "chat": chat, "from": user, "migrate_to_chat_id": -1005}})
        server.write("hello", chat=-5, user=5)
        bot = bot_for(server, allowed_chat_ids=[-5], groups="all")
        async with Agent("offline").running(bot, enable_server=False):
            await server.until(lambda server: server.sent(-1005))
        assert server.sent(-5) == []
    assert "group -5 has become supergroup -1005, which is not answered: put it into allowed_chat_ids" in caplog.text


async def test_a_chat_that_lets_the_bot_go_makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chat, user = {"id": -5, "type": "group", "title": "G"}, {"id": 5, "first_name": "U"}
    async with TelegramServer().running() as server:
        for status in ("member", "kicked"):
            member = {"status": status, "user": {"id": 1, "is_bot": True, "first_name": "Bot"}}
            server.push({"my_chat_member": {"chat": chat, "from": user, "date": 1, "new_chat_member": member}})
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await anyio.sleep(5)
        assert (server.sent(), server.updates) == ([], [])
    assert caplog.text.count("chat -5 has let the bot go") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_privacy_mode_is_said_where_all_of_a_group_is_to_be_heard(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(BOT, "can_read_all_group_messages", False)
    async with TelegramServer().running() as server:
        for groups in ("mention", "all"):
            async with Agent("offline").running(bot_for(server, groups=groups), enable_server=False):
                await anyio.sleep(1)
    assert caplog.text.count("privacy mode is on") == 1


async def test_a_service_with_nothing_but_a_refused_bot_ends_and_says_why() -> None:
    async with TelegramServer().running() as server:
        bot = bot_for(server, bot_token="1:" + "x" * 35)
        with (
            anyio.fail_after(300),
            pytest.raises(ServeError, match=r"nothing is left to serve: .*Telegram answered 401"),
        ):
            await Agent("offline").aserve(bot, enable_server=False)  # `serve` ends the process with status 1
