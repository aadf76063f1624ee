"""The settings of a Telegram bot."""

from __future__ import annotations

import os
from typing import Any

import pytest

from definable.agent.interface import TelegramConfig
from definable.errors import ConfigurationError

TOKEN = "123456789:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def test_has_its_defaults() -> None:
    config = TelegramConfig(bot_token=TOKEN)
    assert (config.platform, config.mode, config.polling_interval, config.polling_timeout) == (
        "telegram",
        "polling",
        0.5,
        30,
    )
    assert (config.webhook_path, config.parse_mode, config.max_message_length) == ("/webhook/telegram", "HTML", 4096)
    assert (config.connect_timeout, config.request_timeout) == (10, 60)
    assert config.base_url == "https://api.telegram.org"


@pytest.mark.parametrize(
    "token", ["", "x", "123", "123:short", "123:AAAA AAAA" + "A" * 30, f"bot{TOKEN}", f"{TOKEN}\n"]
)
def test_a_token_of_another_shape_fails_at_once_and_is_not_shown(token: str) -> None:
    with pytest.raises(ConfigurationError, match="no Telegram token") as caught:
        TelegramConfig(bot_token=token)
    assert len(token) < 9 or token not in str(caught.value)


def test_a_token_of_an_environment_variable_that_is_not_set_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="bot_token: text, not NoneType"):
        TelegramConfig(bot_token=os.environ.get("NOT_SET"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "push"),
        ("polling_interval", 0),
        ("polling_timeout", -1),
        ("connect_timeout", 0),
        ("request_timeout", -5),
        ("parse_mode", "html"),
        ("max_message_length", 5000),
        ("max_concurrent_requests", 0),
        ("base_url", "api.telegram.org"),
        ("webhook_url", "nowhere"),
    ],
)
def test_refuses_a_value_and_names_it(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        TelegramConfig(bot_token=TOKEN, **{name: value})


def test_webhook_mode_needs_a_url_and_a_secret_has_its_letters() -> None:
    with pytest.raises(ConfigurationError, match="webhook_url"):
        TelegramConfig(bot_token=TOKEN, mode="webhook")
    with pytest.raises(ConfigurationError, match="webhook_secret"):
        TelegramConfig(bot_token=TOKEN, webhook_secret="no spaces")


def test_shows_neither_token_nor_secret() -> None:
    shown = repr(TelegramConfig(bot_token=TOKEN, webhook_secret="hush"))
    assert TOKEN not in shown and "hush" not in shown


def test_ids_may_be_numbers_or_strings() -> None:
    config = TelegramConfig(bot_token=TOKEN, allowed_user_ids=[1, "2"], allowed_chat_ids=-3)  # pyright: ignore[reportArgumentType]
    assert (config.allowed_user_ids, config.allowed_chat_ids) == ({"1", "2"}, {"-3"})
    assert config.with_updates(polling_interval=1).allowed_user_ids == {"1", "2"}
