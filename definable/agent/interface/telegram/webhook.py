"""Updates that Telegram sends by itself, to the service's own HTTP server."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from definable.agent.auth.base import AuthContext, AuthRequest

from .client import BotAPI
from .config import TelegramConfig
from .update import ALLOWED_UPDATES

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"


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
        """Telegram; None for whoever does not know the secret."""
        presented = (request.header(SECRET_HEADER) or "").encode("utf-8", "surrogatepass")
        return AuthContext("telegram") if hmac.compare_digest(presented, self._secret) else None


async def set_webhook(api: BotAPI, config: TelegramConfig, secret: str) -> None:
    """Have Telegram send the updates here.

    Raises:
        InterfaceError: Telegram refuses, or cannot be reached.
    """
    parameters = {
        "url": webhook_address(config),
        "secret_token": secret,
        "allowed_updates": ALLOWED_UPDATES,
        "max_connections": 1,  # several would bring a chat's messages out of order
    }
    await api.call("setWebhook", parameters)


def webhook_address(config: TelegramConfig) -> str:
    """Where Telegram sends updates to: `webhook_url`, with `webhook_path` where it has no path of its own."""
    url = config.webhook_url or ""
    return url if urlsplit(url).path else f"{url}/{config.webhook_path.lstrip('/')}"
