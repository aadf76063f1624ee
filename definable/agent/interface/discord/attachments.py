"""Attachments: what a message comes with, and the content of what the agent is to see of it.

Source: Discord's "Message" resource, Attachment; "Reference", Signed Attachment CDN URLs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from definable.agent.interface.errors import InterfaceMessageError
from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage, Media, QuotedMessage
from definable.concurrency.logs import logger_named
from definable.model.message import Image

from .fields import objects_of, text_of
from .rest import DiscordRest

logger: logging.Logger = logger_named(__name__)

MAX_IMAGE_SIZE = 20 * 1024 * 1024
"""Bytes of an image that is fetched."""

MAX_FILE_SIZE = 100_000
"""Bytes of a file that is fetched: the model reads it where it is text, say what Discord makes of a long paste."""

MAX_AUDIO_SIZE = 25_000_000
"""Bytes of a voice message that is fetched, where one is transcribed."""


def attachments(data: Mapping[str, Any]) -> tuple[tuple[Image, ...], list[Media]]:
    """The images and the other files of a message object."""
    images: list[Image] = []
    media: list[Media] = []
    for each in objects_of(data.get("attachments")):
        url = text_of(each.get("url"))
        kind = (text_of(each.get("content_type")) or "application/octet-stream").partition(";")[0].strip()
        if url is not None and kind in IMAGE_TYPES:
            images.append(Image(url=url, media_type=kind))
        elif url is not None:
            media.append(_media(each, url, kind))
    return tuple(images), media


async def completed(message: InterfaceMessage, rest: DiscordRest, *, with_audio: bool) -> InterfaceMessage:
    """A message with the content of its images and small files; an image that is too large, or gone, is a file.

    Discord's addresses are good for a day, and until the message is deleted; a provider that gets an address fetches it
    again with every later request of the conversation.

    Args:
        message: As it came.
        rest: Fetches.
        with_audio: Whether voice messages are transcribed.

    Raises:
        InterfaceError: Something could not be fetched just now.
    """
    images, lost = await _fetched_images(message.images, rest)
    audio = [await _fetched(each, rest, MAX_AUDIO_SIZE if with_audio else 0) for each in message.audio]
    files = [await _fetched(each, rest, MAX_FILE_SIZE) for each in message.files]
    context: list[QuotedMessage] = []
    for quoted in message.context:
        seen, unseen = await _fetched_images(quoted.images, rest)
        read = [await _fetched(each, rest, MAX_FILE_SIZE) for each in quoted.files]
        context.append(replace(quoted, images=seen, files=(*read, *unseen)))
    return replace(message, images=images, audio=tuple(audio), files=(*files, *lost), context=tuple(context))


async def _fetched_images(images: tuple[Image, ...], rest: DiscordRest) -> tuple[tuple[Image, ...], list[Media]]:
    found: list[Image] = []
    lost: list[Media] = []
    for image in images:
        file = Media(url=image.url, media_type=image.media_type, data=image.data)
        data = (await _fetched(file, rest, MAX_IMAGE_SIZE)).data
        if data is None:
            lost.append(file)
        else:
            found.append(Image(data=data, media_type=image.media_type))
    return tuple(found), lost


async def _fetched(media: Media, rest: DiscordRest, max_size: int) -> Media:
    """With its content, where that is not too much."""
    if media.data is not None or media.url is None or not (media.size or 0) <= max_size or max_size == 0:
        return media
    try:
        return replace(media, data=await rest.fetch(media.url, max_size))
    except InterfaceMessageError as gone:  # its message was deleted
        logger.info("discord: %s: %s", media, gone)
        return media


def _media(attachment: Mapping[str, Any], url: str, kind: str) -> Media:
    size, duration = attachment.get("size"), attachment.get("duration_secs")
    return Media(
        url=url,
        platform_id=text_of(attachment.get("id")),
        media_type=kind,
        filename=text_of(attachment.get("filename")),
        size=size if isinstance(size, int) else None,
        duration=float(duration) if isinstance(duration, int | float) else None,
    )
