"""What a Slack app is configured with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from definable.agent.auth.providers import allowed_ids
from definable.agent.interface.config import InterfaceConfig, check_token_is_text
from definable.errors import ConfigurationError

MAX_MESSAGE_LENGTH = 4000
"""Characters: what Slack advises for one message (https://docs.slack.dev/reference/methods/chat.postMessage)."""


@dataclass(frozen=True, kw_only=True)
class SlackConfig(InterfaceConfig):
    """Settings of a Slack app.

    Raises:
        ConfigurationError: A value is out of its range, or a token is none.
    """

    bot_token: str = field(repr=False)
    """`xoxb-...`, from the app's page "OAuth & Permissions". Shown nowhere, in no log and no `repr`."""
    app_token: str | None = field(default=None, repr=False)
    """`xapp-...` with the scope `connections:write`, from the app's page "Basic Information"; for Socket Mode."""
    signing_secret: str | None = field(default=None, repr=False)
    """From the app's page "Basic Information"; for the Events API."""
    platform: str = "slack"
    mode: Literal["socket", "events"] = "socket"
    """Whether events come over WebSockets that this service opens, or are sent to its own HTTP server."""
    events_path: str = "/webhook/slack"
    """Of the Events API: where events, buttons and slash commands are sent to."""
    allowed_user_ids: Iterable[str] | None = None
    """The only users who are answered; None for all."""
    allowed_channel_ids: Iterable[str] | None = None
    """The only channels and direct chats in which anybody is answered, with their threads; None for all."""
    respond_to_bots: bool = False
    """Whether other bots are answered; the app itself never is."""
    reply_in_thread: bool = True
    """Whether an answer in a channel begins a thread under the message. Each thread is a conversation of its own."""
    status: str = "is thinking..."
    """What is shown after the app's name in a thread while the agent is at work."""
    max_message_length: int = MAX_MESSAGE_LENGTH
    connect_timeout: float = 10
    """Seconds in which a connection must be there, and greeted in Socket Mode."""
    request_timeout: float = 30
    """Seconds that one request may take."""
    base_url: str = "https://slack.com/api/"
    """Of the Web API, say `https://slack-gov.com/api/`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_token_is_text(self.bot_token)
        _check_token("bot_token", self.bot_token, "xoxb-")
        self._check_mode()
        self._check_ids()
        if self.max_message_length > MAX_MESSAGE_LENGTH:
            raise ConfigurationError(f"max_message_length={self.max_message_length!r}: at most {MAX_MESSAGE_LENGTH}")
        for name in ("connect_timeout", "request_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: seconds, greater than 0")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"base_url={self.base_url!r}: an http or https URL")

    def _check_mode(self) -> None:
        if self.mode not in ("socket", "events"):
            raise ConfigurationError(f"mode={self.mode!r}: 'socket' or 'events'")
        if self.mode == "socket":
            if self.app_token is None:
                raise ConfigurationError("mode='socket' needs app_token, 'xapp-...' with the scope connections:write")
            _check_token("app_token", self.app_token, "xapp-")
        elif not (self.signing_secret and self.signing_secret.strip()):
            raise ConfigurationError("mode='events' needs signing_secret, which proves that Slack sends the events")

    def _check_ids(self) -> None:
        for name, letters in (("allowed_user_ids", "UW"), ("allowed_channel_ids", "CDG")):
            ids = allowed_ids(f"SlackConfig({name}", getattr(self, name))
            if wrong := sorted(id for id in ids or () if not re.fullmatch(rf"[{letters}][A-Z0-9]+", id)):
                raise ConfigurationError(f"{name}: {wrong[0]!r} is no id, which begins with one of {letters}")
            object.__setattr__(self, name, ids)  # the dataclass is frozen


def _check_token(name: str, token: str, prefix: str) -> None:
    """Refuse what cannot be such a token; the message does not repeat it."""
    if not re.fullmatch(rf"{prefix}[\w.-]{{8,}}", token, re.ASCII):
        raise ConfigurationError(f"{name}: {len(token)} characters that are no token of this kind ('{prefix}...')")
