"""A bot whose webhook is gone, or does not come through, says so; in virtual time."""

from __future__ import annotations

import anyio
import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Fault, Page, TelegramServer

from definable.agent import Agent
from definable.agent.interface import TelegramInterface
from definable.agent.runtime.supervisor import InterfaceState

pytestmark = pytest.mark.anyio


def webhook_bot(server: TelegramServer) -> TelegramInterface:
    return bot_for(server, mode="webhook", webhook_url="https://bot.example.com", webhook_secret="secret")


async def test_a_webhook_that_comes_through_is_well_for_hours() -> None:
    async with TelegramServer().running() as server:
        async with Agent("offline").running(webhook_bot(server), enable_server=False) as runtime:
            for _ in range(30):
                await anyio.sleep(240)
                assert runtime.supervisors[0].state is InterfaceState.RUNNING
            server.fail("getWebhookInfo", Fault("drop"), Fault("drop"))  # one check, and the next
            await anyio.sleep(150)
            assert runtime.supervisors[0].is_well


async def test_a_webhook_that_somebody_takes_away_is_set_again(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        async with Agent("offline").running(webhook_bot(server), enable_server=False):
            await server.until(lambda server: server.webhook)
            server.webhook = {"url": "https://somebody.example.com"}
            await anyio.sleep(70)
            assert server.webhook["url"] == "https://bot.example.com/webhook/telegram"
    assert "the webhook was taken away, it is https://somebody.example.com now" in caplog.text


async def test_a_webhook_that_does_not_come_through_shows_in_health(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        async with Agent("offline").running(webhook_bot(server), enable_server=False) as runtime:
            await anyio.sleep(100)
            server.write("hello")
            for second in range(1, 6):
                server.webhook_failure = {"last_error_date": second, "last_error_message": "Connection refused"}
                await anyio.sleep(60)
            assert (runtime.supervisors[0].state, runtime.health()[0]) == (InterfaceState.STALLED, False)
            await anyio.sleep(240)  # no new failure
            assert runtime.health()[0]
    assert "1 updates wait, they do not come through to https://bot.example.com/webhook/telegram" in caplog.text
    assert "Connection refused" in caplog.text


async def test_a_webhook_that_telegram_tries_again_every_two_minutes_shows_in_health() -> None:
    async with TelegramServer().running() as server:
        async with Agent("offline").running(webhook_bot(server), enable_server=False) as runtime:
            await anyio.sleep(100)
            server.write("hello")
            for second in range(1, 11):
                server.webhook_failure = {"last_error_date": second, "last_error_message": "Connection refused"}
                await anyio.sleep(120)
                assert second < 5 or not runtime.health()[0]


async def test_a_webhook_that_another_process_has_set_with_its_own_secret_is_set_again() -> None:
    async with TelegramServer().running() as server:
        async with Agent("offline").running(webhook_bot(server), enable_server=False):
            await anyio.sleep(10)
            server.webhook |= {"secret_token": "made-up-by-another"}
            server.write("hello")
            server.webhook_failure = {
                "last_error_date": 1,
                "last_error_message": "Wrong response from the webhook: 401 Unauthorized",
            }
            server.fail("setWebhook", Fault("drop"))  # is tried at the next failure
            await anyio.sleep(70)
            server.webhook_failure |= {"last_error_date": 2}
            await anyio.sleep(60)
            assert server.webhook["secret_token"] == "secret"


async def test_an_answer_about_the_webhook_of_another_shape_is_one_check_that_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with TelegramServer().running() as server:
        async with Agent("offline").running(webhook_bot(server), enable_server=False) as runtime:
            await server.until(lambda server: server.webhook)
            await anyio.sleep(1)
            server.fail("getWebhookInfo", Page(b'{"ok": true, "result": []}', status=200))
            await anyio.sleep(130)
            assert runtime.supervisors[0].state is InterfaceState.RUNNING
    assert "could not be checked: getWebhookInfo: Telegram answered with something else" in caplog.text
