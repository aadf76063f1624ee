"""What a Discord bot is configured with; where its token shows."""

from __future__ import annotations

import os
from typing import Any

import pytest
from loopback.discord_objects import TOKEN

from definable.agent.interface import DiscordConfig, DiscordInterface
from definable.errors import ConfigurationError


def test_defaults() -> None:
    config = DiscordConfig(bot_token=TOKEN)
    assert (config.platform, config.max_message_length, config.connect_timeout) == ("discord", 2000, 30)
    assert (config.intents_message_content, config.respond_to_bots, config.command_prefix) == (True, False, None)
    assert (config.allowed_guild_ids, config.allowed_channel_ids) == (None, None)
    assert config.base_url == "https://discord.com/api/v10"


def test_the_token_shows_in_no_repr() -> None:
    config = DiscordConfig(bot_token=TOKEN)
    assert TOKEN not in repr(config) + repr(DiscordInterface(config))


@pytest.mark.parametrize("token", ["", "x", "1234567890", "a.b", "Bot a.b.c", "a.b.c\n", "a b.c.d", "ä.b.c", "a..c"])
def test_what_is_no_token_is_refused_at_once_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigurationError, match="bot_token") as caught:
        DiscordConfig(bot_token=token)
    assert len(token) < 3 or token not in str(caught.value)


def test_a_token_of_an_environment_variable_that_is_not_set_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="bot_token: text, not NoneType"):
        DiscordConfig(bot_token=os.environ.get("NOT_SET"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_message_length": 2001},
        {"max_message_length": 0},
        {"connect_timeout": 0},
        {"command_prefix": " "},
        {"base_url": "discord.com"},
        {"gateway_url": "https://x"},
        {"allowed_guild_ids": ["my server"]},
        {"allowed_channel_ids": [-1]},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        DiscordConfig(bot_token=TOKEN, **changes)


def test_ids_are_taken_as_integers_and_as_strings() -> None:
    config = DiscordConfig(bot_token=TOKEN, allowed_guild_ids=[1, "2"], allowed_channel_ids={3})
    assert (config.allowed_guild_ids, config.allowed_channel_ids) == (frozenset({"1", "2"}), frozenset({"3"}))
    assert config.with_updates(respond_to_bots=True).allowed_guild_ids == frozenset({"1", "2"})
