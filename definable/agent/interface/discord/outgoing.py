"""A response as the messages that the API takes: pure, but for the nonces.

Source: Discord's "Message" resource, Create Message.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from mimetypes import guess_extension
from secrets import token_hex
from typing import Any
from urllib.parse import unquote_to_bytes

from definable.agent.interface.message import InterfaceResponse, Media
from definable.model.message import Image

from .rest import Upload

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
    return {"content": content, "allowed_mentions": {"parse": []}}  # what a model writes must ping nobody


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
