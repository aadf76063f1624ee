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
        """Where in a message it belongs."""
        kind = self.media_type.partition("/")[0]
        return "images" if self.media_type in IMAGE_TYPES else {"audio": "audio", "video": "videos"}.get(kind, "files")

    def described(self, data: bytes | None = None) -> Media:
        """The file as a message carries it."""
        size = self.size if data is None else len(data)
        return Media(data, None, self.id, self.media_type, self.name, size, self.duration)

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("id", "media_type", "name", "url", "size", "duration")}


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
    files = [File(**fields) for fields in message.metadata.get("files", ())]
    found: dict[str, tuple[Any, ...]] = {"images": (), "audio": (), "videos": (), "files": ()}
    for file in files:
        data = await _content(file, api)
        if file.kind == "images" and data is not None:
            found["images"] += (Image(data=data, media_type=file.media_type),)
        else:
            found["files" if file.kind == "images" else file.kind] += (file.described(data),)
    return replace(message, **found) if files else message


async def _content(file: File, api: SlackAPI) -> bytes | None:
    if file.size is not None and file.size > MAX_FILE_SIZE:
        return None
    try:
        if file.url is None:  # of another organisation (https://docs.slack.dev/apis/slack-connect)
            file = _file_of(await api.call("files.info", file=file.id))
        data = await api.fetch(file.url) if file.url is not None else None
    except InterfaceError as error:
        logger.warning("slack: file %s could not be fetched: %s", file.id, error_text(error))
        return None
    if data is not None and data.lstrip()[:9].lower() == b"<!doctype" and "html" not in file.media_type:
        logger.warning("slack: file %s could not be fetched: is the scope files:read missing?", file.id)
        return None  # the page to sign in
    return data


def objects_of(value: object) -> list[Mapping[str, Any]]:
    return [object_of(each) for each in cast("list[object]", value)] if isinstance(value, list) else []


def object_of(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
