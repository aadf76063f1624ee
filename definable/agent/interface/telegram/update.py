"""What an update holds, as pydantic models (https://core.telegram.org/bots/api#update): pure.

Only what is used of it. `received.py` makes an `InterfaceMessage` of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, cast

from pydantic import BaseModel, Field, ValidationError

from definable.agent.interface.errors import InterfaceMessageError

MESSAGES = ("message", "edited_message", "channel_post", "edited_channel_post")
"""Updates that hold a `Message`."""

ALLOWED_UPDATES = [*MESSAGES, "callback_query", "my_chat_member"]
"""Must be sent with every poll: Telegram remembers the last one."""

Kind: TypeAlias = Literal["audio", "videos", "files"]


class _Part(BaseModel):
    """A part of an update; fields that are not named here are left out."""


class User(_Part):
    """https://core.telegram.org/bots/api#user"""

    id: int
    is_bot: bool = False
    username: str | None = None
    first_name: str = ""
    last_name: str | None = None
    language_code: str | None = None
    can_read_all_group_messages: bool | None = None
    """Of the bot itself: not so with privacy mode."""

    @property
    def display_name(self) -> str | None:
        """What Telegram shows; many users have no username."""
        return " ".join(filter(None, (self.first_name, self.last_name))) or None


class Chat(_Part):
    """https://core.telegram.org/bots/api#chat"""

    id: int
    type: str = "private"
    title: str | None = None
    username: str | None = None

    @property
    def display_name(self) -> str | None:
        """What Telegram shows of it as an author."""
        return self.title or self.username


class Entity(_Part):
    """https://core.telegram.org/bots/api#messageentity; offset and length are UTF-16 code units."""

    type: str
    offset: int
    length: int
    url: str | None = None
    user: User | None = None


class File(_Part):
    """What PhotoSize, Voice, Audio, Video, VideoNote, Animation and Document have in common."""

    file_id: str
    file_size: int | None = None
    mime_type: str | None = None
    file_name: str | None = None
    duration: float | None = None


class Sticker(_Part):
    emoji: str | None = None


class Location(_Part):
    latitude: float
    longitude: float
    live_period: int | None = None


class Venue(_Part):
    title: str
    address: str = ""

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.title, self.address)))


class Contact(_Part):
    phone_number: str
    first_name: str = ""
    last_name: str | None = None

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.first_name, self.last_name, self.phone_number)))


class PollOption(_Part):
    text: str


class Poll(_Part):
    question: str
    options: list[PollOption] = []


class Dice(_Part):
    emoji: str
    value: int


class ChecklistTask(_Part):
    text: str
    completion_date: int = 0


class Checklist(_Part):
    title: str
    tasks: list[ChecklistTask] = []


class Game(_Part):
    title: str


class Origin(_Part):
    """Who wrote a forwarded message (https://core.telegram.org/bots/api#messageorigin)."""

    sender_user: User | None = None
    sender_user_name: str | None = None
    sender_chat: Chat | None = None
    chat: Chat | None = None

    @property
    def author(self) -> str | None:
        """The name that Telegram shows."""
        known = self.sender_user or self.sender_chat or self.chat
        return self.sender_user_name if known is None else known.display_name


class Quote(_Part):
    """https://core.telegram.org/bots/api#textquote"""

    text: str


class Content(_Part):
    """What a message and one of another chat that it replies to (ExternalReplyInfo) may hold beside text."""

    photo: list[File] = []
    voice: File | None = None
    audio: File | None = None
    video: File | None = None
    video_note: File | None = None
    animation: File | None = None
    document: File | None = None
    sticker: Sticker | None = None
    location: Location | None = None
    venue: Venue | None = None
    contact: Contact | None = None
    poll: Poll | None = None
    dice: Dice | None = None
    checklist: Checklist | None = None
    game: Game | None = None
    story: dict[str, Any] | None = None

    def files(self) -> Iterator[tuple[Kind, File, str, str | None]]:
        """Each file with its kind, and the MIME type and name of one that Telegram does not say them of."""
        if self.photo:  # the same in several sizes, the largest last
            yield "files", self.photo[-1], "image/jpeg", None
        if self.voice is not None:
            yield "audio", self.voice, "audio/ogg", "voice.ogg"
        if self.audio is not None:
            yield "audio", self.audio, "audio/mpeg", "audio.mp3"
        for video in (self.video, self.video_note, self.animation):
            if video is not None:
                yield "videos", video, "video/mp4", "video.mp4"
        if self.document is not None and self.animation is None:  # an animation is there twice
            yield "files", self.document, "application/octet-stream", None

    def notes(self) -> Iterator[str]:
        """What has no text, in words."""
        if self.location is not None:
            where = f"{self.location.latitude:g}, {self.location.longitude:g}"
            yield f"location {where}" if self.venue is None else f"location {where} ({self.venue.name})"
        if self.contact is not None:
            yield f"contact {self.contact.name}"
        if self.poll is not None:
            yield f"poll {self.poll.question!r}: {', '.join(option.text for option in self.poll.options)}"
        if self.checklist is not None:
            tasks = [f"[{'x' if task.completion_date else ' '}] {task.text}" for task in self.checklist.tasks]
            yield f"checklist {self.checklist.title!r}: {', '.join(tasks)}"
        if self.sticker is not None:
            yield f"sticker {self.sticker.emoji or ''}".rstrip()
        if self.dice is not None:
            yield f"{self.dice.emoji} that shows {self.dice.value}"
        if self.game is not None:
            yield f"game {self.game.title!r}"
        if self.story is not None:
            yield "story"


class ExternalReply(Content):
    """A message of another chat or topic that is replied to (https://core.telegram.org/bots/api#externalreplyinfo)."""

    origin: Origin
    message_id: int | None = None


class Button(_Part):
    """https://core.telegram.org/bots/api#inlinekeyboardbutton"""

    text: str
    callback_data: str | None = None


class Keyboard(_Part):
    inline_keyboard: list[list[Button]] = []


class Message(Content):
    """https://core.telegram.org/bots/api#message"""

    message_id: int
    date: float
    chat: Chat
    sender: User | None = Field(default=None, alias="from")
    sender_chat: Chat | None = None
    text: str | None = None
    entities: list[Entity] = []
    caption: str | None = None
    caption_entities: list[Entity] = []
    message_thread_id: int | None = None
    is_topic_message: bool = False
    is_automatic_forward: bool = False
    edit_date: int | None = None
    media_group_id: str | None = None
    reply_to_message: Message | None = None
    external_reply: ExternalReply | None = None
    quote: Quote | None = None
    forward_origin: Origin | None = None
    forum_topic_created: dict[str, Any] | None = None
    migrate_to_chat_id: int | None = None
    reply_markup: Keyboard | None = None

    @property
    def author(self) -> User | Chat | None:
        """Who writes: a channel, or an administrator who stays anonymous, as the chat that is shown."""
        return self.sender_chat or self.sender


class CallbackQuery(_Part):
    """A button was pressed (https://core.telegram.org/bots/api#callbackquery)."""

    id: str
    sender: User = Field(alias="from")
    data: str | None = None
    message: Message | None = None
    """The button's; of one that is too old, without its text."""


class ChatMember(_Part):
    status: str
    is_member: bool = True


class ChatMemberUpdated(_Part):
    """https://core.telegram.org/bots/api#chatmemberupdated"""

    chat: Chat
    new_chat_member: ChatMember

    @property
    def is_gone(self) -> bool:
        """Whether the bot was removed from a group, or blocked by a user."""
        return self.new_chat_member.status in ("kicked", "left")


def update_id_of(update: Any) -> int | None:
    """An update's number; None when it is no update."""
    number = cast("dict[str, Any]", update).get("update_id") if isinstance(update, dict) else None
    return number if isinstance(number, int) else None


def parsed(update: Any) -> Message | CallbackQuery | ChatMemberUpdated | None:
    """What an update holds; None of a kind that is not used.

    Raises:
        InterfaceMessageError: The update is malformed.
    """
    if not isinstance(update, dict):
        raise InterfaceMessageError(f"not an update: {type(update).__name__}")
    fields = cast("dict[str, Any]", update)
    kind = next((name for name in ALLOWED_UPDATES if name in fields), None)
    if kind is None:
        return None
    model = {"callback_query": CallbackQuery, "my_chat_member": ChatMemberUpdated}.get(kind, Message)
    try:
        return model.model_validate(fields[kind])
    except ValidationError as error:
        wrong = sorted({".".join(map(str, each["loc"])) or kind for each in error.errors()})
        raise InterfaceMessageError(f"update {update_id_of(fields)} is malformed: {', '.join(wrong)}") from None
