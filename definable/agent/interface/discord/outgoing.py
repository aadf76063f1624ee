"""What goes out: responses as the messages that Discord takes.

Source: Discord's "Message" resource, Create Message; "Component Reference".
"""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from mimetypes import guess_extension
from secrets import token_hex
from typing import Any
from urllib.parse import unquote_to_bytes

from definable.agent.interface.message import Button, InterfaceResponse
from definable.agent.interface.splitting import utf16_length
from definable.concurrency.logs import logger_named
from definable.model.message import Image

from .config import MAX_MESSAGE_LENGTH
from .errors import HIDDEN_HISTORY, DiscordRefusal
from .rest import Upload

logger: logging.Logger = logger_named(__name__)

MAX_ATTACHMENTS = 10
"""Files of one message, and as many embeds."""

MAX_TITLE = 256
"""Characters of an embed's title (Discord's "Message" resource, Embed Limits)."""

MAX_ROWS, MAX_IN_ROW = 5, 5
"""Rows of a message's buttons, and buttons of a row ("Component Reference", Action Row)."""

MAX_LABEL, MAX_CUSTOM_ID, MAX_URL = 80, 100, 512
"""Characters of a button's text, value and address ("Component Reference", Button)."""

EXTENSIONS = {
    "audio/flac": ".flac",
    "audio/mp4": ".m4a",
    "audio/ogg": ".ogg",
    "audio/wav": ".wav",
    "image/webp": ".webp",
}
"""Discord shows and plays a file by its ending. Python's list lacks these, and not every machine has another."""

Embed = dict[str, Any]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to be posted."""

    content: str = ""
    uploads: Sequence[Upload] = ()
    embeds: Sequence[Embed] = ()
    rows: Sequence[Row] = ()
    """Of buttons."""
    reply_to: str | None = None
    """The message that it is shown as a reply to."""

    @property
    def body(self) -> dict[str, Any]:
        """What Create Message takes; each time with another nonce."""
        body: dict[str, Any] = {
            **edited(self.content),
            "nonce": token_hex(12),  # at most 25 characters; a second try within a few minutes posts nothing anew
            "enforce_nonce": True,
        }
        if self.embeds:
            body["embeds"] = list(self.embeds)
        if self.rows:
            body["components"] = list(self.rows)
        if self.reply_to is not None:
            body["message_reference"] = {"message_id": self.reply_to, "fail_if_not_exists": False}
        return body

    @property
    def follow_up(self) -> dict[str, Any]:
        """What Create Followup Message takes: no nonce, and no reference."""
        more = {"embeds": list(self.embeds), "components": list(self.rows)}
        return {**edited(self.content), **{name: value for name, value in more.items() if value}}

    def plainer(self, refusal: DiscordRefusal) -> Sequence[Outgoing]:
        """What is posted in place of a message that Discord refuses: its text whole, and what it takes of the rest.

        Args:
            refusal: Says why.

        Returns:
            Nothing where the text itself is what is refused.
        """
        if self.reply_to is not None and refusal.code in HIDDEN_HISTORY:
            return [replace(self, reply_to=None)]
        rest = [
            *[Outgoing(uploads=[each]) for each in self.uploads],
            *[Outgoing(embeds=[each]) for each in self.embeds],
            *[Outgoing(rows=[each]) for each in self.rows],
        ]
        if len(rest) > 1:
            return [*([replace(self, uploads=(), embeds=(), rows=())] if self.content else []), *rest]
        if rest:
            lines = "\n".join(part for part in (self.content, self._in_words()) if part)
            is_short = utf16_length(lines) <= MAX_MESSAGE_LENGTH
            texts = [lines] if is_short else [self.content, self._in_words()]
            return [Outgoing(text, reply_to=None if number else self.reply_to) for number, text in enumerate(texts)]
        return [replace(self, reply_to=None)] if self.reply_to is not None and refusal.status == 400 else []

    def _in_words(self) -> str:
        """What is beside the text, for a user who does not get it otherwise."""
        lines = [f"[{each.filename}: not sent, {len(each.data)} bytes]" for each in self.uploads]
        lines += [str(each.get("url") or each["image"]["url"]) for each in self.embeds]
        return "\n".join([*lines, *[_button_in_words(each) for row in self.rows for each in row["components"]]])


def outgoing(response: InterfaceResponse, reply_to: str | None) -> Iterator[Outgoing]:
    """The messages that make up a response: one, or more when it has too many files for one.

    Args:
        response: Its content fits into one message.
        reply_to: The id of the message that the first is shown as a reply to.
    """
    uploads, embeds = _attached(response)
    rows, others = button_rows(response.buttons)
    content, at = response.content or "", 0
    if others:
        lines = "\n".join([content, *others] if content else others)
        if utf16_length(lines) > MAX_MESSAGE_LENGTH:
            yield Outgoing(content, reply_to=reply_to)
            lines, reply_to = "\n".join(others), None
        content = lines
    while content or at == 0 or at < max(len(uploads), len(embeds)):
        files, links = uploads[at : at + MAX_ATTACHMENTS], embeds[at : at + MAX_ATTACHMENTS]
        at += MAX_ATTACHMENTS
        is_last = at >= max(len(uploads), len(embeds))
        yield Outgoing(content, files, links, rows if is_last else (), reply_to)
        content, reply_to = "", None


def edited(content: str) -> dict[str, Any]:
    """What a message is changed into (Discord's "Message" resource, Edit Message)."""
    return {"content": content, "allowed_mentions": {"parse": []}}  # what a model writes must not ping anyone


def button_rows(buttons: Sequence[Sequence[Button]]) -> tuple[list[Row], list[str]]:
    """Rows of buttons as Discord takes them, and in words those that it does not take."""
    rows: list[Row] = []
    others: list[str] = []
    numbers = count()
    for row in buttons:
        taken: list[dict[str, Any]] = []
        for each in row:
            button = _button(each, next(numbers))
            if len(button.get("custom_id", "")) > MAX_CUSTOM_ID or len(each.url or "") > MAX_URL:
                logger.warning(
                    "discord: button %r is written as text: its value has more than %d characters, or its url %d",
                    each.text,
                    MAX_CUSTOM_ID - 3,
                    MAX_URL,
                )
                others.append(_button_in_words(button))
            else:
                taken.append(button)
        rows += [{"type": 1, "components": taken[at : at + MAX_IN_ROW]} for at in range(0, len(taken), MAX_IN_ROW)]
    others += [_button_in_words(each) for row in rows[MAX_ROWS:] for each in row["components"]]
    return rows[:MAX_ROWS], others


def _button(button: Button, number: int) -> dict[str, Any]:
    label = button.text if len(button.text) <= MAX_LABEL else button.text[: MAX_LABEL - 1] + "…"
    if button.url is not None:
        return {"type": 2, "style": 5, "label": label, "url": button.url}
    # Two buttons of a message may not have the same id.
    return {"type": 2, "style": 2, "label": label, "custom_id": f"{number}:{button.pressed}"}


def _button_in_words(button: Mapping[str, Any]) -> str:
    return f"- {button['label']}" + (f": {button['url']}" if "url" in button else "")


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
            embeds.append({"title": (media.filename or media.url)[:MAX_TITLE], "url": media.url})
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


def _filename(stem: str, media_type: str) -> str:
    return f"{stem}{EXTENSIONS.get(media_type) or guess_extension(media_type) or ''}"
