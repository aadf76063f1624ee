"""What an update holds, as an `InterfaceMessage`: pure (https://core.telegram.org/bots/api#update).

What came with a message is described at first, and fetched once its user was let in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, cast

from pydantic import BaseModel, Field, ValidationError

from definable.agent.interface.errors import InterfaceMessageError
from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage, Media
from definable.model.message import Image

from .client import MAX_FILE_SIZE, BotAPI

Kind: TypeAlias = Literal["images", "audio", "videos", "files"]


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
        is_too_large = each.size is not None and each.size > MAX_FILE_SIZE
        data = None if is_too_large else await api.fetch(each.file_id)
        if each.kind != "images":
            found[each.kind] += (each.described(data),)
        elif data is None:
            found["files"] += (each.described(),)
        else:
            found["images"] += (Image(data=data, media_type=each.media_type),)
    return replace(message, **found) if attachments else message


ALLOWED_UPDATES = ["message"]
"""Must be sent with every poll: Telegram remembers the last one."""


class _File(BaseModel):
    file_id: str
    file_size: int | None = None
    mime_type: str | None = None
    file_name: str | None = None
    duration: float | None = None


class _User(BaseModel):
    id: int
    is_bot: bool = False
    username: str | None = None
    first_name: str = ""
    last_name: str | None = None

    @property
    def display_name(self) -> str | None:
        """What Telegram shows; many users have no username."""
        return " ".join(filter(None, (self.first_name, self.last_name))) or None


class _Chat(BaseModel):
    id: int
    type: str = "private"


class _Reference(BaseModel):
    message_id: int


class _Message(BaseModel):
    message_id: int
    date: float
    chat: _Chat
    sender: _User | None = Field(default=None, alias="from")
    text: str | None = None
    caption: str | None = None
    photo: list[_File] = []
    voice: _File | None = None
    audio: _File | None = None
    video: _File | None = None
    video_note: _File | None = None
    document: _File | None = None
    reply_to_message: _Reference | None = None
    message_thread_id: int | None = None
    is_topic_message: bool = False


def update_id_of(update: Any) -> int | None:
    """An update's number; None when it is no update."""
    number = cast("dict[str, Any]", update).get("update_id") if isinstance(update, dict) else None
    return number if isinstance(number, int) else None


def message_of(update: Any, platform: str) -> InterfaceMessage | None:
    """The message of a person that an update brings; None when it brings something else.

    Raises:
        InterfaceMessageError: The update is malformed.
    """
    message = _parsed(update)
    if message is None or message.sender is None or message.sender.is_bot:
        return None
    text, attachments = message.text or message.caption, tuple(_attachments(message))
    if not text and not attachments:
        return None
    described: dict[str, Any] = {"audio": (), "videos": (), "files": ()}
    for each in attachments:
        if each.kind != "images":
            described[each.kind] += (each.described(),)
    return InterfaceMessage(
        platform=platform,
        platform_user_id=str(message.sender.id),
        platform_chat_id=str(message.chat.id),
        platform_message_id=str(message.message_id),
        text=text,
        username=message.sender.username or message.sender.display_name,
        reply_to_message_id=None if message.reply_to_message is None else str(message.reply_to_message.message_id),
        metadata={
            "update_id": update_id_of(update),
            "chat_type": message.chat.type,
            "display_name": message.sender.display_name,
            "message_thread_id": message.message_thread_id if message.is_topic_message else None,
            "attachments": [asdict(each) for each in attachments],
        },
        created_at=message.date,
        **described,
    )


def _parsed(update: Any) -> _Message | None:
    if not isinstance(update, dict):
        raise InterfaceMessageError(f"not an update: {type(update).__name__}")
    fields = cast("dict[str, Any]", update)
    try:
        return _Message.model_validate(fields["message"]) if "message" in fields else None
    except ValidationError as error:
        wrong = sorted({".".join(map(str, each["loc"])) or "message" for each in error.errors()})
        raise InterfaceMessageError(f"update {update_id_of(fields)} is malformed: {', '.join(wrong)}") from None


def _attachments(message: _Message) -> list[Attachment]:
    found: list[Attachment] = []
    if message.photo:  # the same in several sizes, the largest last
        found.append(_attachment("images", message.photo[-1], "image/jpeg", None))
    if message.voice is not None:
        found.append(_attachment("audio", message.voice, "audio/ogg", "voice.ogg"))
    if message.audio is not None:
        found.append(_attachment("audio", message.audio, "audio/mpeg", "audio.mp3"))
    found += [
        _attachment("videos", video, "video/mp4", "video.mp4")
        for video in (message.video, message.video_note)
        if video is not None
    ]
    if message.document is not None:
        kind = kind_of_document(message.document.mime_type)
        found.append(_attachment(kind, message.document, "application/octet-stream", None))
    return found


def _attachment(kind: Any, file: _File, media_type: str, filename: str | None) -> Attachment:
    return Attachment(
        kind=kind,
        file_id=file.file_id,
        media_type=file.mime_type or media_type,
        filename=file.file_name or filename,
        size=file.file_size,
        duration=file.duration,
    )
