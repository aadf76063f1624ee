"""What travels between a platform and the agent, the same for every platform: messages, responses and their media;
and what a model reads of a message.

Images are `definable.model.Image`s, which a model can look at. Everything else is a `Media`: the model is told that it
is there, tools and hooks read it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal

from definable.agent.tools.result import Button
from definable.frozen import frozen
from definable.json_text import json_bytes
from definable.model.message import Image, Message

from .splitting import utf16_length

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""What models can look at; other images are files."""


MAX_TEXT_FILE = 100_000
"""Bytes of a file whose text the model reads; of a longer one it is told that it is there."""

TEXT_TYPES = frozenset(
    {
        "application/json",
        "application/ld+json",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/javascript",
        "application/sql",
        "application/x-sh",
        "application/x-ndjson",
    }
)
"""MIME types that are text, beside `text/*`."""

TEXT_ENDINGS = frozenset(
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .log .py .js .ts .tsx .jsx .html .css .sql "
    ".sh .c .h .cpp .hpp .cs .go .java .kt .php .pl .rb .rs .swift .diff .patch .tex".split()
)
"""How files are called that platforms send without a type of their own."""

_UNKNOWN_TYPES = ("application/octet-stream", "")


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
    WITHDRAWN = "withdrawn"
    """Stopped, or another message took its place."""


def is_meant(message: InterfaceMessage, groups: Literal["mention", "all", "off"]) -> bool:
    """Whether a message is to be answered; see `InterfaceConfig.groups`."""
    return message.is_direct or groups == "all" or (groups == "mention" and message.is_addressed)


_UNITED = ("images", "audio", "videos", "files", "context", "notes")


def is_collectable(message: InterfaceMessage) -> bool:
    """Whether a message may become one with those that follow it: no command, no button, no correction."""
    is_special = message.button is not None or message.command is not None or message.is_edit
    return not (is_special or (message.text or "").startswith("/"))


def collected(messages: Sequence[InterfaceMessage], full_length: int) -> InterfaceMessage:
    """What several messages of one user say together; it is answered as the last of them.

    Args:
        messages: In their order.
        full_length: UTF-16 code units at which the platform cuts what its users write: what follows such a text goes on
            with it.
    """
    last = messages[-1]
    if len(messages) == 1:
        return last
    text, is_cut = "", True
    for each in messages:
        if each.text:
            text = f"{text}{'' if is_cut else SEPARATOR}{each.text}"
            is_cut = utf16_length(each.text) >= full_length
    return replace(
        last,
        text=text or None,
        created_at=messages[0].created_at,
        is_addressed=any(each.is_addressed for each in messages),
        metadata={**last.metadata, "collected": [each.platform_message_id for each in messages]},
        **{name: _united(messages, name) for name in _UNITED},
    )


SEPARATOR = "\n"
"""Between the texts of messages that become one."""


def _united(messages: Sequence[InterfaceMessage], name: str) -> tuple[Any, ...]:
    return tuple([each for message in messages for each in getattr(message, name)])


def with_written_buttons(response: InterfaceResponse) -> InterfaceResponse:
    """A response for a platform without buttons: they are a list behind its text."""
    buttons = [button for row in response.buttons for button in row]
    if not buttons:
        return response
    lines = [f"- {each.text}" if each.url is None else f"- {each.text}: {each.url}" for each in buttons]
    return replace(response, content="\n\n".join([*filter(None, [response.content]), "\n".join(lines)]), buttons=())


def run_input(message: InterfaceMessage) -> str | Message:
    """A message as a run's input: its text and images, what it refers to, and what a model cannot see in words."""
    text = "\n".join(_lines(message))
    images = (*message.images, *(image for quoted in message.context for image in quoted.images))
    return Message("user", text, images=images) if images else text


def _lines(message: InterfaceMessage) -> Iterator[str]:
    for quoted in message.context:
        yield from _quoted_lines(quoted)
    if message.is_edit:
        yield f"The user corrects message {message.platform_message_id}, which now says:"
    if message.command is not None:
        yield f"/{message.command} {message.text or ''}".rstrip()
    elif message.text:
        yield message.text
    yield from (f"[{note}]" for note in message.notes)
    for kind, media in (("audio", message.audio), ("video", message.videos)):
        yield from (f"[{kind}: {each}]" for each in media)
    yield from _file_lines(message.files)


def _quoted_lines(quoted: QuotedMessage) -> Iterator[str]:
    whose = "" if quoted.author is None else f" of {quoted.author}" if quoted.kind != "forward" else f" {quoted.author}"
    what = {"reply": f"In reply to a message{whose}", "quote": f"In reply to this part of a message{whose}"}
    yield f"{what.get(quoted.kind, f'Forwarded from{whose}' if whose else 'A forwarded message')}:"
    yield from (f"> {line}" for line in (quoted.text or "").splitlines())
    if quoted.images:
        yield f"> [{len(quoted.images)} image{'s' if len(quoted.images) > 1 else ''}]"
    yield from (f"> {line}" for text in _file_lines(quoted.files) for line in text.splitlines())
    yield ""


def _file_lines(files: Sequence[Media]) -> Iterator[str]:
    for each in files:
        text = file_text(each)
        yield f"[file: {each}]"
        if text is not None:
            yield f"{text.rstrip()}\n[end of {each.filename or 'the file'}]"


def is_text_file(media: Media) -> bool:
    """Whether a file is text, as its type or its name says: a platform fetches it, up to `MAX_TEXT_FILE` bytes."""
    kind = media.media_type.partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind in TEXT_TYPES or kind.endswith(("+json", "+xml")):
        return kind != "image/svg+xml"
    return kind in _UNKNOWN_TYPES and PurePath(media.filename or "").suffix.lower() in TEXT_ENDINGS


def file_text(media: Media) -> str | None:
    """What a text file says; None where it is none, is too long, or was not fetched."""
    data = media.data
    if data is None or len(data) > MAX_TEXT_FILE or not is_text_file(media):
        return None
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def reply_text(content: Any) -> str:
    """A run's output as text: an object of the agent's `output_type` as JSON."""
    return content if isinstance(content, str) else json_bytes(content).decode()
