"""What came with a message: described at first, fetched once its user was let in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from definable.agent.interface.media import Media
from definable.agent.interface.message import InterfaceMessage
from definable.model.message import Image

from .client import MAX_FILE_SIZE, BotAPI
from .failure import TelegramRefusal

Kind: TypeAlias = Literal["images", "audio", "videos", "files"]

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""What models can look at; other images are files."""


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


def kind_of_document(media_type: str | None) -> Kind:
    """Where a document belongs: an image sent without compression is an image still."""
    return "images" if media_type in IMAGE_TYPES else "files"


async def with_attachments(message: InterfaceMessage, api: BotAPI) -> InterfaceMessage:
    """A message with the content of what came with it; of what is too large for a bot, its description.

    Raises:
        InterfaceError: Something could not be fetched.
    """
    attachments = [Attachment(**fields) for fields in message.metadata.get("attachments", ())]
    found: dict[str, Any] = {"images": (), "audio": (), "videos": (), "files": ()}
    for each in attachments:
        data = await _content(each, api)
        if each.kind != "images":
            found[each.kind] += (each.described(data),)
        elif data is None:
            found["files"] += (each.described(),)
        else:
            found["images"] += (Image(data=data, media_type=each.media_type),)
    return replace(message, **found) if attachments else message


async def _content(attachment: Attachment, api: BotAPI) -> bytes | None:
    if attachment.size is not None and attachment.size > MAX_FILE_SIZE:
        return None
    try:
        file = await api.call("getFile", {"file_id": attachment.file_id})
    except TelegramRefusal as refusal:
        if refusal.says("file is too big"):
            return None
        raise
    path = file.get("file_path")
    return await api.fetch(path) if isinstance(path, str) else None
