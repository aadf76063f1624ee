"""Slash commands and buttons: acknowledged at once, and answered where they were used."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from loopback.discord_bot import GUILD, listening
from loopback.discord_server import DiscordServer

from definable.agent.interface import Button, InterfaceResponse

pytestmark = pytest.mark.anyio


async def test_commands_are_registered() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, _):
        await bot.show_commands({"help": "Show what I understand", "ask": "d" * 200, "balance": ""})
        registered = server.commands[None]
        assert {name: [each["name"] for each in command["options"]] for name, command in registered.items()} == {
            "help": [],
            "ask": ["text"],
            "balance": ["text"],
        }


async def test_commands_are_registered_in_the_servers_that_are_named() -> None:
    server = DiscordServer()
    async with listening(server, command_guild_ids=[500, 501]) as (bot, _):
        await bot.show_commands({"help": "Help"})
        assert {*server.commands} == {"500", "501"}


async def test_a_command_is_acknowledged_before_anything_else_and_answered_in_its_place() -> None:
    server = DiscordServer(channels=("10", "99"))
    async with listening(server) as (bot, heard):
        used = await server.interactions.use("10", "ask", "what is 2+2?", guild_id=GUILD)
        await server.until(lambda: heard)
        assert used.response == {"type": 5}
        (message,) = heard
        assert (message.command, message.text, message.locale) == ("ask", "what is 2+2?", "de")
        assert (message.is_direct, message.is_addressed, message.metadata["display_name"]) == (False, True, "Al")
        await bot.send(message, InterfaceResponse("word " * 500))
        assert used.original is not None and len(used.answers) == 2 and server.posted == []
        assert server.violations == []


async def test_a_command_in_a_thread_belongs_to_the_thread() -> None:
    server = DiscordServer(channels=("10", "99"))
    async with listening(server, allowed_channel_ids=[10]) as (_, heard):
        thread = {"id": "99", "type": 11, "parent_id": "10"}
        await server.interactions.use("99", "ask", "hi", guild_id=GUILD, channel=thread)
        await server.until(lambda: heard)
        assert (heard[0].platform_chat_id, heard[0].thread_id) == ("10", "99")
        assert server.asked == []


async def test_an_answer_to_a_command_is_edited_while_it_is_written() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        used = await server.interactions.use("10", "ask", "hi")
        await server.until(lambda: heard)
        posted = await bot.post(heard[0], "2+2")
        assert posted == used.original
        await bot.edit(heard[0], posted or "", "2+2 = 4")
        assert server.shown("10") == ["2+2 = 4"] and server.violations == []


@pytest.mark.parametrize(("name", "where", "flags"), [("help", {"guild_id": GUILD}, 64), ("help", {}, None)])
async def test_what_the_service_says_in_a_server_is_for_one_user(
    name: str, where: dict[str, Any], flags: int | None
) -> None:
    server = DiscordServer()
    async with listening(server) as (_, heard):
        used = await server.interactions.use("10", name, **where)
        await server.until(lambda: heard)
        assert used.response is not None and used.response.get("data", {}).get("flags") == flags


async def test_a_command_whose_token_is_over_is_answered_in_its_channel() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        used = await server.interactions.use("10", "ask", "hi")
        await server.until(lambda: heard)
        used.is_over = True
        await bot.send(heard[0], InterfaceResponse("late"))
        assert [(each.channel, each.content, each.reply_to) for each in server.posted] == [("10", "late", None)]


async def test_a_command_that_could_not_be_acknowledged_is_answered_all_the_same() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        server.fail_next("/callback", 500, 404)
        await server.interactions.use("10", "ask", "hi")
        await server.until(lambda: heard)
        await bot.send(heard[0], InterfaceResponse("here"))
        assert [each.content for each in server.posted] == ["here"]


async def test_a_button_comes_back_with_its_value_and_what_it_says() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        await server.say("10", "hi")
        await server.until(lambda: heard)
        rows = ((Button("Yes", "buy:1"), Button("Read", url="https://e.com")), (Button("No"),))
        await bot.send(heard[0], InterfaceResponse("Buy?", buttons=rows))
        (shown,) = server.posted
        buttons = [each for row in shown.body["components"] for each in row["components"]]
        of = next(iter(server.messages.values())) | {"components": shown.body["components"]}
        used = await server.interactions.press("10", buttons[0]["custom_id"], of)
        await server.until(lambda: len(heard) == 2)
        pressed = heard[1]
        assert (pressed.button, pressed.text, used.response) == ("buy:1", "Yes", {"type": 6})
        await bot.send(pressed, InterfaceResponse("Bought."))
        assert [(each.content, each.reply_to) for each in server.posted[1:]] == [("Bought.", of["id"])]
        assert server.violations == []


async def test_buttons_of_a_reply_that_was_streamed_stand_under_it() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        await server.say("10", "hi")
        await server.until(lambda: heard)
        posted = await bot.post(heard[0], "Buy")
        await bot.edit(heard[0], posted or "", "Buy?")
        await bot.send(heard[0], InterfaceResponse(buttons=((Button("Yes"),),)))
        (shown,) = server.messages.values()
        assert (shown["content"], shown["components"][0]["components"][0]["label"]) == ("Buy?", "Yes")
        assert server.violations == []


async def test_buttons_that_discord_does_not_take_are_written() -> None:
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        await server.say("10", "hi")
        await server.until(lambda: heard)
        many = tuple(Button(f"b{number}", "v") for number in range(27))
        await bot.send(heard[0], InterfaceResponse("Which?", buttons=(many, (Button("long", "x" * 101),))))
        (shown,) = server.posted
        assert [len(row["components"]) for row in shown.body["components"]] == [5] * 5
        assert shown.content == "Which?\n- long\n- b25\n- b26"


async def test_tokens_of_interactions_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = DiscordServer()
    async with listening(server) as (bot, heard):
        used = await server.interactions.use("10", "ask", "hi")
        await server.until(lambda: heard)
        server.fail_next("/@original", 500)
        await bot.send(heard[0], InterfaceResponse("one"))
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets")]
    assert ours and not any(used.token in line for line in ours)
