"""What every interface can be configured with."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from definable.errors import ConfigurationError
from definable.original_library import unknown_arguments

if TYPE_CHECKING:
    from .message import InterfaceMessage, InterfaceResponse, Media
    from .sessions import InterfaceSession

Config = TypeVar("Config", bound="InterfaceConfig")

Said: TypeAlias = "str | InterfaceResponse | None"
"""What a command says; None for nothing."""

ChatCommand: TypeAlias = "Callable[[InterfaceMessage, InterfaceSession], Said | Awaitable[Said]]"
"""What answers a command. The first line of its docstring is its description."""

Transcriber: TypeAlias = "Callable[[Media], Awaitable[str]]"
"""Returns what is said in a voice message."""

COMMAND_NAME = re.compile(r"[a-z0-9_-]{1,32}")
"""What Telegram (without `-`), Discord and Slack take as a command."""

MAX_COLLECT = 60.0
"""Seconds; a user waits that long for every answer."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What the service itself says in chats; an empty text is not sent.

    Raises:
        ConfigurationError: A text has a placeholder that is not filled in.
    """

    too_many_messages: str = "Too many messages. Please wait {seconds} seconds."
    """To a user beyond the rate limit, once."""
    stopped: str = "Stopped."
    """After `/stop`."""
    stopped_all: str = "Stopped. {count} more messages that waited are not answered."
    """After `/stop`, where messages waited behind the one that was being answered."""
    nothing_to_stop: str = "There is nothing to stop."
    timed_out: str = "This took too long and was stopped. Please try again."
    """Where an answer took longer than `answer_timeout`."""
    new_conversation: str = "A new conversation begins."
    """After `/new`."""
    start: str = "Hello! Write to me, and I answer.\n\n{commands}"
    """After `/start`."""
    help: str = "Write to me, and I answer.\n\n{commands}"
    """After `/help`."""
    describe_stop: str = "Stop the answer"
    """What menus and `/help` say of `/stop`."""
    describe_new: str = "Begin a new conversation"
    describe_help: str = "Show what I understand"

    def __post_init__(self) -> None:
        for each in fields(self):
            try:
                getattr(self, each.name).format(**TEXT_VALUES)
            except (AttributeError, IndexError, KeyError, ValueError) as error:
                raise ConfigurationError(
                    f"Texts({each.name}={getattr(self, each.name)!r}): a text, in which {', '.join(TEXT_VALUES)} may "
                    f"stand in braces: {error!r}"
                ) from error


TEXT_VALUES = {"seconds": "1", "count": "1", "commands": ""}
"""What may stand in a text, each in those where it says so."""


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
    groups: Literal["mention", "all", "off"] = "mention"
    """What is answered in groups, channels and threads: what addresses the agent, everything, or nothing. Direct chats
    are always answered."""
    busy: Literal["queue", "latest", "interrupt"] = "queue"
    """What becomes of a message that comes while its chat is being answered: it waits behind all others; of those that
    wait the newest alone is answered; or it takes the place of what is being answered."""
    collect: float = 0.8
    """Seconds in which messages that follow one another, of one user in one chat, become one; 0 for never."""
    answer_timeout: float | None = 300.0
    """Seconds that an answer may take; then it is cancelled, and the user is told. None for any time."""
    commands: Mapping[str, ChatCommand] = field(default_factory=dict[str, "ChatCommand"], hash=False)
    """Functions of a message and its session by the names of commands, without a slash: `{"balance": show_balance}`."""
    transcriber: Transcriber | None = None
    """Function from a voice message to its text; None: the model is told that there is one."""
    texts: Texts = Texts()
    """What the service itself says in chats."""
    proxy: str | None = field(default=None, repr=False)
    """What the platform is reached through: `"http://user:password@host:3128"` or, with the extra `socks`,
    `"socks5://host:1080"`. None: what `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say."""

    if not TYPE_CHECKING:  # the dataclass's own signature is what a type checker shall see

        def __new__(cls, *_: Any, **settings: Any) -> Self:
            check_settings(cls, settings, cls.__name__)
            return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, known in (("groups", ("mention", "all", "off")), ("busy", ("queue", "latest", "interrupt"))):
            if getattr(self, name) not in known:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: one of {', '.join(map(repr, known))}")
        if not 0 <= self.collect <= MAX_COLLECT:
            raise ConfigurationError(f"collect={self.collect!r}: seconds, from 0 to {MAX_COLLECT:g}")
        if self.answer_timeout is not None and not self.answer_timeout > 0:
            raise ConfigurationError(f"answer_timeout={self.answer_timeout!r}: seconds, greater than 0, or None")
        for name, function in self.commands.items():
            if not COMMAND_NAME.fullmatch(name) or not callable(function):
                raise ConfigurationError(
                    f"commands={{{name!r}: {function!r}}}: a name of at most 32 of a-z 0-9 _ -, and a function"
                )
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
