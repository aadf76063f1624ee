"""What an update becomes: whether the bot is meant, what is replied to, what has no text."""

from __future__ import annotations

from typing import Any

import pytest

from definable.agent.interface import InterfaceMessage, Media, QuotedMessage, TelegramConfig
from definable.agent.interface.message_json import message_from_json, message_to_json
from definable.agent.interface.telegram.received import Bot
from definable.agent.interface.telegram.update import CallbackQuery, Message, User, parsed

GROUP = -1001

BOT = {"id": 42, "is_bot": True, "first_name": "Robo", "username": "a_bot"}


def bot(**settings: Any) -> Bot:
    config = TelegramConfig(bot_token="1:" + "x" * 35, **settings)
    return Bot(User.model_validate(BOT), config)


def received(text: str | None = None, *, chat: int = GROUP, kind: str = "message", **fields: Any) -> Any:
    """An update with a message."""
    message = {
        "message_id": 7,
        "date": 1_700_000_000,
        "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup"},
        "from": {"id": 5, "is_bot": False, "first_name": "Ann", "last_name": "Lee", "language_code": "de"},
    }
    return {"update_id": 1, kind: message | ({} if text is None else {"text": text}) | fields}


def message_of(update: Any, **settings: Any) -> InterfaceMessage | None:
    found = parsed(update)
    assert isinstance(found, Message)
    message = bot(**settings).message(1, found, update)
    if message is not None:  # as a durable bus keeps it
        assert message_from_json(message_to_json(message)) == message
    return message


def read(update: Any, **settings: Any) -> InterfaceMessage:
    message = message_of(update, **settings)
    assert message is not None
    return message


def entity(kind: str, text: str, part: str, **fields: Any) -> dict[str, Any]:
    """An entity over a part of a text."""
    before = text.partition(part)[0]
    return {
        "type": kind,
        "offset": len(before.encode("utf-16-le")) // 2,
        "length": len(part.encode("utf-16-le")) // 2,
    } | fields


@pytest.mark.parametrize(
    ("text", "part", "words"),
    [
        ("@a_bot what time is it?", "@a_bot", "what time is it?"),
        ("@A_Bot, what time is it?", "@A_Bot", "what time is it?"),
        ("what time is it, @a_bot", "@a_bot", "what time is it,"),
        (
            "\U0001f600\U0001f469\u200d\U0001f4bb ask @a_bot about it",
            "@a_bot",
            "\U0001f600\U0001f469\u200d\U0001f4bb ask about it",
        ),
        ("@a_bot", "@a_bot", "@a_bot"),
    ],
)
def test_a_mention_addresses_the_bot_and_is_cut(text: str, part: str, words: str) -> None:
    message = read(received(text, entities=[entity("mention", text, part)]))
    assert (message.is_direct, message.is_addressed, message.text) == (False, True, words)


def test_a_mention_by_name_addresses_the_bot_and_others_keep_theirs() -> None:
    text = "Robo and Bob Ray, hello @carol"
    entities = [
        entity("text_mention", text, "Robo", user=BOT),
        entity("text_mention", text, "Bob Ray", user={"id": 8, "first_name": "Bob"}),
        entity("mention", text, "@carol"),
    ]
    message = read(received(text, entities=entities))
    assert (message.is_addressed, message.text) == (True, "and Bob Ray, hello @carol")


def test_a_caption_mentions_the_bot_too() -> None:
    caption = "@a_bot what is this?"
    update = received(
        caption=caption, caption_entities=[entity("mention", caption, "@a_bot")], photo=[{"file_id": "a"}]
    )
    message = read(update)
    assert (message.is_addressed, message.text) == (True, "what is this?")


@pytest.mark.parametrize("text", ["Bob, lunch at noon?", "@another_bot hello", "a_bot without the sign"])
def test_what_others_say_to_each_other_does_not_address_the_bot(text: str) -> None:
    entities = [entity("mention", text, "@another_bot")] if "@" in text else []
    assert read(received(text, entities=entities)).is_addressed is False


def test_a_direct_chat_always_addresses_the_bot() -> None:
    message = read(received("hello", chat=5))
    assert (message.is_direct, message.is_addressed, message.locale, message.username) == (True, True, "de", "Ann Lee")


@pytest.mark.parametrize(
    ("text", "is_addressed", "words"),
    [
        ("/ask@a_bot what time", True, "/ask what time"),
        ("/ask@A_BOT", True, "/ask"),
        ("/stop", True, "/stop"),
        ("/balance now", True, "/balance now"),
        ("/unknown", False, "/unknown"),
    ],
)
def test_a_command_of_its_own_addresses_the_bot(text: str, is_addressed: bool, words: str) -> None:
    update = received(text, entities=[entity("bot_command", text, text.split()[0])])
    message = read(update, commands={"balance": lambda message, session: "7"})
    assert (message.is_addressed, message.text) == (is_addressed, words)


@pytest.mark.parametrize(
    ("text", "is_addressed", "words"),
    [("/stop", True, "/stop"), ("@a_bot, hello", True, "hello"), ("@a_bots hello", False, "@a_bots hello")],
)
def test_what_is_not_marked_is_found_at_the_beginning(text: str, is_addressed: bool, words: str) -> None:
    message = read(received(text))
    assert (message.is_addressed, message.text) == (is_addressed, words)


def test_the_command_of_another_bot_is_nobody_s_business() -> None:
    text = "/start@other_bot"
    assert message_of(received(text, entities=[entity("bot_command", text, text)])) is None


REPLIED = {
    "message_id": 3,
    "date": 1,
    "chat": {"id": GROUP, "type": "supergroup"},
    "from": {"id": 6, "is_bot": False, "first_name": "Eve"},
    "text": "the text that is replied to",
}


def test_a_reply_brings_what_it_replies_to_and_the_part_that_it_quotes() -> None:
    message = read(received("no", reply_to_message=REPLIED, quote={"text": "is replied", "position": 14}))
    assert (message.is_addressed, message.reply_to_message_id) == (False, "3")
    assert message.context == (
        QuotedMessage("reply", "Eve", "the text that is replied to", message_id="3"),
        QuotedMessage("quote", "Eve", "is replied", message_id="3"),
    )


def test_a_reply_to_the_bot_addresses_it() -> None:
    assert read(received("and?", reply_to_message=REPLIED | {"from": BOT})).is_addressed


def test_a_topic_that_the_bot_has_opened_is_no_reply_to_it() -> None:
    root = REPLIED | {"from": BOT, "message_id": 11, "text": None, "forum_topic_created": {"name": "News"}}
    message = read(received("hello", reply_to_message=root, message_thread_id=11, is_topic_message=True))
    assert (message.is_addressed, message.context, message.thread_id) == (False, (), "11")


def test_a_thread_of_comments_is_no_topic() -> None:
    assert read(received("hello", message_thread_id=11)).thread_id is None


LARGE = Media(platform_id="large", media_type="image/jpeg")


def test_a_reply_to_another_chat_brings_its_author_quote_and_files() -> None:
    reply = {
        "origin": {
            "type": "channel",
            "date": 1,
            "chat": {"id": -9, "type": "channel", "title": "News"},
            "message_id": 4,
        },
        "message_id": 4,
        "photo": [{"file_id": "small"}, {"file_id": "large"}],
        "location": {"latitude": 52.52, "longitude": 13.405},
    }
    message = read(received("@a_bot?", external_reply=reply, quote={"text": "first words", "position": 0}))
    assert message.context == (
        QuotedMessage("reply", "News", "[location 52.52, 13.405]", message_id="4", files=(LARGE,)),
        QuotedMessage("quote", "News", "first words", message_id="4"),
    )


@pytest.mark.parametrize(
    ("origin", "author"),
    [
        ({"type": "user", "sender_user": {"id": 6, "first_name": "Eve", "last_name": "Ray"}}, "Eve Ray"),
        ({"type": "hidden_user", "sender_user_name": "Z"}, "Z"),
        ({"type": "chat", "sender_chat": {"id": -8, "type": "supergroup", "title": "Club"}}, "Club"),
        ({"type": "channel", "chat": {"id": -9, "type": "channel", "title": "News"}, "message_id": 4}, "News"),
    ],
    ids=["user", "hidden user", "chat", "channel"],
)
def test_a_forward_is_a_context_and_no_text(origin: dict[str, Any], author: str) -> None:
    message = read(received("/stop it all", chat=5, forward_origin=origin | {"date": 1}))
    assert (message.text, message.context) == (None, (QuotedMessage("forward", author, "/stop it all"),))


def test_a_forward_that_mentions_the_bot_does_not_address_it() -> None:
    text = "ask @a_bot"
    origin = {"type": "hidden_user", "sender_user_name": "Z", "date": 1}
    assert not read(received(text, entities=[entity("mention", text, "@a_bot")], forward_origin=origin)).is_addressed


def test_a_link_keeps_its_address() -> None:
    text = "\U0001f680 read this please, and https://example.com"
    entities = [
        entity("text_link", text, "this", url="https://example.com/secret-path"),
        entity("url", text, "https://example.com"),
    ]
    words = read(received(text, entities=entities)).text
    assert words == "\U0001f680 read [this](https://example.com/secret-path) please, and https://example.com"


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"location": {"latitude": 52.52, "longitude": 13.405}}, "location 52.52, 13.405"),
        (
            {
                "location": {"latitude": 52.52, "longitude": 13.405},
                "venue": {
                    "title": "Cafe",
                    "address": "Main St 1",
                    "location": {"latitude": 52.52, "longitude": 13.405},
                },
            },
            "location 52.52, 13.405 (Cafe, Main St 1)",
        ),
        ({"contact": {"phone_number": "+49 30", "first_name": "Ann"}}, "contact Ann +49 30"),
        (
            {"poll": {"id": "1", "question": "Lunch?", "options": [{"text": "Pizza"}, {"text": "Soup"}]}},
            "poll 'Lunch?': Pizza, Soup",
        ),
        ({"sticker": {"file_id": "s", "emoji": "\U0001f44d"}}, "sticker \U0001f44d"),
        ({"dice": {"emoji": "\U0001f3b2", "value": 3}}, "\U0001f3b2 that shows 3"),
        (
            {
                "checklist": {
                    "title": "Trip",
                    "tasks": [{"id": 1, "text": "pack", "completion_date": 9}, {"text": "go"}],
                }
            },
            "checklist 'Trip': [x] pack, [ ] go",
        ),
        ({"story": {"id": 1, "chat": {"id": 5}}}, "story"),
    ],
    ids=["location", "venue", "contact", "poll", "sticker", "dice", "checklist", "story"],
)
def test_what_has_no_text_is_said_in_words(fields: dict[str, Any], note: str) -> None:
    message = read(received(chat=5, **fields))
    assert (message.text, message.notes) == (None, (note,))


def test_the_parts_of_an_album_have_its_number() -> None:
    message = read(received(chat=5, caption="compare", media_group_id="77", photo=[{"file_id": "p"}]))
    assert (message.group_id, message.text) == ("77", "compare")


@pytest.mark.parametrize("kind", ["edited_message", "edited_channel_post"])
def test_an_edit_corrects_the_message_of_its_number(kind: str) -> None:
    message = read(received("corrected", chat=5, kind=kind, edit_date=1_700_000_050))
    assert (message.is_edit, message.platform_message_id, message.metadata["edit"]) == (True, "7", "1")


def test_a_live_location_that_moves_is_no_correction() -> None:
    where = {"latitude": 52.5, "longitude": 13.4, "live_period": 900}
    assert message_of(received(chat=5, kind="edited_message", edit_date=9, location=where)) is None


def test_an_anonymous_administrator_and_a_channel_are_users() -> None:
    admin = received(
        "we close at 9",
        sender_chat={"id": GROUP, "type": "supergroup", "title": "Club"},
        **{"from": {"id": 1087968824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"}},
    )
    channel = received(
        "as a channel",
        sender_chat={"id": -1009, "type": "channel", "title": "News"},
        **{"from": {"id": 136817688, "is_bot": True, "first_name": "Channel", "username": "Channel_Bot"}},
    )
    post = received(
        "a post", kind="channel_post", chat=-1009, sender_chat={"id": -1009, "type": "channel", "title": "N"}
    )
    del post["channel_post"]["from"]
    found = [read(update) for update in (admin, channel, post)]
    assert [(each.platform_user_id, each.username) for each in found] == [
        (str(GROUP), "Club"),
        ("-1009", "News"),
        ("-1009", "N"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"is_automatic_forward": True, "sender_chat": {"id": -9, "type": "channel", "title": "C"}},
        {"from": {"id": 9, "is_bot": True, "first_name": "Other"}},
        {"from": BOT},
        {"text": None, "new_chat_title": "hi"},
        {"text": None, "new_chat_members": [{"id": 9, "first_name": "New"}]},
        {"from": None},
    ],
    ids=["automatic forward", "another bot", "itself", "a title", "somebody joined", "nobody"],
)
def test_what_nobody_wants_answered_is_dropped(fields: dict[str, Any]) -> None:
    assert message_of(received(**{"text": "@a_bot NEWS"} | fields)) is None


def test_other_bots_are_answered_where_that_is_wanted() -> None:
    update = received("hello", **{"from": {"id": 9, "is_bot": True, "first_name": "Other"}})
    assert read(update, respond_to_bots=True).username == "Other"
    assert message_of(received("hello", **{"from": BOT}), respond_to_bots=True) is None


def button_of(data: str, text: str, **message: Any) -> InterfaceMessage | None:
    rows = [[{"text": "other", "callback_data": "o"}, {"text": text, "callback_data": data}]]
    under = received("Choose", **message)["message"] | {"from": BOT, "reply_markup": {"inline_keyboard": rows}}
    update = {"update_id": 2, "callback_query": {"id": "99", "from": {"id": 5, "first_name": "Ann"}, "data": data}}
    update["callback_query"] |= {"message": under}
    found = parsed(update)
    assert isinstance(found, CallbackQuery)
    return bot().button(2, found, update)


def test_a_button_says_its_text_and_has_its_value() -> None:
    message = button_of("yes:7", "Yes, please", message_thread_id=11, is_topic_message=True)
    assert message is not None
    assert (message.text, message.button, message.is_addressed, message.thread_id) == (
        "Yes, please",
        "yes:7",
        True,
        "11",
    )
    assert (message.platform_user_id, message.platform_message_id) == ("5", "callback-99")


def test_a_button_under_a_message_that_telegram_no_longer_shows_has_its_value() -> None:
    update = {"update_id": 2, "callback_query": {"id": "1", "from": {"id": 5, "first_name": "Ann"}, "data": "yes"}}
    update["callback_query"] |= {"message": {"message_id": 3, "date": 0, "chat": {"id": 5, "type": "private"}}}
    found = parsed(update)
    assert isinstance(found, CallbackQuery)
    message = bot().button(2, found, update)
    assert message is not None and (message.text, message.button) == ("yes", "yes")
