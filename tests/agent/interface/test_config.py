"""The settings of an interface, and the messages that it carries."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
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
    Texts,
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
        "groups": "mention",
        "busy": "queue",
        "collect": 0.8,
        "answer_timeout": 300.0,
        "commands": {},
        "transcriber": None,
        "texts": dataclasses.asdict(Texts()),
        "proxy": None,
    }


def test_every_setting_stands_in_the_docs_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "chats.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE))
    assert [*rows] == [each.name for each in dataclasses.fields(InterfaceConfig)]
    config = InterfaceConfig()
    shown = {"error_message": "a sentence", "texts": "`Texts()`", "platform": '`""`'}
    for name, default in rows.items():
        value = getattr(config, name)
        quoted = f'"{value}"' if isinstance(value, str) else repr(value)
        assert default == shown.get(name, f"`{quoted}`"), name


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": "some"},
        {"busy": "drop"},
        {"collect": -1},
        {"collect": 3600},
        {"answer_timeout": 0},
        {"commands": {"Not A Name": print}},
        {"commands": {"name": "no function"}},
    ],
    ids=["groups", "busy", "collect", "long-collect", "answer-timeout", "name", "function"],
)
def test_refuses_what_chats_cannot_do(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        InterfaceConfig(**settings)


def test_refuses_texts_with_unknown_placeholders() -> None:
    assert Texts(stopped="", too_many_messages="Wait {seconds} s").stopped == ""
    for text in ("{minutes}", "{", "{0}"):
        with pytest.raises(ConfigurationError, match="too_many_messages"):
            Texts(too_many_messages=text)


def test_a_config_can_be_hashed() -> None:
    assert hash(InterfaceConfig()) == hash(InterfaceConfig())


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
