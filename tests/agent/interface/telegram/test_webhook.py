"""Updates that Telegram sends by itself: over real HTTP, with the secret token."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import TelegramServer

from definable.agent import Agent
from definable.agent.interface import TelegramInterface
from definable.agent.interface.telegram.update import ALLOWED_UPDATES
from definable.agent.interface.telegram.webhook import SECRET_HEADER, webhook_address
from definable.agent.trigger import Webhook
from definable.testing import served

pytestmark = pytest.mark.anyio

SECRET = "a_secret-1"
UPDATE = {
    "update_id": 7,
    "message": {"message_id": 1, "date": 1, "chat": {"id": 5, "type": "private"}, "from": {"id": 5}, "text": "hello"},
}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def webhook_bot(server: TelegramServer, **settings: Any) -> TelegramInterface:
    return bot_for(server, mode="webhook", webhook_url="https://bot.example.com", webhook_secret=SECRET, **settings)


def agent_with(bot: TelegramInterface, path: str) -> Agent:
    """An agent that serves the bot's webhook on a path of the test's."""
    agent = Agent("offline")
    for webhook, handler in bot.webhooks():
        agent.on(Webhook(path, auth=webhook.auth))(handler)
    return agent


async def test_an_update_with_the_secret_is_answered_once() -> None:
    async with TelegramServer().running() as server:
        bot = webhook_bot(server)
        with anyio.fail_after(20):
            async with served(agent_with(bot, "/tg"), bot) as service:
                await server.until(lambda server: server.webhook)
                for _ in range(2):
                    response = await service.client.post("/tg", json=UPDATE, headers={SECRET_HEADER: SECRET})
                    assert response.status_code == 200
                await server.until(lambda server: server.sent())
        assert server.sent(5) == ["hello"]
        assert server.webhook == {
            "url": "https://bot.example.com/webhook/telegram",
            "secret_token": SECRET,
            "allowed_updates": ALLOWED_UPDATES,
            "max_connections": 1,
        }
        assert service.runtime.report is not None
        assert service.runtime.report.sources["telegram"].completed == 1


@pytest.mark.parametrize("secret", [None, "", "wrong", "a_secret-1x", "sécret"])
async def test_an_update_without_the_secret_is_refused(secret: str | None) -> None:
    async with TelegramServer().running() as server:
        bot = webhook_bot(server)
        with anyio.fail_after(20):
            async with served(agent_with(bot, "/tg"), bot) as service:
                await server.until(lambda server: server.webhook)
                headers = {} if secret is None else {SECRET_HEADER: secret.encode()}
                response = await service.client.post("/tg", json=UPDATE, headers=headers)
                assert response.status_code == 401
        assert server.sent() == []


async def test_what_is_no_update_is_acknowledged_and_nothing_else() -> None:
    async with TelegramServer().running() as server:
        bot = webhook_bot(server)
        with anyio.fail_after(20):
            async with served(agent_with(bot, "/tg"), bot) as service:
                await server.until(lambda server: server.webhook)
                for body in (b"[]", b'{"message": {}}', b'{"update_id": 1}', b"7"):
                    response = await service.client.post(
                        "/tg", content=body, headers={SECRET_HEADER: SECRET, "content-type": "application/json"}
                    )
                    assert response.status_code == 200
        assert server.sent() == []


async def test_before_it_receives_telegram_is_told_to_come_again() -> None:
    async with TelegramServer().running() as server:
        bot = webhook_bot(server)
        async with served(agent_with(bot, "/tg")) as service:  # the bot is not served
            response = await service.client.post("/tg", json=UPDATE, headers={SECRET_HEADER: SECRET})
            assert response.status_code == 503


def test_a_secret_is_made_up_and_a_bot_that_polls_has_no_webhook() -> None:
    server = TelegramServer(url="http://127.0.0.1:1")
    bot = bot_for(server, mode="webhook", webhook_url="https://bot.example.com")
    [(webhook, _)] = bot.webhooks()
    assert (webhook.source, webhook.auth is not None) == ("POST /webhook/telegram", True)
    assert list(bot_for(server).webhooks()) == []


def test_the_secret_is_not_in_what_describes_the_webhook() -> None:
    bot = webhook_bot(TelegramServer(url="http://127.0.0.1:1"))
    [(webhook, _)] = bot.webhooks()
    assert SECRET not in f"{webhook!r} {webhook.auth!r} {bot.config!r}"


def test_a_webhook_url_with_a_path_is_taken_as_it_is() -> None:
    server = TelegramServer(url="http://127.0.0.1:1")
    bot = bot_for(server, mode="webhook", webhook_url="https://proxy.example.com/bots/7/")
    assert webhook_address(bot.config) == "https://proxy.example.com/bots/7"
