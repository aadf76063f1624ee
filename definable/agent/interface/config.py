"""What every interface can be configured with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from definable.errors import ConfigurationError


@dataclass(frozen=True)
class InterfaceConfig:
    """Settings of a messaging interface.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    platform: str = ""
    """Names the interface in reports, logs and `/health`; the class's name when empty."""
    max_session_history: int = 50
    """Messages of a conversation that are kept."""
    session_ttl_seconds: float = 3600
    """Seconds of silence after which a conversation begins anew."""
    max_concurrent_requests: int = 10
    """Chats that are answered at once."""
    error_message: str = "Sorry, something went wrong. Please try again."
    """What the user is told when the agent fails."""
    typing_indicator: bool = True
    """Whether the platform shows that the agent is at work."""
    stream_replies: bool = True
    """Whether a reply that takes the model long is shown while it is written, where the platform can edit messages."""
    max_message_length: int = 4096
    """Characters of one outgoing message; longer replies are split."""
    rate_limit_messages_per_minute: int = 30
    """Per user."""

    def __post_init__(self) -> None:
        for name in ("max_session_history", "session_ttl_seconds", "max_concurrent_requests", "max_message_length"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: greater than 0")
        if self.rate_limit_messages_per_minute < 1:
            raise ConfigurationError(
                f"rate_limit_messages_per_minute={self.rate_limit_messages_per_minute!r}: at least 1"
            )

    def with_updates(self, **changes: Any) -> Self:
        """A copy with some values changed.

        Raises:
            TypeError: There is no such setting.
        """
        return replace(self, **changes)


def check_token_is_text(token: object) -> None:
    """Refuse what is not even text; the message does not repeat it.

    Raises:
        ConfigurationError: It is something else, say None of `os.environ.get`.
    """
    if not isinstance(token, str):
        raise ConfigurationError(f"bot_token: text, not {type(token).__name__}: is its environment variable set?")
