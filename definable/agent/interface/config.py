"""What every interface can be configured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from definable.errors import ConfigurationError
from definable.original_library import unknown_arguments

Config = TypeVar("Config", bound="InterfaceConfig")


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
    """Sent to the user when the agent fails."""
    typing_indicator: bool = True
    """Whether the platform shows that the agent is at work."""
    stream_replies: bool = True
    """Whether a reply that takes the model long is shown while it is written, where the platform can edit messages."""
    max_message_length: int = 4096
    """Characters of one outgoing message; longer replies are split."""
    rate_limit_messages_per_minute: int = 30
    """Per user."""

    if not TYPE_CHECKING:  # the dataclass's own signature is what a type checker shall see

        def __new__(cls, *_: Any, **settings: Any) -> Self:
            check_settings(cls, settings, cls.__name__)
            return super().__new__(cls)

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
        check_settings(type(self), changes, "with_updates")
        return replace(self, **changes)


def check_settings(kind: type[InterfaceConfig], settings: Mapping[str, Any], function: str) -> None:
    """Refuse a setting that a kind of config does not have.

    Raises:
        TypeError: There is one; the message names the nearest that there is.
    """
    known = [each.name for each in fields(kind)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        unknown_arguments(f"{function}()", unknown, known, {})


def configured(kind: type[Config], config: object, settings: Mapping[str, Any], owner: str) -> Config:
    """The config of an interface, from the one it was given, from settings given as keywords, or from both.

    Args:
        kind: The interface's class of configs.
        config: What it was given; None for nothing.
        settings: Keywords, which come before what the config says.
        owner: The interface's class.

    Raises:
        ConfigurationError: It is no config of that kind, or there is none and one is needed.
        TypeError: There is no such setting.
    """
    check_settings(kind, settings, owner)
    if config is None:
        try:
            return kind(**settings)
        except TypeError as error:  # a setting that has no default is missing
            raise ConfigurationError(f"{owner}() needs a {kind.__name__}, or its settings: {error}") from error
    if not isinstance(config, kind):
        raise ConfigurationError(f"{owner}(config={type(config).__name__}): a {kind.__name__}, or its settings by name")
    return config.with_updates(**settings) if settings else config


def check_token_is_text(token: object) -> None:
    """Refuse what is not even text; the message does not repeat it.

    Raises:
        ConfigurationError: It is something else, say None of `os.environ.get`.
    """
    if not isinstance(token, str):
        raise ConfigurationError(f"bot_token: text, not {type(token).__name__}: is its environment variable set?")
