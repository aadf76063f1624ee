"""What a response becomes in a chat: text first, then its media (Bot API, sendMessage and its kin)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from definable.agent.interface.errors import InterfaceConnectionError
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse, Media
from definable.agent.interface.rendering import pages
from definable.agent.interface.rich_text import Entity
from definable.agent.interface.splitting import utf16_length
from definable.agent.interface.streamed_reply import parts_of
from definable.json_text import json_bytes

from .client import BotAPI, TelegramRefusal
from .config import TelegramConfig

VOICE_TYPES = frozenset({"audio/ogg", "audio/opus"})
"""What Telegram plays as a voice message (https://core.telegram.org/bots/api#sendvoice)."""

MAX_ENTITIES = 100
"""Of one message: Telegram drops those that come after them (https://limits.tginfo.me/en)."""

SOLID = ("pre", "code")
"""They have no other entity within them, and only a quotation around them (Bot API, Formatting options)."""

Place: TypeAlias = Mapping[str, Any]
"""Parameters that say where in a chat something goes."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends responses."""

    api: BotAPI
    config: TelegramConfig

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        """Send a response of any length.

        Raises:
            TelegramRefusal: Telegram refuses it, say since the user has blocked the bot (403).
        """
        chat_id, place = message.platform_chat_id, place_in_chat(message)
        for part in parts_of(response, self.config.max_message_length):
            if part.content:
                await self._with_text(part.content, place, partial(self.api.send, "sendMessage", chat_id))
        for method, parameter, medium in _media_of(response):
            await self._send_medium(chat_id, method, parameter, medium, place)

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        """Send a text that will be edited; returns its id. None in groups: there a bot may send and edit 20 times a
        minute."""
        if is_in_group(message):
            return None
        send = partial(self.api.send_once, "sendMessage", message.platform_chat_id)
        sent: Any = await self._with_text(text, place_in_chat(message), send)
        try:
            return str(int(sent["message_id"]))
        except (TypeError, LookupError, ValueError):
            raise InterfaceConnectionError(
                "sendMessage: Telegram answered with something else than a message"
            ) from None

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        """Give a message another text, once; what it has already is no failure."""
        send = partial(self.api.send_once, "editMessageText", message.platform_chat_id)
        try:
            await self._with_text(text, {"message_id": int(posted)}, send)
        except TelegramRefusal as refusal:
            if not refusal.says("message is not modified"):
                raise

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        """Delete a message, once."""
        await self.api.send_once("deleteMessage", message.platform_chat_id, {"message_id": int(posted)})

    async def _with_text(self, text: str, place: Place, send: Callable[[Mapping[str, Any]], Awaitable[Any]]) -> Any:
        """Send a text with its formatting; without, where Telegram cannot read that."""
        limit = self.config.max_message_length
        look = Formatted(text) if self.config.parse_mode is None else formatted(text, limit)
        try:
            return await send({**look.parameters, **place})
        except TelegramRefusal as refusal:
            if not (look.entities and refusal.says("can't parse entities")):
                raise
        return await send({"text": look.text, **place})

    async def _send_medium(self, chat_id: str, method: str, parameter: str, medium: Media, place: Place) -> None:
        if medium.data is None:
            await self.api.send(method, chat_id, {parameter: medium.platform_id or medium.url, **place})
        else:
            upload = (medium.filename or parameter, medium.data, medium.media_type)
            await self.api.send(method, chat_id, _as_form(place), {parameter: upload})


def place_in_chat(message: InterfaceMessage) -> dict[str, Any]:
    """Where in a chat a response goes: to its topic, and in a group as a reply."""
    place: dict[str, Any] = {}
    thread = message.metadata.get("message_thread_id")
    if thread is not None:
        place["message_thread_id"] = thread
    if is_in_group(message):
        place["reply_parameters"] = {
            "message_id": int(message.platform_message_id),
            "allow_sending_without_reply": True,
        }
    return place


def is_in_group(message: InterfaceMessage) -> bool:
    """Whether others read along."""
    return message.metadata.get("chat_type", "private") != "private"


def _media_of(response: InterfaceResponse) -> Iterator[tuple[str, str, Media]]:
    """Each medium with the method that sends it and its parameter there."""
    for image in response.images:
        yield "sendPhoto", "photo", Media(data=image.data, url=image.url, media_type=image.media_type)
    for audio in response.audio:
        is_voice = audio.media_type in VOICE_TYPES
        yield ("sendVoice", "voice", audio) if is_voice else ("sendAudio", "audio", audio)
    for video in response.videos:
        yield "sendVideo", "video", video
    for file in response.files:
        yield "sendDocument", "document", file


def _as_form(parameters: Place) -> dict[str, str]:
    """Parameters as a form carries them."""
    return {name: value if isinstance(value, str) else json_bytes(value).decode() for name, value in parameters.items()}


@dataclass(frozen=True, slots=True)
class Formatted:
    """A text and how it looks."""

    text: str
    entities: tuple[Entity, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """As sendMessage and editMessageText take it."""
        entities = [_parameters(entity) for entity in self.entities]
        return {"text": self.text, **({"entities": entities} if entities else {})}


def formatted(markdown: str, limit: int) -> Formatted:
    """Markdown as text with entities; as it stands when it cannot be converted, or would become too long.

    Args:
        markdown: What a model wrote.
        limit: UTF-16 code units that the result may have.
    """
    for page in pages(markdown):
        text = page.text.rstrip()
        if text and utf16_length(text) <= limit:
            return within_limits(markdown, text, page.entities)
    return Formatted(markdown)


def _parameters(entity: Entity) -> dict[str, Any]:
    extra = {"url": entity.url, "language": entity.language}
    chosen = {name: value for name, value in extra.items() if value}
    return {"type": entity.type, "offset": entity.offset, "length": entity.length, **chosen}


def within_limits(markdown: str, text: str, entities: Iterable[Entity]) -> Formatted:
    """With as many entities as a message has room for: a link that was left out would be lost, so all goes as it is."""
    valid = sorted(_valid(entities, utf16_length(text)), key=lambda each: (each.offset, -each.length))
    if len(valid) > MAX_ENTITIES:
        links = [each for each in valid if each.url is not None]
        if len(links) > MAX_ENTITIES:
            return Formatted(markdown)
        ranked = sorted(valid, key=lambda each: (each.url is None, each.type not in SOLID))
        valid = sorted(ranked[:MAX_ENTITIES], key=lambda each: (each.offset, -each.length))
    return Formatted(text, tuple(valid))


def _valid(entities: Iterable[Entity], length: int) -> Iterator[Entity]:
    """Entities within the text, and what is bold or the like cut where code is."""
    entities = [replace(each, length=min(each.end, length) - each.offset) for each in entities]
    links = [each for each in entities if each.url is not None]
    solid = [each for each in entities if each.type in SOLID and not any(_overlap(each, link) for link in links)]
    for entity in entities:
        if entity.type in SOLID:
            if entity in solid and entity.length > 0:
                yield entity
        elif entity.url is not None or entity.type == "blockquote":
            if entity.length > 0:
                yield entity
        else:
            yield from _outside(entity, solid)


def _outside(entity: Entity, solid: Iterable[Entity]) -> Iterator[Entity]:
    at = entity.offset
    for each in sorted(solid, key=lambda each: each.offset):
        if _overlap(entity, each):
            if each.offset > at:
                yield replace(entity, offset=at, length=each.offset - at)
            at = max(at, each.end)
    if at < entity.end:
        yield replace(entity, offset=at, length=entity.end - at)


def _overlap(one: Entity, other: Entity) -> bool:
    return one.offset < other.end and other.offset < one.end
