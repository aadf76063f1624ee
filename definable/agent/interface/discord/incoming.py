"""What comes in: Discord's events as `InterfaceMessage`s.

Source: Discord's "Message" resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage, Media
from definable.model.message import Image

from .config import DiscordConfig
from .rest import DiscordRest

DISCORD_EPOCH = 1_420_070_400.0
"""Unix seconds: the first second of 2015, from which ids count."""

DEFAULT, REPLY = 0, 19
"""Types of messages that people write; all others tell of something (a pin, a new member, a boost)."""


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

    def read(self, data: Mapping[str, Any], user_id: str | None) -> InterfaceMessage | None:
        """The message of a MESSAGE_CREATE event; None when it is not for the agent.

        Args:
            data: The event's.
            user_id: The bot's own.

        Raises:
            NotAMessage: The event lacks what every message has.
        """
        is_written = data.get("type", DEFAULT) in (DEFAULT, REPLY)
        if not (is_written and self._may_speak(data, user_id) and self._is_heard_here(data)):
            return None
        content = data.get("content")
        text = self._addressed(content if isinstance(content, str) else "")
        if text is None or not (text or data.get("attachments")):
            return None
        return read_message(data, self._platform, text)

    def _may_speak(self, data: Mapping[str, Any], user_id: str | None) -> bool:
        if user_id is not None and author_of(data).get("id") == user_id:
            return False  # or the bot would answer itself
        return self._config.respond_to_bots or not is_bot(data)

    def _is_heard_here(self, data: Mapping[str, Any]) -> bool:
        guilds, channels = self._config.allowed_guild_ids, self._config.allowed_channel_ids
        guild, channel = str(data.get("guild_id")), str(data.get("channel_id"))
        return (guilds is None or guild in guilds) and (channels is None or channel in channels)

    def _addressed(self, content: str) -> str | None:
        """What is said to the bot; None when it is not spoken to."""
        prefix = self._config.command_prefix
        if prefix is None:
            return content if content.strip() else ""
        text = content.lstrip()
        return text.removeprefix(prefix).strip() if text.startswith(prefix) else None


def author_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The author's user object."""
    return _object(data.get("author"))


def read_message(data: Mapping[str, Any], platform: str, text: str) -> InterfaceMessage:
    """Normalise a message.

    Args:
        data: Of the event.
        platform: The interface's name.
        text: What the agent is to get of the content.

    Raises:
        NotAMessage: An id is missing.
    """
    author = author_of(data)
    ids = (author.get("id"), data.get("channel_id"), data.get("id"))
    if not all(isinstance(id, str) and id.isdecimal() for id in ids):
        raise NotAMessage("a message without the ids of its author, its channel and itself")
    user, channel, message = cast("tuple[str, str, str]", ids)
    images, media = _attachments(data)
    return InterfaceMessage(
        platform,
        user,
        channel,
        message,
        text=text or None,
        username=_text(author.get("username")),
        images=images,
        audio=tuple(each for each in media if each.media_type.startswith("audio/")),
        videos=tuple(each for each in media if each.media_type.startswith("video/")),
        files=tuple(each for each in media if not each.media_type.startswith(("audio/", "video/"))),
        reply_to_message_id=_text(_object(data.get("message_reference")).get("message_id")),
        metadata=_metadata(data),
        created_at=created_at(message),
    )


def created_at(id: str) -> float:
    """When a thing with this id was made, in Unix seconds (Discord's "Reference", Snowflakes)."""
    return DISCORD_EPOCH + (int(id) >> 22) / 1000


def _metadata(data: Mapping[str, Any]) -> dict[str, Any]:
    author, member = author_of(data), _object(data.get("member"))
    metadata: dict[str, Any] = {
        "guild_id": _text(data.get("guild_id")),
        "display_name": _text(member.get("nick")) or _text(author.get("global_name")),
        "is_bot": is_bot(data),
    }
    if replied := _object(data.get("referenced_message")):
        metadata["reply_to"] = {"text": _text(replied.get("content")), "user_id": _text(author_of(replied).get("id"))}
    return metadata


def is_bot(data: Mapping[str, Any]) -> bool:
    """Whether a program wrote the message: another bot, or a webhook."""
    return author_of(data).get("bot") is True or "webhook_id" in data


def _attachments(data: Mapping[str, Any]) -> tuple[tuple[Image, ...], list[Media]]:
    images: list[Image] = []
    media: list[Media] = []
    attachments: object = data.get("attachments")
    for each in map(_object, cast("list[object]", attachments) if isinstance(attachments, list) else []):
        url = _text(each.get("url"))
        kind = (_text(each.get("content_type")) or "application/octet-stream").partition(";")[0].strip()
        if url is not None and kind in IMAGE_TYPES:
            images.append(Image(url=url, media_type=kind))
        elif url is not None:
            media.append(_media(each, url, kind))
    return tuple(images), media


def _media(attachment: Mapping[str, Any], url: str, kind: str) -> Media:
    size, duration = attachment.get("size"), attachment.get("duration_secs")
    return Media(
        url=url,
        platform_id=_text(attachment.get("id")),
        media_type=kind,
        filename=_text(attachment.get("filename")),
        size=size if isinstance(size, int) else None,
        duration=float(duration) if isinstance(duration, int | float) else None,
    )


def _object(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


async def with_images(message: InterfaceMessage, rest: DiscordRest) -> InterfaceMessage:
    """A message with the content of its images; one that is too large is a file.

    Discord's addresses are good for a day, and until the message is deleted (Discord's "Reference", Signed Attachment
    CDN URLs); a provider that gets an address fetches it again with every later request of the conversation.

    Raises:
        InterfaceError: An image could not be fetched.
    """
    images: list[Image] = []
    files: list[Media] = []
    for image in message.images:
        data = image.data if image.url is None else await rest.fetch(image.url)
        if data is None:
            files.append(Media(url=image.url, media_type=image.media_type))
        else:
            images.append(Image(data=data, media_type=image.media_type))
    return replace(message, images=tuple(images), files=(*message.files, *files)) if message.images else message
