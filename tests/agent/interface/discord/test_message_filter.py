"""Which messages reach the agent, and as what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from loopback.discord_objects import BOT, BOT_ID, TOKEN, message, user

from definable.agent.interface import DiscordConfig, InterfaceMessage
from definable.agent.interface.discord.incoming import ONLY_MENTIONED, MessageFilter, NotAMessage
from definable.agent.interface.discord.places import Place

PNG = {"id": "1", "filename": "a.png", "url": "https://cdn/a.png", "content_type": "image/png", "size": 5}
OGG = {"id": "2", "filename": "v.ogg", "url": "https://cdn/v.ogg", "content_type": "audio/ogg", "size": 9}
PDF = {"id": "3", "filename": "b.pdf", "url": "https://cdn/b.pdf", "content_type": "application/pdf; x=y", "size": 7}


GUILD = "500"


def admit(data: dict[str, Any], place: Place | None = None, **config: Any) -> InterfaceMessage | None:
    message_filter = MessageFilter(DiscordConfig(bot_token=TOKEN, **config), "discord")
    return message_filter.read(data, BOT_ID, place or Place(str(data.get("channel_id"))))


def found(data: dict[str, Any], place: Place | None = None, **config: Any) -> InterfaceMessage:
    message = admit(data, place, **config)
    assert message is not None
    return message


def said(content: str = "hello", **changes: Any) -> dict[str, Any]:
    return message("10", user("7", "alice"), content, **changes)


def test_a_message_is_normalised() -> None:
    data = said(id="1574254037623111688", guild_id="99", member={"nick": "Al"})
    read = found(data)
    assert (read.platform, read.platform_user_id, read.platform_chat_id) == ("discord", "7", "10")
    assert (read.platform_message_id, read.text, read.username) == ("1574254037623111688", "hello", "alice")
    assert read.metadata == {"guild_id": "99", "display_name": "Al", "is_bot": False, "raw": data}
    assert 1_700_000_000 < read.created_at < 2_000_000_000


def test_a_reply_comes_with_what_it_replies_to() -> None:
    replied = message("10", user("8", "eve"), "look, <@7>", attachments=[PNG], mentions=[user("7", "alice")])
    read = found(said(type=19, message_reference={"message_id": "55"}, referenced_message=replied))
    (quoted,) = read.context
    assert (quoted.kind, quoted.author, quoted.text, quoted.message_id) == (
        "reply",
        "eve",
        "look, @alice",
        replied["id"],
    )
    assert read.reply_to_message_id == "55" and [each.url for each in quoted.images] == ["https://cdn/a.png"]


def test_a_reply_to_a_deleted_message_is_read() -> None:
    read = found(said(type=19, message_reference={"message_id": "55"}, referenced_message=None))
    assert read.context == ()


def test_a_forwarded_message_is_read() -> None:
    embed = {"type": "rich", "title": "Release", "description": "It is out", "fields": [{"name": "OS", "value": "all"}]}
    preview = {"type": "link", "title": "not written by anybody"}
    snapshot = {"content": "THE TEXT", "attachments": [PNG, PDF], "embeds": [embed, preview]}
    reference = {"type": 1, "message_id": "1", "channel_id": "20"}
    read = found(said("", message_reference=reference, message_snapshots=[{"message": snapshot}]))
    (quoted,) = read.context
    assert (quoted.kind, quoted.text) == ("forward", "THE TEXT\nRelease\nIt is out\nOS: all")
    assert [len(quoted.images), [each.filename for each in quoted.files]] == [1, ["b.pdf"]]


def test_what_has_no_text_is_said_in_words() -> None:
    sticker = [{"id": "1", "name": "Wave", "format_type": 1}]
    poll = {"question": {"text": "Lunch?"}, "answers": [{"poll_media": {"text": each}} for each in ("Pizza", "Soup")]}
    assert found(said("", sticker_items=sticker)).notes == ("sticker 'Wave'",)
    assert found(said("", poll=poll)).notes == ("poll 'Lunch?': Pizza, Soup",)


@pytest.mark.parametrize(
    ("content", "changes", "is_meant", "text"),
    [
        ("Bob, lunch?", {}, False, "Bob, lunch?"),
        (f"<@{BOT_ID}> what is 2+2", {"mentions": [BOT]}, True, "what is 2+2"),
        (f"<@!{BOT_ID}>, really?", {"mentions": [BOT]}, True, "really?"),
        (f"is it, <@{BOT_ID}>", {"mentions": [BOT]}, True, "is it,"),
        ("<@&777> hello", {"mention_roles": ["777"]}, True, "hello"),
        ("<@&778> hello", {"mention_roles": ["778"]}, False, "@Mods hello"),
        ("@everyone meeting", {"mention_everyone": True}, False, "@everyone meeting"),
        ("and why?", {"type": 19, "referenced_message": message("10", BOT, "because")}, True, "and why?"),
        ("and why?", {"type": 19, "referenced_message": message("10", user("8", "eve"), "so")}, False, "and why?"),
        (
            "<@8> in <#20>, <:party:12> at <t:0:R> by </ask:9>",
            {"mentions": [user("8", "eve")]},
            False,
            "@eve in #general, :party: at 1970-01-01 00:00 UTC by /ask",
        ),
    ],
)
def test_who_is_meant_in_a_server(content: str, changes: dict[str, Any], is_meant: bool, text: str) -> None:
    place = Place("10", None, {"20": "general", "778": "Mods", "777": "Agent"}, frozenset({"777"}))
    read = found(said(content, guild_id=GUILD, **changes), place)
    assert (read.is_direct, read.is_addressed, read.text) == (False, is_meant, text)


def test_a_mention_and_nothing_else_is_heard() -> None:
    read = found(said(f"<@{BOT_ID}>", guild_id=GUILD, mentions=[BOT]))
    assert (read.text, read.notes) == (None, (ONLY_MENTIONED,))


def test_a_direct_message_means_the_bot() -> None:
    read = found(said("hi"))
    assert read.is_direct and read.is_addressed


def test_a_thread_is_a_conversation_of_its_own_in_its_channel() -> None:
    thread = Place("10", "99")
    read = found(message("99", user("7", "alice"), "hi", guild_id=GUILD), thread, allowed_channel_ids=["10"])
    assert (read.platform_chat_id, read.thread_id) == ("10", "99")
    assert admit(message("99", user("7", "alice"), "hi", guild_id=GUILD), thread, allowed_channel_ids=["99"])
    assert admit(message("99", user("7", "alice"), "hi", guild_id=GUILD), thread, allowed_channel_ids=["11"]) is None


def test_a_correction_is_one_and_a_preview_is_none() -> None:
    message_filter = MessageFilter(DiscordConfig(bot_token=TOKEN), "discord")
    now = datetime.now(UTC)
    edited = message_filter.read_edit(said("better", edited_timestamp=now.isoformat()), BOT_ID, Place("10"))
    assert edited is not None and edited.is_edit and edited.metadata["edit"] == now.isoformat()
    for not_now in (None, (now - timedelta(days=2)).isoformat()):
        assert message_filter.read_edit(said("same", edited_timestamp=not_now), BOT_ID, Place("10")) is None


def test_attachments_are_media() -> None:
    read = found(said("", attachments=[PNG, OGG, PDF | {"duration_secs": 3.5}]))
    assert read.text is None
    assert [image.url for image in read.images] == ["https://cdn/a.png"]
    assert [(each.filename, each.size) for each in read.audio] == [("v.ogg", 9)]
    assert [(each.media_type, each.duration) for each in read.files] == [("application/pdf", 3.5)]


@pytest.mark.parametrize(
    "data",
    [
        message("10", BOT, "my own"),
        message("10", user("8", "other bot", bot=True), "a bot's"),
        said(webhook_id="5"),
        said(type=7),
        said(type=18),
        said(flags=2),  # what a channel that is followed has published
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
    assert found(said("!ask  why? "), command_prefix="!ask").text == "why?"
    assert found(said("!ask why?", guild_id=GUILD), command_prefix="!ask").is_addressed
    assert admit(said("why? !ask"), command_prefix="!ask") is None
    assert admit(said("!ask"), command_prefix="!ask") is None
    assert admit(said("!ask", attachments=[PNG]), command_prefix="!ask")


@pytest.mark.parametrize("missing", ["id", "channel_id", "author"])
def test_a_message_without_its_ids_is_none(missing: str) -> None:
    with pytest.raises(NotAMessage):
        admit({key: value for key, value in said().items() if key != missing})
