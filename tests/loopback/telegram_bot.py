"""A `TelegramInterface` at the loopback Bot API, for tests."""

from __future__ import annotations

from typing import Any

from definable.agent.interface import TelegramConfig, TelegramInterface

from .telegram_server import TelegramServer


def bot_for(server: TelegramServer, *, hooks: Any = (), auth: Any = None, **settings: Any) -> TelegramInterface:
    """A bot with the server's token, whose rate limit is out of the way."""
    settings = {"rate_limit_messages_per_minute": 10_000, "collect": 0, "bot_token": server.token} | settings
    return TelegramInterface(TelegramConfig(base_url=server.url, **settings), hooks=hooks, auth=auth)
