"""The settings of an interface, and the messages that it carries."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from definable.agent.auth import AllowlistAuth
from definable.agent.interface import (
    AllowlistHook,
    DiscordConfig,
    InterfaceConfig,
    InterfaceMessage,
    InterfaceResponse,
    TelegramConfig,
)
from definable.errors import ConfigurationError

TOKEN = "1:" + "x" * 35


def test_has_its_defaults() -> None:
    assert dataclasses.asdict(InterfaceConfig()) == {
        "platform": "",
        "max_session_history": 50,
        "session_ttl_seconds": 3600,
        "max_concurrent_requests": 10,
        "error_message": "Sorry, something went wrong. Please try again.",
        "typing_indicator": True,
        "stream_replies": True,
        "max_message_length": 4096,
        "rate_limit_messages_per_minute": 30,
    }


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        InterfaceConfig().platform = "x"  # pyright: ignore[reportAttributeAccessIssue]


def test_with_updates_gives_a_changed_copy() -> None:
    config = InterfaceConfig(platform="x")
    assert config.with_updates(max_message_length=5) == InterfaceConfig(platform="x", max_message_length=5)
    assert config.max_message_length == 4096


def test_with_updates_keeps_the_kind_and_checks_again() -> None:
    @dataclasses.dataclass(frozen=True)
    class BotConfig(InterfaceConfig):
        bot_token: str = ""

    config = BotConfig(bot_token="t").with_updates(platform="bot")
    assert (type(config), config.bot_token, config.platform) == (BotConfig, "t", "bot")
    with pytest.raises(ConfigurationError):
        config.with_updates(max_message_length=0)
    with pytest.raises(TypeError, match="no_such_setting"):
        config.with_updates(no_such_setting=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_session_history", 0),
        ("session_ttl_seconds", -1),
        ("session_ttl_seconds", math.nan),
        ("max_concurrent_requests", 0),
        ("max_message_length", 0),
        ("rate_limit_messages_per_minute", 0),
    ],
)
def test_refuses_a_value_and_names_it(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}"):
        InterfaceConfig(**{name: value})


def test_messages_and_responses_have_their_defaults() -> None:
    message = InterfaceMessage("p", "u", "c", "m")
    assert (message.text, message.images, message.files, message.metadata) == (None, (), (), {})
    assert message.created_at > 1e9
    assert InterfaceResponse("hi") == InterfaceResponse(content="hi", images=(), metadata={})


@pytest.mark.parametrize(
    ("argument", "listed"),
    [
        ("AllowlistAuth(user_ids", lambda ids: AllowlistAuth(ids)),
        ("AllowlistHook(allowed_user_ids", lambda ids: AllowlistHook(ids)),
        ("TelegramConfig(allowed_user_ids", lambda ids: TelegramConfig(bot_token=TOKEN, allowed_user_ids=ids)),
        ("DiscordConfig(allowed_guild_ids", lambda ids: DiscordConfig(bot_token="a.b.c", allowed_guild_ids=ids)),
    ],
)
@pytest.mark.parametrize("ids", ["", [None], [True], b"7", {"7": "ann"}])
def test_a_list_of_users_with_something_else_in_it_is_refused_by_whoever_takes_one(
    argument: str, listed: Callable[[Any], object], ids: Any
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(argument)):
        listed(ids)
