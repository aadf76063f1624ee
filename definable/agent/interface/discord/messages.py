"""Messages as Discord's API has them: events into `InterfaceMessage`s, responses into what is posted.

Source: Discord's "Message" resource.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from mimetypes import guess_extension
from secrets import token_hex
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage, InterfaceResponse, Media
from definable.model.message import Image

from .config import DiscordConfig
from .rest import DiscordRest, Upload

DISCORD_EPOCH = 1_420_070_400.0
"""Unix seconds: the first second of 2015, from which ids count."""

DEFAULT, REPLY = 0, 19
"""Types of messages that people write; all others tell of something (a pin, a new member, a boost)."""

MAX_ATTACHMENTS = 10
"""Files of one message, and as many embeds."""

MAX_TITLE = 256
"""Characters of an embed's title (Discord's "Message" resource, Embed Limits)."""

EXTENSIONS = {
    "audio/flac": ".flac",
    "audio/mp4": ".m4a",
    "audio/ogg": ".ogg",
    "audio/wav": ".wav",
    "image/webp": ".webp",
}
"""Discord shows and plays a file by its ending. Python's list lacks these, and not every machine has another."""

Embed = dict[str, Any]


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


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to be posted."""

    body: dict[str, Any]
    uploads: Sequence[Upload] = ()


def outgoing(response: InterfaceResponse, reply_to: str | None) -> Iterator[Outgoing]:
    """The messages that make up a response: one, or more when it has too many files for one.

    Args:
        response: Its content fits into one message.
        reply_to: The id of the message that the first is shown as a reply to.
    """
    uploads, embeds = _attached(response)
    content, at = response.content or "", 0
    while content or at == 0 or at < max(len(uploads), len(embeds)):
        files, links = uploads[at : at + MAX_ATTACHMENTS], embeds[at : at + MAX_ATTACHMENTS]
        yield Outgoing(_body(content, links, reply_to), files)
        content, reply_to, at = "", None, at + MAX_ATTACHMENTS


def edited(content: str) -> dict[str, Any]:
    """What a message is changed into (Discord's "Message" resource, Edit Message)."""
    return {"content": content, "allowed_mentions": {"parse": []}}  # what a model writes must not ping anyone


def without_reference(body: Mapping[str, Any]) -> dict[str, Any]:
    """A message that is no longer shown as a reply."""
    return {name: value for name, value in body.items() if name != "message_reference"}


def _body(content: str, embeds: Sequence[Embed], reply_to: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        **edited(content),
        "nonce": token_hex(12),  # at most 25 characters; a second try within a few minutes posts nothing anew
        "enforce_nonce": True,
    }
    if embeds:
        body["embeds"] = list(embeds)
    if reply_to is not None:
        body["message_reference"] = {"message_id": reply_to, "fail_if_not_exists": False}
    return body


def _attached(response: InterfaceResponse) -> tuple[list[Upload], list[Embed]]:
    uploads: list[Upload] = []
    embeds: list[Embed] = []
    for number, image in enumerate(response.images, 1):
        if (upload := _image(image, number)) is not None:
            uploads.append(upload)
        elif image.url is not None:
            embeds.append({"image": {"url": image.url}})
    for media in (*response.audio, *response.videos, *response.files):
        if media.data is not None:
            uploads.append(Upload(media.filename or _filename("file", media.media_type), media.data, media.media_type))
        elif media.url is not None:
            embeds.append(_link(media, media.url))
    return uploads, embeds


def _image(image: Image, number: int) -> Upload | None:
    """An image that is here, not somewhere else."""
    data, media_type = image.data, image.media_type
    if data is None and image.url is not None and image.url.startswith("data:"):
        head, _, encoded = image.url.removeprefix("data:").partition(",")
        raw = unquote_to_bytes(encoded)
        data = b64decode(raw) if head.endswith(";base64") else raw
        media_type = head.partition(";")[0] or media_type
    return None if data is None else Upload(_filename(f"image{number}", media_type), data, media_type)


def _link(media: Media, url: str) -> Embed:
    return {"title": (media.filename or url)[:MAX_TITLE], "url": url}


def _filename(stem: str, media_type: str) -> str:
    return f"{stem}{EXTENSIONS.get(media_type) or guess_extension(media_type) or ''}"
