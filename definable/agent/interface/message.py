"""What travels between a platform and the agent, the same for every platform: messages, responses and their media.

Images are `definable.model.Image`s, which a model can look at. Everything else is a `Media`: the model is told that it
is there, tools and hooks read it. A durable event bus keeps a message as JSON, without the fields that are empty.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from typing import Any, Literal, cast

from definable.agent.tools.result import Button
from definable.frozen import frozen
from definable.json_text import json_bytes
from definable.model.message import Image, Message, image_from_json, image_to_json

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""What models can look at; other images are files."""


@dataclass(frozen=True, slots=True)
class Media:
    """An audio, a video or a file."""

    data: bytes | None = None
    """The encoded content; None when it was not fetched, say since it is too large."""
    url: str | None = None
    """Where the platform can fetch it from, of one that is sent."""
    platform_id: str | None = None
    """What the platform knows it by."""
    media_type: str = "application/octet-stream"
    """The MIME type."""
    filename: str | None = None
    size: int | None = None
    """Bytes, as far as it is known."""
    duration: float | None = None
    """Seconds, of audio and video."""

    def __str__(self) -> str:
        size = len(self.data) if self.data is not None else self.size
        parts = [self.media_type]
        parts += [] if self.duration is None else [f"{self.duration:g} s"]
        parts += [] if size is None else [f"{size} bytes"]
        return f"{self.filename or 'unnamed'} ({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class QuotedMessage:
    """What a message replies to, quotes or forwards."""

    kind: Literal["reply", "quote", "forward"]
    """A quote is a part of the message that is replied to."""
    author: str | None = None
    """The name of who wrote it; None where the platform does not say."""
    text: str | None = None
    images: tuple[Image, ...] = ()
    files: tuple[Media, ...] = ()
    message_id: str | None = None
    """The platform's, where it says so."""


@frozen
class InterfaceMessage:
    """A message that came in, normalised."""

    platform: str
    platform_user_id: str
    platform_chat_id: str
    platform_message_id: str
    """Names the message within its chat: one that comes in twice is answered once. Empty when it has no name."""
    text: str | None = None
    username: str | None = None
    images: tuple[Image, ...] = ()
    """The model sees them."""
    audio: tuple[Media, ...] = ()
    videos: tuple[Media, ...] = ()
    files: tuple[Media, ...] = ()
    reply_to_message_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The platform's own; what a custom interface needs to answer. `"raw"` is the platform's own object."""
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""
    is_direct: bool = True
    """Whether the chat is one between the user and the agent; not so in groups, channels and threads."""
    is_addressed: bool = True
    """Whether the agent is meant: it is mentioned or replied to, or a command or a button of its own is used. The
    platform says so, and cuts the mention of the agent from `text`."""
    thread_id: str | None = None
    """A topic, a thread or a forum post: a conversation of its own within `platform_chat_id`."""
    context: tuple[QuotedMessage, ...] = ()
    """What is replied to, quoted or forwarded."""
    notes: tuple[str, ...] = ()
    """What has no text, in words: `"location 52.52, 13.405 (Alexanderplatz)"`."""
    is_edit: bool = False
    """Whether it corrects the message of this `platform_message_id`; `metadata["edit"]` names the correction."""
    button: str | None = None
    """The value of the button that was pressed; `text` is what the button says."""
    command: str | None = None
    """The name of the platform's own command that was used, without a slash; `text` has its arguments."""
    group_id: str | None = None
    """What messages that belong together have in common, say the pictures of an album."""
    locale: str | None = None
    """The user's language, as the platform names it: `"de"`, `"pt-BR"`."""
    timezone: str | None = None
    """The user's time zone, where the platform knows it: `"Europe/Berlin"`."""


@frozen
class InterfaceResponse:
    """What goes back."""

    content: str | None = None
    images: tuple[Image, ...] = ()
    audio: tuple[Media, ...] = ()
    videos: tuple[Media, ...] = ()
    files: tuple[Media, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The platform's own; see the interface."""
    buttons: tuple[tuple[Button, ...], ...] = ()
    """Under the text, row by row."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        has_more = self.images or self.audio or self.videos or self.files or self.buttons
        return not (has_more or (self.content and self.content.strip()))


class MessageEnd(Enum):
    """How an accepted message ended."""

    HANDLED = "handled"
    """Answered, or dropped by a hook or a rate limit."""
    REFUSED = "refused"
    """Its user is not let in."""
    FAILED = "failed"
    """Not answered because of an error, which is logged."""


def run_input(message: InterfaceMessage) -> str | Message:
    """A message as a run's input: its text, its images, and a line for each attachment that a model cannot see."""
    lines = [message.text] if message.text else []
    for kind, media in (("audio", message.audio), ("video", message.videos), ("file", message.files)):
        lines += [f"[{kind}: {each}]" for each in media]
    text = "\n".join(lines)
    return Message("user", text, images=message.images) if message.images else text


def reply_text(content: Any) -> str:
    """A run's output as text: an object of the agent's `output_type` as JSON."""
    return content if isinstance(content, str) else json_bytes(content).decode()


_IDS = ("platform", "platform_user_id", "platform_chat_id", "platform_message_id")
_MEDIA = ("audio", "videos", "files")
_OTHER = (*_MEDIA, "images", "context", "notes")
_PLAIN = {each.name: each.default for each in fields(InterfaceMessage) if each.name not in _OTHER}
"""The fields that are JSON by themselves, with their defaults."""


def message_to_json(message: InterfaceMessage) -> dict[str, Any]:
    """The message as a dict; its metadata is the interface's, and must be JSON by itself."""
    value = {name: own for name, default in _PLAIN.items() if (own := getattr(message, name)) != default}
    for name in _MEDIA:
        value[name] = [_media_to_json(each) for each in getattr(message, name)]
    value["images"] = [image_to_json(image) for image in message.images]
    value["context"] = [_quoted_to_json(each) for each in message.context]
    value["notes"] = list(message.notes)
    return {name: own for name, own in value.items() if own not in ([], {})}


def message_from_json(value: object) -> InterfaceMessage:
    """The message that `message_to_json` made `value` from.

    Raises:
        ValueError: `value` is no such message.
    """
    try:
        kept = _mapping(value)
        if wrong := [name for name in _IDS if not isinstance(kept[name], str | int)]:
            raise TypeError(f"{wrong[0]} is neither text nor a number")
        made: dict[str, Any] = {name: kept[name] for name in _PLAIN if name in kept}
        made |= {name: _media_list(kept, name) for name in _MEDIA if name in kept}
        quoted = tuple([_quoted_from_json(_mapping(each)) for each in kept.get("context", ())])
        return InterfaceMessage(
            **made, images=_images(kept), context=quoted, notes=tuple([str(note) for note in kept.get("notes", ())])
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


def _quoted_to_json(quoted: QuotedMessage) -> dict[str, Any]:
    value = {name: getattr(quoted, name) for name in ("kind", "author", "text", "message_id")}
    value["images"] = [image_to_json(image) for image in quoted.images]
    value["files"] = [_media_to_json(each) for each in quoted.files]
    return {name: own for name, own in value.items() if own not in (None, [])}


def _quoted_from_json(kept: Mapping[str, Any]) -> QuotedMessage:
    plain = {name: kept.get(name) for name in ("author", "text", "message_id")}
    return QuotedMessage(kept["kind"], **plain, images=_images(kept), files=_media_list(kept, "files"))


def _images(kept: Mapping[str, Any]) -> tuple[Image, ...]:
    return tuple([image_from_json(_mapping(image)) for image in kept.get("images", ())])


def _media_list(kept: Mapping[str, Any], name: str) -> tuple[Media, ...]:
    return tuple([_media_from_json(_mapping(each)) for each in kept.get(name, ())])


def _media_to_json(media: Media) -> dict[str, Any]:
    value = {name: field for name, field in asdict(media).items() if field is not None}
    return value if media.data is None else value | {"data": b64encode(media.data).decode("ascii")}


def _media_from_json(fields: Mapping[str, Any]) -> Media:
    media = Media(**{name: field for name, field in fields.items() if name != "data"})
    return replace(media, data=b64decode(fields["data"], validate=True)) if "data" in fields else media


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return cast("dict[str, Any]", value)
