"""Which messages reach the agent, and as what."""

from __future__ import annotations

from typing import Any

import pytest
from loopback.discord_objects import BOT, BOT_ID, TOKEN, message, user

from definable.agent.interface import DiscordConfig, InterfaceMessage
from definable.agent.interface.discord.incoming import MessageFilter, NotAMessage

PNG = {"id": "1", "filename": "a.png", "url": "https://cdn/a.png", "content_type": "image/png", "size": 5}
OGG = {"id": "2", "filename": "v.ogg", "url": "https://cdn/v.ogg", "content_type": "audio/ogg", "size": 9}
PDF = {"id": "3", "filename": "b.pdf", "url": "https://cdn/b.pdf", "content_type": "application/pdf; x=y", "size": 7}


def admit(data: dict[str, Any], **config: Any) -> InterfaceMessage | None:
    return MessageFilter(DiscordConfig(bot_token=TOKEN, **config), "discord").read(data, BOT_ID)


def said(content: str = "hello", **changes: Any) -> dict[str, Any]:
    return message("10", user("7", "alice"), content, **changes)


def test_a_message_is_normalised() -> None:
    data = said(id="1574254037623111688", guild_id="99", member={"nick": "Al"})
    found = admit(data)
    assert found is not None
    assert (found.platform, found.platform_user_id, found.platform_chat_id) == ("discord", "7", "10")
    assert (found.platform_message_id, found.text, found.username) == ("1574254037623111688", "hello", "alice")
    assert found.metadata == {"guild_id": "99", "display_name": "Al", "is_bot": False}
    assert 1_700_000_000 < found.created_at < 2_000_000_000


def test_a_reply_says_what_it_replies_to() -> None:
    data = said(type=19, message_reference={"message_id": "55"}, referenced_message=message("10", BOT, "before"))
    found = admit(data)
    assert found is not None and found.reply_to_message_id == "55"
    assert found.metadata["reply_to"] == {"text": "before", "user_id": BOT_ID}


def test_a_reply_to_a_deleted_message_is_read() -> None:
    found = admit(said(type=19, message_reference={"message_id": "55"}, referenced_message=None))
    assert found is not None and "reply_to" not in found.metadata


def test_attachments_are_media() -> None:
    found = admit(said("", attachments=[PNG, OGG, PDF | {"duration_secs": 3.5}]))
    assert found is not None and found.text is None
    assert [image.url for image in found.images] == ["https://cdn/a.png"]
    assert [(each.filename, each.size) for each in found.audio] == [("v.ogg", 9)]
    assert [(each.media_type, each.duration) for each in found.files] == [("application/pdf", 3.5)]


@pytest.mark.parametrize(
    "data",
    [
        message("10", BOT, "my own"),
        message("10", user("8", "other bot", bot=True), "a bot's"),
        said(webhook_id="5"),
        said(type=7),
        said("   "),
        said(""),
    ],
)
def test_what_is_not_for_the_agent(data: dict[str, Any]) -> None:
    assert admit(data) is None


def test_other_bots_may_be_answered_but_never_itself() -> None:
    assert admit(message("10", user("8", "other bot", bot=True), "hi"), respond_to_bots=True)
    assert admit(message("10", BOT, "my own"), respond_to_bots=True) is None


def test_only_allowed_servers_and_channels_are_heard() -> None:
    assert admit(said(guild_id="1"), allowed_guild_ids=[1, "2"])
    assert admit(said(guild_id="3"), allowed_guild_ids=[1, "2"]) is None
    assert admit(said(), allowed_guild_ids=[1]) is None, "a direct message belongs to no server"
    assert admit(said(), allowed_channel_ids={10})
    assert admit(said(), allowed_channel_ids=[11]) is None
    assert admit(said(), allowed_channel_ids=[]) is None


def test_a_prefix_calls_the_bot_and_is_taken_off() -> None:
    found = admit(said("!ask  why? "), command_prefix="!ask")
    assert found is not None and found.text == "why?"
    assert admit(said("why? !ask"), command_prefix="!ask") is None
    assert admit(said("!ask"), command_prefix="!ask") is None
    assert admit(said("!ask", attachments=[PNG]), command_prefix="!ask")


@pytest.mark.parametrize("missing", ["id", "channel_id", "author"])
def test_a_message_without_its_ids_is_none(missing: str) -> None:
    with pytest.raises(NotAMessage):
        admit({key: value for key, value in said().items() if key != missing})
