"""What a Telegram bot can be configured with."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from definable.agent.auth.providers import allowed_ids
from definable.agent.interface.config import InterfaceConfig, check_token_is_text
from definable.errors import ConfigurationError

_TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{30,}")
"""https://core.telegram.org/bots/features#botfather: the bot's id, a colon, 35 characters today."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}")
"""https://core.telegram.org/bots/api#setwebhook"""

TELEGRAM_URL = "https://api.telegram.org"

MAX_MESSAGE_LENGTH = 4096
"""UTF-16 code units (https://core.telegram.org/bots/api#sendmessage)."""


@dataclass(frozen=True, kw_only=True)
class TelegramConfig(InterfaceConfig):
    """Settings of a Telegram bot.

    Raises:
        ConfigurationError: A value is out of its range, or the token is none.
    """

    bot_token: str = field(repr=False)
    """From @BotFather; never logged."""
    platform: str = "telegram"
    mode: Literal["polling", "webhook"] = "polling"
    """Whether updates are asked for, or sent to this service's own HTTP server."""
    polling_interval: float = 0.5
    """Seconds between two polls while messages are being answered."""
    polling_timeout: int = 30
    """Seconds that Telegram holds a poll open when there is nothing new."""
    webhook_url: str | None = None
    """Where Telegram reaches this service: `"https://bot.example.com"`, with or without `webhook_path`."""
    webhook_path: str = "/webhook/telegram"
    webhook_port: int | None = None
    """Of the original library, and without effect: updates come to the port that the service listens on."""
    webhook_secret: str | None = field(default=None, repr=False)
    """What proves that an update comes from Telegram: 1 to 256 of `A-Z a-z 0-9 _ -`; made up when None."""
    allowed_user_ids: Iterable[str | int] | None = None
    """The only users who are answered; None for all."""
    allowed_chat_ids: Iterable[str | int] | None = None
    """The only chats in which anybody is answered; None for all."""
    parse_mode: Literal["HTML", "Markdown", "MarkdownV2"] | None = "HTML"
    """Whether the Markdown that models write is shown formatted; None sends it as it is."""
    max_message_length: int = MAX_MESSAGE_LENGTH
    connect_timeout: float = 10
    """Seconds."""
    request_timeout: float = 60
    """Seconds that one request may take, beside the time that a poll is held open."""
    respond_to_bots: bool = False
    """Whether other bots are answered in groups."""
    base_url: str = TELEGRAM_URL
    """Of the Bot API: another for a server of your own (https://github.com/tdlib/telegram-bot-api)."""
    local_files: str | None = None
    """The directory in which a server of your own that runs with `--local` keeps files: no others are read. None: they
    are read wherever that server says. Of Telegram's own server none are."""
    max_file_size: int = 20 * 1024 * 1024
    """Bytes of a file that is fetched; the model is told of larger ones. Telegram's own server gives bots no more than
    20 MB (https://core.telegram.org/bots/api#getfile)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_token_is_text(self.bot_token)
        if not _TOKEN.fullmatch(self.bot_token):
            raise ConfigurationError("bot_token=...: no Telegram token, which is '<number>:<35 characters>'")
        for name in ("polling_interval", "connect_timeout", "request_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: seconds, greater than 0")
        if self.max_file_size < 1:
            raise ConfigurationError(f"max_file_size={self.max_file_size!r}: bytes, at least 1")
        if self.polling_timeout < 0:
            raise ConfigurationError(f"polling_timeout={self.polling_timeout!r}: seconds, 0 or more")
        if self.max_message_length > MAX_MESSAGE_LENGTH:
            raise ConfigurationError(f"max_message_length={self.max_message_length!r}: at most {MAX_MESSAGE_LENGTH}")
        if self.parse_mode not in ("HTML", "Markdown", "MarkdownV2", None):
            raise ConfigurationError(f"parse_mode={self.parse_mode!r}: 'HTML', 'Markdown', 'MarkdownV2' or None")
        self._check_mode()
        for name in ("allowed_user_ids", "allowed_chat_ids"):
            object.__setattr__(
                self, name, allowed_ids(f"TelegramConfig({name}", getattr(self, name))
            )  # the class is frozen
        object.__setattr__(self, "base_url", _checked_url("base_url", self.base_url))

    @property
    def has_own_server(self) -> bool:
        """Whether the Bot API is served by another than Telegram."""
        return self.base_url != TELEGRAM_URL

    def _check_mode(self) -> None:
        if self.webhook_port is not None:
            warnings.warn(
                f"webhook_port={self.webhook_port!r} has no effect: Telegram's updates come to the service's own port, "
                f"agent.serve(port={self.webhook_port!r})",
                stacklevel=5,
            )
        if self.mode not in ("polling", "webhook"):
            raise ConfigurationError(f"mode={self.mode!r}: 'polling' or 'webhook'")
        if self.webhook_secret is not None and not _SECRET.fullmatch(self.webhook_secret):
            raise ConfigurationError("webhook_secret=...: 1 to 256 of A-Z a-z 0-9 _ -")
        if self.webhook_url is not None:
            object.__setattr__(self, "webhook_url", _checked_url("webhook_url", self.webhook_url))
        elif self.mode == "webhook":
            raise ConfigurationError("mode='webhook' needs webhook_url, where Telegram reaches this service")


def _checked_url(name: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"{name}={url!r}: an http or https URL")
    return url.rstrip("/")
