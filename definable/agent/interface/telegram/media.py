"""Media of a response as the methods that send them (https://core.telegram.org/bots/api#sendmediagroup): pure."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from definable.agent.interface.message import InterfaceResponse, Media
from definable.model.message import Image

from .client import Upload

VOICE_TYPES = frozenset({"audio/ogg", "audio/opus"})
"""What Telegram plays as a voice message (https://core.telegram.org/bots/api#sendvoice)."""

MAX_ALBUM = 10
"""Media of one album."""

ALBUMS = {"photo": "looked at", "video": "looked at", "audio": "heard", "document": "read"}
"""Photos and videos share an album; audio, and documents, have their own; a voice message is alone."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A medium, and the parameter of the method that sends it: `"photo"` of sendPhoto."""

    kind: str
    media: Media

    @property
    def method(self) -> str:
        return f"send{self.kind.capitalize()}"

    @property
    def reference(self) -> str | None:
        """What Telegram can fetch by itself."""
        return self.media.platform_id or self.media.url

    @property
    def upload(self) -> Upload | None:
        """What is sent along; None where Telegram fetches it."""
        data = self.media.data
        return None if data is None else (self.media.filename or self.kind, data, self.media.media_type)

    @property
    def in_words(self) -> str:
        """For a user who does not get it."""
        if self.media.data is None:
            return self.media.url or f"[{self.media.filename or self.kind}: not sent]"
        return f"[{self.media.filename or self.kind}: not sent, {len(self.media.data)} bytes]"


def albums(response: InterfaceResponse) -> list[list[Medium]]:
    """The media of a response, those together that go out as one album."""
    groups: list[list[Medium]] = []
    for medium in _media_of(response):
        album = ALBUMS.get(medium.kind)
        last = groups[-1] if groups else []
        if last and album is not None and ALBUMS.get(last[0].kind) == album and len(last) < MAX_ALBUM:
            last.append(medium)
        else:
            groups.append([medium])
    return groups


def album_parameters(group: Sequence[Medium], caption: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Upload]]:
    """What sendMediaGroup takes: its parameters, and what is sent along.

    Args:
        group: Two media or more.
        caption: Of the first: Telegram shows it under the album.
    """
    uploads: dict[str, Upload] = {}
    items: list[dict[str, Any]] = []
    for number, medium in enumerate(group):
        item: dict[str, Any] = {"type": medium.kind, "media": medium.reference}
        if (upload := medium.upload) is not None:
            uploads[f"file{number}"] = upload
            item["media"] = f"attach://file{number}"
        items.append({**item, **(caption if number == 0 else {})})
    return {"media": items}, uploads


def _media_of(response: InterfaceResponse) -> Iterator[Medium]:
    for image in response.images:
        yield Medium("photo", _as_media(image))
    for video in response.videos:
        yield Medium("video", video)
    for audio in response.audio:
        yield Medium("voice" if audio.media_type in VOICE_TYPES else "audio", audio)
    for file in response.files:
        yield Medium("document", file)


def _as_media(image: Image) -> Media:
    """An image, also one whose URL is its content."""
    url, data, media_type = image.url, image.data, image.media_type
    if data is None and url is not None and url.startswith("data:"):
        head, _, encoded = url.removeprefix("data:").partition(",")
        raw = unquote_to_bytes(encoded)
        url, data = None, b64decode(raw) if head.endswith(";base64") else raw
        media_type = head.partition(";")[0] or media_type
    return Media(data=data, url=url, media_type=media_type)
