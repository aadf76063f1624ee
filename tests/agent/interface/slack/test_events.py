"""What Slack sends, read as messages: pure, from the payloads of Slack's documentation."""

from __future__ import annotations

from typing import Any

import pytest

from definable.agent.interface import InterfaceMessage, SlackConfig
from definable.agent.interface.slack.content import Me, readable_text
from definable.agent.interface.slack.events import EventReader, kind_of
from definable.agent.interface.slack.people import Person

ME = Me("UBOT", "BBOT")


def read(kind: str, payload: dict[str, Any], **settings: Any) -> InterfaceMessage | None:
    config = SlackConfig(bot_token="xoxb-12345678", app_token="xapp-12345678", **settings)
    return EventReader(config, "slack", ME).read(kind, payload)


def event(**fields: Any) -> dict[str, Any]:
    made = {"type": "message", "channel": "C1", "channel_type": "channel", "user": "U1", "text": "hi", "ts": "1.000001"}
    return {"event": {**made, **fields}, "event_id": "Ev1", "team_id": "T1", "type": "event_callback"}


def of(**fields: Any) -> InterfaceMessage | None:
    settings = {name: fields.pop(name) for name in [*fields] if name in SETTINGS}
    return read("events_api", event(**fields), **settings)


SETTINGS = {"allowed_channel_ids", "allowed_user_ids", "respond_to_bots", "reply_in_thread"}


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "UBOT"},
        {"user": None, "bot_id": "BBOT", "subtype": "bot_message"},
        {"bot_id": "B9"},
        {"user": None, "bot_id": "BBOT", "respond_to_bots": True},
        {"subtype": "channel_join"},
        {"subtype": "message_deleted"},
        {"subtype": "assistant_app_thread"},
        {"text": ""},
        {"type": "reaction_added"},
        {"ts": None},
        {"channel": None},
        {"allowed_channel_ids": {"C2"}},
        {"allowed_user_ids": {"U2"}},
        {"files": 7, "text": None},
        {"type": None},
    ],
)
def test_what_is_not_for_the_agent_is_none(fields: dict[str, Any]) -> None:
    assert of(**fields) is None


@pytest.mark.parametrize(
    ("fields", "is_addressed"),
    [
        ({}, False),
        ({"text": "<@UBOT> hi"}, True),
        ({"text": "hi <@UBOT|agent>"}, True),
        ({"text": "<!here> hi"}, False),
        ({"type": "app_mention"}, True),
        ({"channel": "D1", "channel_type": "im"}, True),
        ({"channel": "D1", "channel_type": None}, True),
        ({"channel": "G1", "channel_type": "mpim"}, False),
        ({"thread_ts": "0.5", "parent_user_id": "UBOT"}, True),
        ({"thread_ts": "0.5", "parent_user_id": "UBOT", "text": "<@U2> hi"}, False),
        ({"thread_ts": "0.5", "parent_user_id": "U2"}, False),
    ],
)
def test_who_is_meant(fields: dict[str, Any], is_addressed: bool) -> None:
    message = of(**fields)
    assert message is not None and message.is_addressed is is_addressed


@pytest.mark.parametrize(
    ("fields", "thread"),
    [
        ({}, "1.000001"),
        ({"thread_ts": "0.5"}, "0.5"),
        ({"reply_in_thread": False}, None),
        ({"reply_in_thread": False, "thread_ts": "0.5"}, "0.5"),
        ({"channel": "D1", "channel_type": "im"}, None),
        ({"channel": "D1", "channel_type": "im", "thread_ts": "0.5"}, "0.5"),
        ({"subtype": "thread_broadcast", "thread_ts": "0.5"}, "0.5"),
    ],
)
def test_which_thread_it_is(fields: dict[str, Any], thread: str | None) -> None:
    message = of(**fields)
    assert message is not None and message.thread_id == thread


def changed(before: dict[str, Any], after: dict[str, Any]) -> InterfaceMessage | None:
    own = {"type": "message", "user": "U1", "ts": "1.000001"}
    fields = {"subtype": "message_changed", "ts": "9.000001", "user": None, "text": None}
    return of(**fields, message=own | after, previous_message=own | before)


def test_a_correction_is_one_of_its_message() -> None:
    message = changed({"text": "helo"}, {"text": "hello", "edited": {"user": "U1", "ts": "2.000001"}})
    assert message is not None and message.is_edit
    assert (message.platform_message_id, message.text, message.metadata["edit"]) == ("1.000001", "hello", "2.000001")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"text": "see https://e.com"}, {"text": "see https://e.com", "attachments": [{"title": "E"}]}),
        ({"text": "a"}, {"text": "a", "edited": {"user": "U1", "ts": "2.1"}}),
        ({"text": "a"}, {"text": "b", "edited": {"user": "BBOT", "ts": "2.1"}, "bot_id": "BBOT"}),
        ({"text": "a"}, {}),
    ],
    ids=["preview", "same text", "own", "nothing"],
)
def test_a_change_that_is_no_correction_is_none(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert changed(before, after) is None


def test_other_bots_are_answered_where_that_is_wanted() -> None:
    message = of(user=None, bot_id="B9", subtype="bot_message", username="cron", respond_to_bots=True)
    assert message is not None
    assert (message.platform_user_id, message.username, message.metadata["is_bot"]) == ("B9", "cron", True)


def press(**changes: Any) -> dict[str, Any]:
    action = {"type": "button", "action_id": "0.0", "value": "y", "text": {"type": "plain_text", "text": "Yes"}}
    payload = {"type": "block_actions", "user": {"id": "U1", "name": "ann"}, "channel": {"id": "C1"}, "token": "old"}
    return (
        payload | {"message": {"ts": "1.5", "thread_ts": "1.2"}, "actions": [action | {"action_ts": "3.1"}]} | changes
    )


def test_a_pressed_button_is_a_message_of_its_thread() -> None:
    message = read("interactive", press())
    assert message is not None and "token" not in message.metadata["raw"]
    assert (message.text, message.button, message.thread_id, message.platform_message_id) == (
        "Yes",
        "y",
        "1.2",
        "1.5/3.1",
    )
    again = read("interactive", press(actions=[{"value": "y", "action_ts": "3.2"}]))
    assert again is not None and again.platform_message_id != message.platform_message_id and again.text == "y"


@pytest.mark.parametrize(
    "changes",
    [
        {"actions": []},
        {"actions": [{"url": "https://e.com"}]},
        {"type": "view_submission"},
        {"channel": None},
        {"user": 1},
    ],
)
def test_what_is_no_button_of_ours_is_none(changes: dict[str, Any]) -> None:
    assert read("interactive", press(**changes)) is None


def test_a_slash_command_has_its_arguments_as_text() -> None:
    payload = {"command": "/Ask", "text": "why not", "user_id": "U1", "user_name": "ann", "channel_id": "C1"}
    message = read("slash_commands", payload | {"trigger_id": "7.8.x", "response_url": "https://hooks.slack.com/x"})
    assert message is not None and (message.command, message.text, message.thread_id) == ("ask", "why not", None)
    assert read("slash_commands", payload) is None
    direct = read("slash_commands", payload | {"trigger_id": "7", "channel_id": "D1"})
    assert direct is not None and direct.is_direct


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"type": "event_callback"}, "events_api"),
        ({"command": "/ask"}, "slash_commands"),
        ({"type": "block_actions"}, "interactive"),
        ({}, "interactive"),
    ],
)
def test_requests_say_what_they_are(payload: dict[str, Any], kind: str) -> None:
    assert kind_of(payload) == kind


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("<@UBOT> hello", "hello"),
        ("<@UBOT>: hello", "hello"),
        ("hey <@UBOT|agent>, hello", "hey, hello"),
        ("<@UBOT>", ""),
        ("<@U2> and <@U9> and <@U8|eve>", "@Bob and @U9 and @eve"),
        ("<#C2|general> <#C3>", "#general #C3"),
        ("<!here> <!channel> <!subteam^S1|@team> <!date^1^{date}|today>", "@here @channel @team today"),
        ("<https://e.com/a?b=1&amp;c|click>", "[click](https://e.com/a?b=1&c)"),
        ("<http://e.com|e.com> <https://e.com/>", "http://e.com https://e.com/"),
        ("<mailto:a@e.com|a@e.com> <tel:123|123>", "a@e.com 123"),
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2 &amp;lt;", "1 < 2 && 3 > 2 &lt;"),
        ("  ```x\n  y```", "```x\n  y```"),
    ],
)
def test_text_is_read_as_people_read_it(text: str, readable: str) -> None:
    assert readable_text(text, {"U2": Person("Bob")}, "UBOT") == readable
