"""Files that come with messages: described at first, and fetched once their user was let in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from definable.agent.interface.errors import InterfaceError
from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage, Media
from definable.concurrency.isolation import error_text
from definable.concurrency.logs import logger_named
from definable.model.message import Image

from .client import MAX_FILE_SIZE, SlackAPI

logger: logging.Logger = logger_named(__name__)

KINDS = ("audio", "videos", "files")


@dataclass(frozen=True, slots=True)
class File:
    """A file object (https://docs.slack.dev/reference/objects/file-object)."""

    id: str
    media_type: str
    name: str | None = None
    url: str | None = None
    """Private; None of a file of another organisation, which must be asked for."""
    size: int | None = None
    """Bytes."""
    duration: float | None = None
    """Seconds."""

    @property
    def kind(self) -> str:
        """Where in a message it belongs; an image is a file until it is fetched."""
        return {"audio": "audio", "video": "videos"}.get(self.media_type.partition("/")[0], "files")

    def described(self) -> Media:
        """The file as a message carries it."""
        return Media(None, self.url, self.id, self.media_type, self.name, self.size, self.duration)


def file_in(value: Mapping[str, Any]) -> File:
    size, duration = value.get("size"), value.get("duration_ms")
    media_type = text_of(value.get("mimetype")) or "application/octet-stream"
    if value.get("subtype") == "slack_audio":  # a voice clip, whose type is that of a video
        media_type = media_type.replace("video/", "audio/")
    return File(
        text_of(value.get("id")) or "",
        media_type,
        text_of(value.get("name")),
        text_of(value.get("url_private_download")) or text_of(value.get("url_private")),
        size if isinstance(size, int) else None,
        duration / 1000 if isinstance(duration, int | float) else None,
    )


def _file_of(answer: Mapping[str, Any]) -> File:
    """The file that `files.info` describes."""
    return file_in(object_of(answer.get("file")))


async def with_files(message: InterfaceMessage, api: SlackAPI) -> InterfaceMessage:
    """A message with the content of its files; of what cannot be fetched, its description."""
    images = list(message.images)
    found: dict[str, Any] = {}
    for kind in KINDS:
        kept: list[Media] = []
        for described in getattr(message, kind):
            medium: Media = await _fetched(described, api)
            if kind == "files" and medium.data is not None and medium.media_type in IMAGE_TYPES:
                images.append(Image(data=medium.data, media_type=medium.media_type))
            else:
                kept.append(medium)
        found[kind] = tuple(kept)
    return replace(message, images=tuple(images), **found)


async def _fetched(medium: Media, api: SlackAPI) -> Media:
    if medium.data is not None or medium.platform_id is None:
        return medium
    data = await _content(medium, medium.platform_id, api)
    return replace(medium, url=None) if data is None else replace(medium, url=None, data=data, size=len(data))


async def _content(medium: Media, id: str, api: SlackAPI) -> bytes | None:
    if medium.size is not None and medium.size > MAX_FILE_SIZE:
        return None
    try:
        url = medium.url
        if url is None:  # of another organisation (https://docs.slack.dev/apis/slack-connect)
            url = _file_of(await api.call("files.info", file=id)).url
        data = None if url is None else await api.fetch(url)
    except InterfaceError as error:
        logger.warning("slack: file %s could not be fetched: %s", id, error_text(error))
        return None
    if data is not None and data.lstrip()[:9].lower() == b"<!doctype" and "html" not in medium.media_type:
        logger.warning("slack: file %s could not be fetched: is the scope files:read missing?", id)
        return None  # the page to sign in
    return data


def objects_of(value: object) -> list[Mapping[str, Any]]:
    return [object_of(each) for each in cast("list[object]", value)] if isinstance(value, list) else []


def object_of(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
