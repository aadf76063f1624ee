"""Files that came with a message: described at first, and fetched once its user was let in."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
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
from .update import Content

logger: logging.Logger = logger_named(__name__)


def described(content: Content) -> dict[str, Any]:
    """The files of a message by its field that has them, without what is in them; images are among the others."""
    found: dict[str, tuple[Media, ...]] = {"audio": (), "videos": (), "files": ()}
    for kind, file, media_type, filename in content.files():
        found[kind] += (
            Media(
                platform_id=file.file_id,
                media_type=file.mime_type or media_type,
                filename=file.file_name or filename,
                size=file.file_size,
                duration=file.duration,
            ),
        )
    return found


async def with_attachments(message: InterfaceMessage, api: BotAPI) -> InterfaceMessage:
    """A message with the content of what came with it, and with what it replies to.

    Of what is too large it has the description, and a note that says so. What is replied to is described where it
    cannot be fetched: that is no reason not to answer.

    Raises:
        InterfaceError: A file of the message itself could not be fetched.
    """
    notes = list(message.notes)
    audio, videos, files = [
        [await _fetched(each, api, notes) for each in kind] for kind in (message.audio, message.videos, message.files)
    ]
    images, others = _sorted(files)
    context = [await _quoted(each, api, notes) for each in message.context]
    return replace(
        message,
        images=(*message.images, *images),
        audio=tuple(audio),
        videos=tuple(videos),
        files=others,
        context=tuple(context),
        notes=tuple(notes),
    )


async def _quoted(quoted: QuotedMessage, api: BotAPI, notes: list[str]) -> QuotedMessage:
    try:
        images, others = _sorted([await _fetched(each, api, notes) for each in quoted.files])
    except InterfaceError as error:
        logger.info("telegram: a file of a message that is replied to is missing: %s", error)
        return quoted
    return replace(quoted, images=(*quoted.images, *images), files=others)


async def _fetched(media: Media, api: BotAPI, notes: list[str]) -> Media:
    if media.platform_id is None or media.data is not None:
        return media
    is_too_large = media.size is not None and media.size > api.max_file_size
    data = None if is_too_large else await fetch(api, media.platform_id)
    if data is None:
        megabytes = api.max_file_size // (1024 * 1024)
        notes.append(f"{media.filename or 'a file'} was not read: files of more than {megabytes} MB cannot be")
        return media
    return replace(media, data=data, size=len(data))


def _sorted(files: Iterable[Media]) -> tuple[tuple[Image, ...], tuple[Media, ...]]:
    """Images, also those that were sent without compression, and other files."""
    images: list[Image] = []
    others: list[Media] = []
    for each in files:
        if each.media_type in IMAGE_TYPES and each.data is not None:
            images.append(Image(data=each.data, media_type=each.media_type))
        else:
            others.append(each)
    return tuple(images), tuple(others)


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
