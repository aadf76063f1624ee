"""What Discord sends and leaves out, as what the core gets of it."""

from __future__ import annotations

from typing import Any

import pytest
from loopback.discord_bot import GUILD, listening
from loopback.discord_objects import BOT, BOT_ID, message
from loopback.discord_server import DiscordServer

pytestmark = pytest.mark.anyio


async def test_the_channel_of_a_thread_is_asked_for_once() -> None:
    server = DiscordServer(channels=("10", "99", "20"))
    server.threads = {"99": "10"}
    async with listening(server, allowed_channel_ids=[10]) as (_, heard):
        for channel in ("99", "99", "20", "10"):
            await server.say(channel, "hi", guild_id=GUILD)
        await server.until(lambda: len(heard) == 3)
        assert [(each.platform_chat_id, each.thread_id) for each in heard] == [("10", "99"), ("10", "99"), ("10", None)]
        assert server.asked == ["99", "20", "10"]


async def test_a_channel_that_cannot_be_looked_at_is_heard() -> None:
    server = DiscordServer()
    async with listening(server) as (_, heard):
        server.fail_next("/channels/10", 403)
        server.fail_next("/channels/20", 500, 500)
        for channel in ("10", "20", "20"):
            await server.say(channel, "hi", guild_id=GUILD)
        await server.until(lambda: len(heard) == 3)
        assert [each.platform_chat_id for each in heard] == ["10", "20", "20"]
        assert server.asked == ["20"]


async def test_a_mention_of_the_bots_role_means_the_bot() -> None:
    server = DiscordServer()
    server.roles = [{"id": "777", "name": "agent", "tags": {"bot_id": BOT_ID}}, {"id": "778", "name": "Mods"}]
    async with listening(server) as (_, heard):
        for role in ("777", "778"):
            await server.say("10", f"<@&{role}> hello", guild_id=GUILD, mention_roles=[role])
        await server.until(lambda: len(heard) == 2)
        assert [(each.is_addressed, each.text) for each in heard] == [(True, "hello"), (False, "@Mods hello")]


async def test_an_edit_is_a_correction() -> None:
    server = DiscordServer()
    async with listening(server) as (_, heard):
        id = await server.say("10", "2+3?")
        await server.dispatch("MESSAGE_UPDATE", server.said[0] | {"embeds": [{"type": "link"}]})
        await server.edit(id, "2+2?")
        await server.until(lambda: len(heard) == 2)
        assert [(each.platform_message_id, each.text, each.is_edit) for each in heard] == [
            (id, "2+3?", False),
            (id, "2+2?", True),
        ]


async def test_the_text_of_a_long_paste_and_what_is_quoted_are_fetched() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        paste = server.attach("message.txt", b"the secret is 42", "text/plain; charset=utf-8")
        large = server.attach("large.txt", b"x" * 100_001, "text/plain")
        voice = server.attach("voice-message.ogg", b"OggS", "audio/ogg")
        picture = server.attach("cat.png", b"png", "image/png")
        replied = message("10", BOT, "look", attachments=[picture])
        await server.say("10", "", attachments=[paste, large, voice], type=19, referenced_message=replied)
        await server.until(lambda: heard)
        fetched = await bot.complete(heard[0])
        assert [each.data for each in fetched.files] == [b"the secret is 42", None]
        assert [each.data for each in fetched.audio] == [None]
        assert [image.data for quoted in fetched.context for image in quoted.images] == [b"png"]


async def test_a_voice_message_is_fetched_where_it_is_transcribed() -> None:
    async def transcribe(media: Any) -> str:
        return "hello"

    server = DiscordServer()
    async with listening(server, transcriber=transcribe) as (bot, heard):
        await server.say("10", "", attachments=[server.attach("v.ogg", b"OggS", "audio/ogg")], flags=8192)
        await server.until(lambda: heard)
        assert [each.data for each in (await bot.complete(heard[0])).audio] == [b"OggS"]
