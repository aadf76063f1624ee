"""What comes in: Discord's messages as `InterfaceMessage`s.

Source: Discord's "Message" resource; "Gateway Events", Message Create and Message Update.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from definable.agent.interface.message import InterfaceMessage, QuotedMessage

from .attachments import attachments
from .config import DiscordConfig
from .fields import object_of, objects_of, text_of
from .places import Place

DISCORD_EPOCH = 1_420_070_400.0
"""Unix seconds: the first second of 2015, from which ids count."""

DEFAULT, REPLY = 0, 19
"""Types of messages that people write; all others tell of something (a pin, a new member, a boost)."""

FORWARD = 1
"""The type of a reference to a message that is forwarded (Message Reference Types)."""

IS_CROSSPOST = 1 << 1
"""The flag of a message that a channel which this one follows has published."""

EDIT_WINDOW = 600.0
"""Seconds: a message that was edited longer ago comes again for another reason, say since it was pinned."""

ONLY_MENTIONED = "the user mentions you, and writes nothing else"

_MENTION = re.compile(
    r"<@!?(?P<user>\d+)>|<@&(?P<role>\d+)>|<#(?P<channel>\d+)>|<a?:(?P<emoji>\w+):\d+>|"
    r"<t:(?P<time>-?\d+)(?::\w)?>|</(?P<command>[^:<>\n]+):\d+>"
)
"""Discord's "Reference", Message Formatting."""


class NotAMessage(ValueError):
    """The event lacks what every message has."""


class MessageFilter:
    """Reads the messages that are for the agent, and skips the others.

    Args:
        config: Says which.
        platform: The interface's name.
    """

    def __init__(self, config: DiscordConfig, platform: str) -> None:
        self._config = config
        self._platform = platform

    def may_be_heard(self, data: Mapping[str, Any], user_id: str | None) -> bool:
        """Whether somebody who may speak to the bot has written a message, wherever that was."""
        is_written = data.get("type", DEFAULT) in (DEFAULT, REPLY)
        return is_written and self.is_heard_in(data) and self._may_speak(data, user_id)

    def is_heard_in(self, data: Mapping[str, Any]) -> bool:
        """Whether the server is listened to."""
        guilds = self._config.allowed_guild_ids
        return guilds is None or str(data.get("guild_id")) in guilds

    def read(self, data: Mapping[str, Any], user_id: str | None, place: Place) -> InterfaceMessage | None:
        """The message of a MESSAGE_CREATE event, or of a MESSAGE_UPDATE; None when it is not for the agent.

        Args:
            data: The event's.
            user_id: The bot's own.
            place: Where it was written.

        Raises:
            NotAMessage: The event lacks what every message has.
        """
        if not (self.may_be_heard(data, user_id) and self.is_allowed(place)):
            return None
        content = text_of(data.get("content")) or ""
        prefix = self._config.command_prefix
        if prefix is not None and not content.lstrip().startswith(prefix):
            return None
        text = content.lstrip().removeprefix(prefix).strip() if prefix is not None else content
        message = read_message(data, self._platform, place)
        is_meant = message.is_direct or prefix is not None or is_mentioned(data, user_id, place)
        text = _without_mention(text, user_id, place.own_roles) if is_meant and not message.is_direct else text
        text = readable(text, data, place).strip()
        if not (text or message.notes or message.context or _has_media(message)):
            if not (is_meant and content.strip() and prefix is None):
                return None
            message = replace(message, notes=(ONLY_MENTIONED,))
        return replace(message, text=text or None, is_addressed=is_meant)

    def read_edit(self, data: Mapping[str, Any], user_id: str | None, place: Place) -> InterfaceMessage | None:
        """The message of a MESSAGE_UPDATE event; None when nobody has edited it just now, or it is not for the agent.

        Discord sends one too when it adds previews of links, and when a message is pinned.
        """
        edited = edited_at(data)
        if edited is None or not abs(time.time() - edited) < EDIT_WINDOW:
            return None
        message = self.read(data, user_id, place)
        if message is None:
            return None
        return replace(message, is_edit=True, metadata={**message.metadata, "edit": str(data["edited_timestamp"])})

    def _may_speak(self, data: Mapping[str, Any], user_id: str | None) -> bool:
        if user_id is not None and author_of(data).get("id") == user_id:
            return False  # or the bot would answer itself
        if isinstance(flags := data.get("flags"), int) and flags & IS_CROSSPOST:
            return False
        return self._config.respond_to_bots or not is_bot(data)

    def is_allowed(self, place: Place) -> bool:
        """Whether the channel is listened to; a thread is where its channel is."""
        channels = self._config.allowed_channel_ids
        return channels is None or place.channel in channels or (place.thread is not None and place.thread in channels)


def author_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The author's user object."""
    return object_of(data.get("author"))


def read_message(data: Mapping[str, Any], platform: str, place: Place) -> InterfaceMessage:
    """Normalise a message, but for its text.

    Args:
        data: Of the event.
        platform: The interface's name.
        place: Where it was written.

    Raises:
        NotAMessage: An id is missing.
    """
    author = author_of(data)
    ids = (author.get("id"), data.get("channel_id"), data.get("id"))
    if not all(isinstance(id, str) and id.isdecimal() for id in ids):
        raise NotAMessage("a message without the ids of its author, its channel and itself")
    user, _, message = cast("tuple[str, str, str]", ids)
    images, media = attachments(data)
    return InterfaceMessage(
        platform,
        user,
        place.channel,
        message,
        username=text_of(author.get("username")),
        images=images,
        audio=tuple(each for each in media if each.media_type.startswith("audio/")),
        videos=tuple(each for each in media if each.media_type.startswith("video/")),
        files=tuple(each for each in media if not each.media_type.startswith(("audio/", "video/"))),
        reply_to_message_id=text_of(object_of(data.get("message_reference")).get("message_id")),
        metadata=metadata_of(data),
        created_at=created_at(message),
        is_direct=text_of(data.get("guild_id")) is None,
        thread_id=place.thread,
        context=tuple(_context(data, place)),
        notes=tuple(_notes(data)),
    )


def is_mentioned(data: Mapping[str, Any], user_id: str | None, place: Place) -> bool:
    """Whether a message means the bot: mentions it or its role, or replies to it. `@everyone` does not."""
    if user_id is None:
        return False
    roles = data.get("mention_roles")
    mentioned = [each.get("id") for each in objects_of(data.get("mentions"))]
    mentioned += cast("list[object]", roles) if isinstance(roles, list) else []
    return (
        not {user_id, *place.own_roles}.isdisjoint(map(str, mentioned))
        or re.search(rf"<@!?{user_id}>", str(data.get("content"))) is not None
        or author_of(object_of(data.get("referenced_message"))).get("id") == user_id
    )


def _without_mention(text: str, user_id: str | None, own_roles: frozenset[str]) -> str:
    own = "|".join([f"!?{user_id}", *[f"&{role}" for role in own_roles]])
    return re.sub(rf"[ \t]*<@(?:{own})>[ \t]*", " ", text).strip().lstrip(",:").strip()


def readable(text: str, data: Mapping[str, Any], place: Place) -> str:
    """A text with the names of what it mentions in place of their ids."""
    users = {
        str(each.get("id")): name_of(each, object_of(each.get("member"))) for each in objects_of(data.get("mentions"))
    }

    def name(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "user":
                return f"@{users.get(found['user']) or 'user'}"
            case "role":
                return f"@{place.names.get(found['role'], 'role')}"
            case "channel":
                return f"#{place.names.get(found['channel'], 'channel')}"
            case "emoji":
                return f":{found['emoji']}:"
            case "time":
                return _moment(int(found["time"])) or found[0]
            case _:
                return f"/{found['command']}"

    return _MENTION.sub(name, text)


def name_of(user: Mapping[str, Any], member: Mapping[str, Any]) -> str | None:
    """What a user is called: in the server, or everywhere."""
    names = (member.get("nick"), user.get("global_name"), user.get("username"))
    return next((name for name in map(text_of, names) if name), None)


def _moment(seconds: int) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return None


def created_at(id: str) -> float:
    """When a thing with this id was made, in Unix seconds (Discord's "Reference", Snowflakes)."""
    return DISCORD_EPOCH + (int(id) >> 22) / 1000


def edited_at(data: Mapping[str, Any]) -> float | None:
    """When a message was edited, in Unix seconds; None when nobody has."""
    try:
        return datetime.fromisoformat(str(data.get("edited_timestamp"))).timestamp()
    except ValueError:
        return None


def metadata_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What hooks may want to know beside."""
    author, member = author_of(data), object_of(data.get("member"))
    return {
        "guild_id": text_of(data.get("guild_id")),
        "display_name": text_of(member.get("nick")) or text_of(author.get("global_name")),
        "is_bot": is_bot(data),
        "raw": dict(data),
    }


def is_bot(data: Mapping[str, Any]) -> bool:
    """Whether a program wrote the message: another bot, or a webhook."""
    return author_of(data).get("bot") is True or "webhook_id" in data


# --- what belongs to a message


def _context(data: Mapping[str, Any], place: Place) -> Iterator[QuotedMessage]:
    """What is replied to, and what is forwarded (Message Snapshot)."""
    reference = object_of(data.get("message_reference"))
    if replied := object_of(data.get("referenced_message")):
        author = author_of(replied)
        yield _quoted("reply", replied, place, name_of(author, {}), text_of(replied.get("id")))
    if reference.get("type") == FORWARD:
        for snapshot in objects_of(data.get("message_snapshots")):
            yield _quoted(
                "forward", object_of(snapshot.get("message")), place, None, text_of(reference.get("message_id"))
            )


def _quoted(kind: Any, data: Mapping[str, Any], place: Place, author: str | None, id: str | None) -> QuotedMessage:
    images, media = attachments(data)
    lines = [readable(text_of(data.get("content")) or "", data, place), *_embedded(data), *_notes(data)]
    return QuotedMessage(kind, author, "\n".join(line for line in lines if line) or None, images, tuple(media), id)


def _embedded(data: Mapping[str, Any]) -> Iterator[str]:
    """What stands in the embeds that were written, not made of links (Embed Types)."""
    for embed in objects_of(data.get("embeds")):
        if embed.get("type", "rich") == "rich":
            fields = [(each.get("name"), each.get("value")) for each in objects_of(embed.get("fields"))]
            texts = [embed.get("title"), embed.get("description"), *[f"{name}: {value}" for name, value in fields]]
            yield from (text for text in map(text_of, texts) if text)


def _notes(data: Mapping[str, Any]) -> Iterator[str]:
    """What has no text, in words."""
    for sticker in objects_of(data.get("sticker_items")):
        yield f"sticker {text_of(sticker.get('name')) or 'without a name'!r}"
    if poll := object_of(data.get("poll")):
        answers = [object_of(each.get("poll_media")) for each in objects_of(poll.get("answers"))]
        texts = [text for each in answers if (text := text_of(each.get("text")))]
        yield f"poll {text_of(object_of(poll.get('question')).get('text')) or ''!r}: {', '.join(texts)}".rstrip(": ")


def _has_media(message: InterfaceMessage) -> bool:
    return bool(message.images or message.audio or message.videos or message.files)
