"""What a Discord bot is configured with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from definable.agent.auth.providers import allowed_ids
from definable.agent.interface.config import InterfaceConfig, check_token_is_text
from definable.errors import ConfigurationError

MAX_MESSAGE_LENGTH = 2000
"""Characters; what Discord takes in one message of a bot."""

TOKEN_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""Three parts of URL-safe base64: the bot's id, a timestamp, a signature. An application's id or secret has no dots."""


@dataclass(frozen=True, kw_only=True)
class DiscordConfig(InterfaceConfig):
    """Settings of a Discord bot.

    Raises:
        ConfigurationError: A value is out of its range, or the token is none.
    """

    bot_token: str = field(repr=False)
    """From the developer portal, page "Bot". Shown nowhere, in no log and no `repr`."""
    platform: str = "discord"
    intents_message_content: bool = True
    """Whether to ask for the text of messages that do not mention the bot. It is a privileged intent, to be switched on
    in the developer portal; without it Discord sends text only in direct messages and where the bot is mentioned."""
    allowed_guild_ids: Iterable[int | str] | None = None
    """The only servers to listen to; direct messages belong to none. All, and direct messages, when None."""
    allowed_channel_ids: Iterable[int | str] | None = None
    """The only channels to listen to, with their threads and forum posts; a thread may be named too. All when None."""
    command_guild_ids: Iterable[int | str] | None = None
    """The only servers that show the slash commands; all, and direct messages, when None. They take the place of the
    commands that the application had there."""
    respond_to_bots: bool = False
    """Whether other bots and webhooks are answered; the bot itself never is."""
    command_prefix: str | None = None
    """What a message must begin with to be answered; the agent gets the rest, and is meant in servers too. None: every
    message that `groups` lets in is."""
    connect_timeout: float = 30
    """Seconds until the gateway must have greeted the bot, and until the API must have taken a connection."""
    max_message_length: int = MAX_MESSAGE_LENGTH
    base_url: str = "https://discord.com/api/v10"
    """Of the HTTP API."""
    gateway_url: str | None = None
    """Of the gateway, say of a proxy before it; None: the one that the API names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_token_is_text(self.bot_token)
        check_token(self.bot_token)
        if self.max_message_length > MAX_MESSAGE_LENGTH:
            raise ConfigurationError(f"max_message_length={self.max_message_length!r}: at most {MAX_MESSAGE_LENGTH}")
        if not self.connect_timeout > 0:
            raise ConfigurationError(f"connect_timeout={self.connect_timeout!r}: greater than 0")
        if self.command_prefix is not None and not self.command_prefix.strip():
            raise ConfigurationError(f"command_prefix={self.command_prefix!r}: some text, or None")
        _check_url("base_url", self.base_url, ("http", "https"))
        if self.gateway_url is not None:
            _check_url("gateway_url", self.gateway_url, ("ws", "wss"))
        for name in ("allowed_guild_ids", "allowed_channel_ids", "command_guild_ids"):
            ids = allowed_ids(f"DiscordConfig({name}", getattr(self, name))
            if wrong := sorted(id for id in ids or () if not (id.isascii() and id.isdecimal())):
                raise ConfigurationError(f"{name}: {wrong[0]!r} is no Discord id, which is a decimal number")
            object.__setattr__(self, name, ids)  # the dataclass is frozen


def check_token(token: str) -> None:
    """Refuse what cannot be a bot's token; the message does not repeat it.

    Raises:
        ConfigurationError: It has not the shape of one.
    """
    if token.startswith("Bot "):
        raise ConfigurationError('bot_token: the token alone, without "Bot " before it')
    if not TOKEN_SHAPE.fullmatch(token):
        raise ConfigurationError(
            f"bot_token: {len(token)} characters that are no bot token (three parts with dots between): copy it from "
            'the page "Bot" of the developer portal'
        )


def _check_url(name: str, url: str, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname:
        raise ConfigurationError(f"{name}={url!r}: a URL with {' or '.join(schemes)}")
