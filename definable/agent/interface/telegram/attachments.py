"""Files that came with a message: described at first, and fetched once its user was let in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, cast

import anyio

from definable.agent.interface.errors import (
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
    retried,
)
from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage, Media, QuotedMessage
from definable.concurrency.logs import logger_named
from definable.model.message import Image

from .client import RETRY_BACKOFF, BotAPI, TelegramRefusal
from .config import TelegramConfig
from .update import Content, Kind

logger: logging.Logger = logger_named(__name__)

OWN, OF_CONTEXT = "attachments", "context_attachments"
"""Where a message's `metadata` has them: its own, and a list for each message of its context."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file on Telegram's servers."""

    kind: Kind
    file_id: str
    media_type: str
    filename: str | None = None
    size: int | None = None
    """Bytes, as Telegram says."""
    duration: float | None = None
    """Seconds."""

    def described(self, data: bytes | None = None) -> Media:
        """The attachment as a message carries it."""
        return Media(
            data=data,
            platform_id=self.file_id,
            media_type=self.media_type,
            filename=self.filename,
            size=self.size if data is None else len(data),
            duration=self.duration,
        )


def attachments_of(content: Content) -> list[Attachment]:
    """The files of a message; an image that was sent without compression is an image still."""
    found: list[Attachment] = []
    for kind, file, media_type, filename in content.files():
        said = file.mime_type or media_type
        is_image = kind == "files" and said in IMAGE_TYPES
        where: Kind = "images" if is_image else kind
        found.append(Attachment(where, file.file_id, said, file.file_name or filename, file.file_size, file.duration))
    return found


def described(attachments: Iterable[Attachment]) -> dict[str, Any]:
    """Files by the field of a message that has them, without content; images are there once they were fetched."""
    found: dict[str, Any] = {"audio": (), "videos": (), "files": ()}
    for each in attachments:
        if each.kind != "images":
            found[each.kind] += (each.described(),)
    return found


def as_json(attachments: Iterable[Attachment]) -> list[dict[str, Any]]:
    """Attachments as a message's metadata keeps them."""
    return [asdict(each) for each in attachments]


async def with_attachments(message: InterfaceMessage, api: BotAPI) -> InterfaceMessage:
    """A message with the content of what came with it, and with what it replies to.

    Of what is too large it has the description, and a note that says so. What is replied to is described where it
    cannot be fetched: that is no reason not to answer.

    Raises:
        InterfaceError: A file of the message itself could not be fetched.
    """
    notes = list(message.notes)
    own = [Attachment(**fields) for fields in message.metadata.get(OWN, ())]
    found = await _fetched(own, api, notes)
    context = list(message.context)
    for index, kept in enumerate(message.metadata.get(OF_CONTEXT, ())[: len(context)]):
        context[index] = await _quoted(context[index], kept, api, notes)
    return replace(message, **found, context=tuple(context), notes=tuple(notes))


async def _quoted(
    quoted: QuotedMessage, kept: Iterable[Mapping[str, Any]], api: BotAPI, notes: list[str]
) -> QuotedMessage:
    attachments = [Attachment(**fields) for fields in kept]
    try:
        found = await _fetched(attachments, api, notes)
    except InterfaceError as error:
        logger.info("telegram: a file of a message that is replied to is missing: %s", error)
        found = {"files": tuple([each.described() for each in attachments])}
    files = (*found.get("audio", ()), *found.get("videos", ()), *found.get("files", ()))
    return replace(quoted, images=found.get("images", ()), files=files) if attachments else quoted


async def _fetched(attachments: Iterable[Attachment], api: BotAPI, notes: list[str]) -> dict[str, tuple[Any, ...]]:
    """Files by the field of a message that has them."""
    found: dict[str, tuple[Any, ...]] = {}
    for each in attachments:
        is_too_large = each.size is not None and each.size > api.max_file_size
        data = None if is_too_large else await fetch(api, each.file_id)
        if data is None:
            megabytes = api.max_file_size // (1024 * 1024)
            notes.append(f"{each.filename or 'a file'} was not read: files of more than {megabytes} MB cannot be")
        if each.kind == "images" and data is not None:
            found["images"] = (*found.get("images", ()), Image(data=data, media_type=each.media_type))
        else:
            kind = "files" if each.kind == "images" else each.kind
            found[kind] = (*found.get(kind, ()), each.described(data))
    return found


async def fetch(api: BotAPI, file_id: str) -> bytes | None:
    """Fetch a file; None when it is too large, or Telegram gives no path.

    Raises:
        InterfaceError: It could not be fetched.
    """
    get_file = partial(api.call, "getFile", {"file_id": file_id})
    try:
        file = await retried(get_file, RETRY_BACKOFF, InterfaceConnectionError, InterfaceRateLimitError)
    except TelegramRefusal as refusal:
        if refusal.says("file is too big"):
            return None
        raise
    path = cast("dict[str, Any]", file).get("file_path") if isinstance(file, dict) else None
    if not isinstance(path, str):
        return None
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        return await _read(path, api.config)
    return await api.download(path)


async def _read(path: str, config: TelegramConfig) -> bytes | None:
    """Read a file that a server with `--local` has put on this machine's disk; None when it is too large."""
    shown = path.replace(config.bot_token, "<token>")
    if not config.has_own_server:
        raise InterfaceMessageError(f"getFile: Telegram's own server names a file of this machine, {shown}")
    try:
        file = await anyio.Path(path).resolve(strict=True)
        if config.local_files is not None:
            directory = await anyio.Path(config.local_files).resolve()
            if not file.is_relative_to(directory):
                raise InterfaceMessageError(f"getFile: {shown} is not in local_files={str(directory)!r}")
        size = (await file.stat()).st_size
        return None if size > config.max_file_size else await file.read_bytes()
    except OSError as error:
        raise InterfaceMessageError(
            f"getFile: the server has put a file at {shown}, which cannot be read here ({error.strerror}): give this "
            "process its directory under the same path, or run the server without --local"
        ) from None
