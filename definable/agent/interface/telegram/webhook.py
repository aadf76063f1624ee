"""Updates that Telegram sends by itself, to the service's own HTTP server."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

import anyio
from pydantic import BaseModel, ValidationError

from definable.agent.auth.base import AuthContext, AuthRequest
from definable.agent.interface.errors import InterfaceConnectionError, InterfaceRateLimitError
from definable.concurrency.logs import logger_named

from .client import BotAPI
from .config import TelegramConfig
from .update import ALLOWED_UPDATES

logger: logging.Logger = logger_named(__name__)

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"

CHECK_INTERVAL = 60.0
"""Seconds from one question about the webhook to the next."""

LONGEST_RESEND = 180.0
"""Seconds: an update that failed is sent again after two minutes at most (telegram-bot-api, `WebhookActor.cpp`), and a
connection takes a while to fail."""


class TelegramSecret:
    """Accepts requests that bear the secret token (https://core.telegram.org/bots/api#setwebhook).

    Args:
        secret: What was given to setWebhook.
    """

    immediate = True

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def __repr__(self) -> str:
        return "TelegramSecret(...)"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """Telegram; None for a request without the secret."""
        presented = (request.header(SECRET_HEADER) or "").encode("utf-8", "surrogatepass")
        return AuthContext("telegram") if hmac.compare_digest(presented, self._secret) else None


class _WebhookInfo(BaseModel):
    """https://core.telegram.org/bots/api#webhookinfo"""

    url: str
    pending_update_count: int = 0
    last_error_date: int = 0
    """Unix seconds, by Telegram's clock."""
    last_error_message: str = ""


async def keep_webhook(api: BotAPI, config: TelegramConfig, secret: str, alive: Callable[[], None]) -> NoReturn:
    """Have Telegram send the updates here, and check once a minute that it does.

    Args:
        api: The Bot API.
        config: Where to send them.
        secret: What they must bear.
        alive: Called whenever a check finds the webhook set and reached.

    Raises:
        InterfaceError: Telegram refuses, cannot be reached at first, or another program has changed the webhook.
    """
    address = webhook_address(config)
    wanted = {
        "url": address,
        "secret_token": secret,
        "allowed_updates": ALLOWED_UPDATES,
        "max_connections": 1,  # several would bring a chat's messages out of order
    }
    await api.call("setWebhook", wanted)
    last_error, failed_at = (await _webhook_info(api)).last_error_date, -math.inf
    while True:
        await anyio.sleep(CHECK_INTERVAL)
        try:
            info = await _webhook_info(api)
        except (InterfaceConnectionError, InterfaceRateLimitError) as error:
            logger.info("telegram: the webhook could not be checked: %s", error)
            continue
        if info.url != address:
            raise InterfaceConnectionError(
                f"the webhook was taken away, it is {info.url or 'none'} now: is another program at it?"
            )
        is_failing = info.last_error_date != last_error
        if is_failing:
            last_error, failed_at = info.last_error_date, anyio.current_time()
        if not info.pending_update_count or anyio.current_time() - failed_at > LONGEST_RESEND:
            alive()
        elif is_failing:
            logger.warning(
                "telegram: %d updates wait, they do not come through to %s: %s",
                info.pending_update_count,
                address,
                info.last_error_message,
            )
            await _set_again(api, wanted)


async def _set_again(api: BotAPI, wanted: Mapping[str, Any]) -> None:
    """Another process may have set it with its own secret, which Telegram does not tell."""
    try:
        await api.call("setWebhook", wanted)
    except (InterfaceConnectionError, InterfaceRateLimitError) as error:
        logger.info("telegram: the webhook could not be set again: %s", error)


async def _webhook_info(api: BotAPI) -> _WebhookInfo:
    try:
        return _WebhookInfo.model_validate(await api.call("getWebhookInfo"))
    except ValidationError:
        raise InterfaceConnectionError("getWebhookInfo: Telegram answered with something else") from None


def webhook_address(config: TelegramConfig) -> str:
    """Where Telegram sends updates to: `webhook_url`, with `webhook_path` where it has no path of its own."""
    url = config.webhook_url or ""
    return url if urlsplit(url).path else f"{url}/{config.webhook_path.lstrip('/')}"
