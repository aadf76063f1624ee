"""What travels between a platform and the agent, the same for every platform: messages, responses and their media.

Images are `definable.model.Image`s, which a model can look at. Everything else is a `Media`: the model is told that it
is there, tools and hooks read it. A durable event bus keeps a message as JSON, without the fields that are empty.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any, cast

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
    """The platform's own; what a custom interface needs to answer."""
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""


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

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        has_media = self.images or self.audio or self.videos or self.files
        return not (has_media or (self.content and self.content.strip()))


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


_PLAIN = (
    "platform",
    "platform_user_id",
    "platform_chat_id",
    "platform_message_id",
    "text",
    "username",
    "reply_to_message_id",
    "metadata",
    "created_at",
)
_IDS = ("platform", "platform_user_id", "platform_chat_id", "platform_message_id")
_MEDIA = ("audio", "videos", "files")


def message_to_json(message: InterfaceMessage) -> dict[str, Any]:
    """The message as a dict; its metadata is the interface's, and must be JSON by itself."""
    value = {name: getattr(message, name) for name in _PLAIN}
    value["images"] = [image_to_json(image) for image in message.images]
    for name in _MEDIA:
        value[name] = [_media_to_json(each) for each in getattr(message, name)]
    return {name: field for name, field in value.items() if field not in (None, [], {})}


def message_from_json(value: object) -> InterfaceMessage:
    """The message that `message_to_json` made `value` from.

    Raises:
        ValueError: `value` is no such message.
    """
    try:
        fields = _mapping(value)
        if wrong := [name for name in _IDS if not isinstance(fields[name], str | int)]:
            raise TypeError(f"{wrong[0]} is neither text nor a number")
        message = InterfaceMessage(**{name: fields[name] for name in _PLAIN if name in fields})
        images = tuple(image_from_json(_mapping(image)) for image in fields.get("images", ()))
        media: dict[str, Any] = {
            name: tuple(_media_from_json(_mapping(each)) for each in fields[name]) for name in _MEDIA if name in fields
        }
        return replace(message, images=images, **media)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


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
