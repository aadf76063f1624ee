"""What a response becomes in a chat: text first, then its media (Bot API, sendMessage and its kin).

Markdown is sent as text with entities that say what is bold (Bot API, MessageEntity). Entities rather than
`parse_mode`: nothing needs to be escaped, so no text of a model's can break the message.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from definable.agent.interface.errors import InterfaceConnectionError
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse, Media
from definable.agent.interface.splitting import utf16_length
from definable.concurrency.logs import logger_named
from definable.json_text import json_bytes

from .client import BotAPI, TelegramRefusal
from .config import TelegramConfig

if TYPE_CHECKING:
    from telegramify_markdown.config import RenderConfig

logger: logging.Logger = logger_named(__name__)

VOICE_TYPES = frozenset({"audio/ogg", "audio/opus"})
"""What Telegram plays as a voice message (https://core.telegram.org/bots/api#sendvoice)."""

Place: TypeAlias = Mapping[str, Any]
"""Parameters that say where in a chat something goes."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends responses."""

    api: BotAPI
    config: TelegramConfig

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        """Send a response; to a user who has blocked the bot, nothing."""
        chat_id, place = message.platform_chat_id, place_in_chat(message)
        try:
            if response.content and response.content.strip():
                await self._with_text(response.content, place, partial(self.api.send, "sendMessage", chat_id))
            for method, parameter, medium in _media_of(response):
                await self._send_medium(chat_id, method, parameter, medium, place)
        except TelegramRefusal as refusal:
            if refusal.status != 403:
                raise
            logger.warning("telegram: chat %s cannot be written to: %s", chat_id, refusal.description)

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


class Entity(Protocol):
    """What the converter gives; its own type does not say what its parts are."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Formatted:
    """A text and how it looks."""

    text: str
    entities: tuple[dict[str, Any], ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """As sendMessage and editMessageText take it."""
        return {"text": self.text, **({"entities": list(self.entities)} if self.entities else {})}


def formatted(markdown: str, limit: int) -> Formatted:
    """Markdown as text with entities; as it stands when it cannot be converted, or would become too long.

    Args:
        markdown: What a model wrote.
        limit: UTF-16 code units that the result may have.
    """
    config = _render_config()
    if config is None:
        return Formatted(markdown)
    try:
        from telegramify_markdown import convert  # the extra `telegram`

        text, entities = convert(markdown, config=config)
    except Exception:
        logger.warning("a reply could not be formatted, it is sent as it is", exc_info=True)
        return Formatted(markdown)
    if not text.strip() or utf16_length(text) > limit:
        return Formatted(markdown)
    return Formatted(text, tuple(cast("Entity", entity).to_dict() for entity in entities))


@cache
def _render_config() -> RenderConfig | None:
    """Without the pictures that the library puts before headings; None when it is not installed."""
    try:
        from telegramify_markdown.config import RenderConfig  # the extra `telegram`
    except ImportError:
        logger.warning("telegram: replies are sent unformatted: pip install 'definable[telegram]'")
        return None
    config = RenderConfig.isolated()
    symbols = config.markdown_symbol
    symbols.heading_level_1 = symbols.heading_level_2 = symbols.heading_level_3 = symbols.heading_level_4 = ""
    symbols.unordered_list_item = "•"
    return config
