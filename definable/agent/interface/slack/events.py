"""What Slack sends, as messages; pure.

| Sent | Becomes |
|---|---|
| `message` and `app_mention` (https://docs.slack.dev/reference/events/message) | a message; of one mention one `ts` |
| `message_changed` of a user's message | a correction of it |
| `block_actions` (https://docs.slack.dev/reference/interaction-payloads/block_actions-payload) | a pressed button |
| a slash command (https://docs.slack.dev/interactivity/implementing-slash-commands) | a command |

Everything else, and what the app itself wrote, is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from definable.agent.interface.message import InterfaceMessage

from .config import SlackConfig
from .content import Me, shared_in, users_in
from .files import KINDS, File, file_in, object_of, objects_of, text_of

WRITTEN = frozenset({None, "file_share", "thread_broadcast", "me_message", "bot_message"})
"""Subtypes of messages that somebody writes; all others tell of something (somebody joined, a topic was set)."""


class EventReader:
    """Reads the messages that are for the agent, and skips the others.

    Args:
        config: Says which.
        platform: The interface's name.
        me: Who the app is.
    """

    def __init__(self, config: SlackConfig, platform: str, me: Me) -> None:
        self._config = config
        self._platform = platform
        self._me = me

    def read(self, kind: str, payload: Mapping[str, Any]) -> InterfaceMessage | None:
        """The message of a payload, with its text as Slack has it; None when it is not for the agent.

        Args:
            kind: `"events_api"`, `"interactive"` or `"slash_commands"`.
            payload: As it came.
        """
        if kind == "events_api":
            message = self._event(object_of(payload.get("event")), payload)
        elif kind == "interactive":
            message = self._press(payload)
        else:
            message = self._command(payload)
        return message if message is not None and self._is_allowed(message) else None

    def _is_allowed(self, message: InterfaceMessage) -> bool:
        users, channels = self._config.allowed_user_ids, self._config.allowed_channel_ids
        is_user_allowed = users is None or message.platform_user_id in users
        return is_user_allowed and (channels is None or message.platform_chat_id in channels)

    # --- events

    def _event(self, event: Mapping[str, Any], payload: Mapping[str, Any]) -> InterfaceMessage | None:
        if event.get("type") not in ("message", "app_mention"):
            return None
        edit: str | None = None
        if event.get("subtype") == "message_changed":
            after, before = object_of(event.get("message")), object_of(event.get("previous_message"))
            edit = text_of(object_of(after.get("edited")).get("ts"))
            if edit is None or after.get("text") == before.get("text"):
                return None  # a link got its preview
            event = {**after, "channel": event.get("channel"), "channel_type": event.get("channel_type")}
        author = self._author(event)
        channel, ts = text_of(event.get("channel")), text_of(event.get("ts"))
        if author is None or channel is None or ts is None or event.get("subtype") not in WRITTEN:
            return None
        files = [file_in(each) for each in objects_of(event.get("files"))]
        context, text = tuple(shared_in(event)), text_of(event.get("text"))
        if not (text or files or context):
            return None
        message = self._message(event, author, channel, ts, text=text, files=files)
        metadata = {**message.metadata, "event_id": payload.get("event_id"), "team_id": payload.get("team_id")}
        if edit is not None:
            metadata["edit"] = edit
        return replace(message, metadata=metadata, context=context, is_edit=edit is not None)

    def _author(self, event: Mapping[str, Any]) -> str | None:
        """Who wrote a message; None where that is the app itself, or another bot that nobody wants answered."""
        user, bot = text_of(event.get("user")), text_of(event.get("bot_id"))
        if user == self._me.user_id or (bot is not None and bot == self._me.bot_id):
            return None
        is_bot = bot is not None or event.get("subtype") == "bot_message"
        return None if is_bot and not self._config.respond_to_bots else user or bot

    def _message(
        self, event: Mapping[str, Any], author: str, channel: str, ts: str, *, text: str | None, files: list[File]
    ) -> InterfaceMessage:
        is_direct = event.get("channel_type") == "im" or channel.startswith("D")
        thread, parent = self._thread(event, is_direct, ts), text_of(event.get("parent_user_id"))
        is_mentioned = event.get("type") == "app_mention" or self._me.user_id in users_in(text)
        others = [each for each in users_in(text) if each != self._me.user_id]
        media: dict[str, Any] = {kind: tuple(each.described() for each in files if each.kind == kind) for kind in KINDS}
        return InterfaceMessage(
            self._platform,
            author,
            channel,
            ts,
            text=text,
            username=text_of(event.get("username")),
            **media,
            reply_to_message_id=text_of(event.get("thread_ts")),
            metadata={
                "channel_type": text_of(event.get("channel_type")),
                "is_bot": "bot_id" in event,
                "mentions_others": bool(others),
                "raw": dict(event),
            },
            created_at=float(ts),
            is_direct=is_direct,
            is_addressed=is_direct or is_mentioned or (parent == self._me.user_id and not others),
            thread_id=thread,
        )

    def _thread(self, event: Mapping[str, Any], is_direct: bool, ts: str) -> str | None:
        """The thread that a message is in, or that its answer begins."""
        begins = not is_direct and self._config.reply_in_thread
        return text_of(event.get("thread_ts")) or (ts if begins else None)

    # --- buttons and commands

    def _press(self, payload: Mapping[str, Any]) -> InterfaceMessage | None:
        actions = objects_of(payload.get("actions"))
        channel, user = text_of(object_of(payload.get("channel")).get("id")), object_of(payload.get("user"))
        user_id, shown = text_of(user.get("id")), object_of(payload.get("message"))
        value = text_of(actions[0].get("value")) if actions else None
        if payload.get("type") != "block_actions" or channel is None or user_id is None or value is None:
            return None  # a page was opened, or it is no button of ours
        is_direct, ts = channel.startswith("D"), text_of(shown.get("ts")) or ""
        return InterfaceMessage(
            self._platform,
            user_id,
            channel,
            f"{ts}/{actions[0].get('action_ts')}",
            text=text_of(object_of(actions[0].get("text")).get("text")) or value,
            username=text_of(user.get("name")),
            reply_to_message_id=ts or None,
            metadata={"message_ts": ts, "raw": _without_token(payload)},
            is_direct=is_direct,
            thread_id=self._thread(shown, is_direct, ts),
            button=value,
        )

    def _command(self, payload: Mapping[str, Any]) -> InterfaceMessage | None:
        fields = {name: text_of(payload.get(name)) for name in ("command", "channel_id", "user_id", "trigger_id")}
        command, channel, user, trigger = fields.values()
        if command is None or channel is None or user is None or trigger is None:
            return None
        is_direct = channel.startswith("D") or payload.get("channel_name") == "directmessage"
        return InterfaceMessage(
            self._platform,
            user,
            channel,
            trigger,
            text=text_of(payload.get("text")),
            username=text_of(payload.get("user_name")),
            metadata={"response_url": text_of(payload.get("response_url")), "raw": _without_token(payload)},
            is_direct=is_direct,
            command=command.removeprefix("/").lower(),
        )


def kind_of(payload: Mapping[str, Any]) -> str:
    """What the body of a request of the Events API is: Socket Mode names the kinds, and they are the same."""
    if payload.get("type") == "event_callback":
        return "events_api"
    return "slash_commands" if "command" in payload else "interactive"


def _without_token(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload less the verification token, which is deprecated and nobody's business."""
    return {name: value for name, value in payload.items() if name != "token"}
