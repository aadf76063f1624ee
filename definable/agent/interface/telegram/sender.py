"""What a response becomes in a chat: text, buttons and media (Bot API, sendMessage and its kin).

A reply that was made reaches the user: a topic or a message that is gone, and a medium that Telegram refuses, cost the
decoration and never the text.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from definable.agent.interface.errors import (
    InterfaceConnectionError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse
from definable.agent.interface.splitting import utf16_length
from definable.agent.interface.streamed_reply import parts_of
from definable.concurrency.logs import logger_named
from definable.json_text import json_bytes

from .buttons import keyboard
from .client import BotAPI, TelegramRefusal, Upload
from .config import TelegramConfig
from .formatting import Formatted, formatted
from .media import Medium, album_parameters, albums

logger: logging.Logger = logger_named(__name__)

MAX_CAPTION = 1024
"""UTF-16 code units (https://core.telegram.org/bots/api#sendphoto)."""

MAX_POSTED = 1000
"""Messages of which it is remembered what was posted last in answer to them."""

BUTTONS_ALONE = "…"
"""The text of buttons that have none: Telegram takes no message without."""

THREAD_GONE = ("message thread not found", "topic_closed", "topic_deleted", "topic_id_invalid")
"""Telegram's words where a topic cannot be written to (https://github.com/tdlib/telegram-bot-api/issues/854)."""

REPLIED_GONE = ("message to be replied not found", "replied message not found", "reply message not found")

NOT_SENT = (InterfaceMessageError, InterfaceConnectionError, InterfaceRateLimitError)
"""After these the text goes out without its medium."""

Place: TypeAlias = Mapping[str, Any]
"""Parameters that say where in a chat something goes."""


class Sender:
    """Sends responses.

    Args:
        api: The Bot API.
        config: The bot's.
    """

    def __init__(self, api: BotAPI, config: TelegramConfig) -> None:
        self._api = api
        self._config = config
        self._posted: OrderedDict[tuple[str, str], str] = OrderedDict()
        """The last message that was posted in answer to one: what comes under it are the buttons of the response."""

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        """Send a response of any length.

        Raises:
            TelegramRefusal: Telegram refuses it, say since the user has blocked the bot (403).
        """
        markup, written = keyboard(response.buttons) if response.buttons else (None, [])
        if written:
            lines = "\n".join([f"- {line}" for line in written])
            response = replace(response, content=f"{response.content}\n\n{lines}" if response.content else lines)
        texts = [part.content for part in parts_of(response, self._config.max_message_length) if part.content]
        has_media = response.images or response.videos or response.audio or response.files
        groups, unsent = albums(response) if has_media else [], list[str]()
        if self._is_one_message(message, texts, groups, markup):
            (group,), text = groups, "".join(texts)
            try:
                caption = partial(self._send_media, message, group, markup)
                await (self._formatted(text, caption, as_caption=True) if text else caption({}))
                return
            except NOT_SENT as error:
                if error.status == 403:
                    raise
                logger.warning("telegram: media are sent apart from their text: %s", error)
                if not isinstance(error, InterfaceMessageError):  # they may have arrived
                    groups, unsent = [], [medium.in_words for medium in group]
        await self._send_texts(message, texts, markup)
        for group in groups:
            unsent += await self._send_group(message, group)
        if unsent:
            await self._send_texts(message, ["\n".join(unsent)], None)

    def _is_one_message(
        self,
        message: InterfaceMessage,
        texts: Sequence[str],
        groups: Sequence[Sequence[Medium]],
        markup: Mapping[str, Any] | None,
    ) -> bool:
        """Whether text and buttons can go out under the media; an album has no buttons."""
        if len(groups) != 1 or len(texts) > 1 or (markup is not None and len(groups[0]) > 1):
            return False
        if markup is not None and not texts and self._posted_for(message) is not None:
            return False
        return not texts or utf16_length(self._look(texts[0]).text) <= MAX_CAPTION

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        """Send a text that will be edited; returns its id. None in groups: there a bot may send and edit 20 times a
        minute."""
        if is_in_group(message):
            return None
        sent: Any = await self._with_text(message, text, self._api.send_once)
        try:
            posted = str(int(sent["message_id"]))
        except (TypeError, LookupError, ValueError):
            raise InterfaceConnectionError(
                "sendMessage: Telegram answered with something else than a message"
            ) from None
        self._posted[message.platform_chat_id, message.platform_message_id] = posted
        if len(self._posted) > MAX_POSTED:
            self._posted.popitem(last=False)
        return posted

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        """Give a message another text, once; what it has already is no failure."""
        send = partial(self._api.send_once, "editMessageText", message.platform_chat_id)
        try:
            await self._formatted(text, lambda look: send({"message_id": int(posted), **look}))
        except TelegramRefusal as refusal:
            if not refusal.says("message is not modified"):
                raise

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        """Delete a message, once."""
        await self._api.send_once("deleteMessage", message.platform_chat_id, {"message_id": int(posted)})

    # --- text

    async def _send_texts(
        self, message: InterfaceMessage, texts: Sequence[str], markup: Mapping[str, Any] | None
    ) -> None:
        """Send texts, the last of them with the buttons; buttons alone go under what was posted."""
        for text in texts[:-1]:
            await self._with_text(message, text, self._api.send)
        if markup is None:
            if texts:
                await self._with_text(message, texts[-1], self._api.send)
            return
        posted = self._posted_for(message)
        if posted is not None and not texts:
            try:
                where = {"message_id": int(posted), "reply_markup": markup}
                await self._api.send("editMessageReplyMarkup", message.platform_chat_id, where)
            except TelegramRefusal as refusal:
                logger.info("telegram: buttons are sent by themselves: %s", refusal)
            else:
                return
        text = texts[-1] if texts else BUTTONS_ALONE
        try:
            await self._with_text(message, text, self._api.send, reply_markup=markup)
        except TelegramRefusal as refusal:  # say a button's URL
            if refusal.status == 403 or not refusal.says("button"):
                raise
            logger.warning("telegram: sent without its buttons: %s", refusal)
            await self._with_text(message, text, self._api.send)

    async def _with_text(
        self, message: InterfaceMessage, text: str, send: Callable[..., Awaitable[Any]], **more: Any
    ) -> Any:
        once = partial(send, "sendMessage", message.platform_chat_id)
        return await self._formatted(
            text, lambda look: _placed(place_in_chat(message), lambda place: once({**look, **place, **more}))
        )

    async def _formatted(
        self, text: str, send: Callable[[Mapping[str, Any]], Awaitable[Any]], *, as_caption: bool = False
    ) -> Any:
        """Send a text with its formatting; without, where Telegram cannot read that."""
        look = self._look(text)
        try:
            return await send(look.caption if as_caption else look.parameters)
        except TelegramRefusal as refusal:
            if not (look.entities and refusal.says("can't parse entities")):
                raise
        plain = Formatted(look.text)
        return await send(plain.caption if as_caption else plain.parameters)

    def _look(self, text: str) -> Formatted:
        limit = self._config.max_message_length
        return Formatted(text) if self._config.parse_mode is None else formatted(text, limit)

    # --- media

    async def _send_group(self, message: InterfaceMessage, group: Sequence[Medium]) -> list[str]:
        """Send media as one album, or one by one; returns in words what Telegram does not take."""
        if len(group) > 1:
            try:
                await self._send_media(message, group, None, {})
                return []
            except NOT_SENT as error:
                if error.status == 403:
                    raise
                logger.warning("telegram: an album is sent one by one: %s", error)
                if not isinstance(error, InterfaceMessageError):  # it may have arrived
                    return [medium.in_words for medium in group]
        return [line for medium in group for line in await self._send_alone(message, medium)]

    async def _send_alone(self, message: InterfaceMessage, medium: Medium) -> list[str]:
        """Send a medium, as a file where Telegram does not take it as what it is."""
        kinds = [medium, replace(medium, kind="document")]
        for attempt in kinds if medium.kind != "document" and medium.upload is not None else kinds[:1]:
            try:
                await self._send_media(message, [attempt], None, {})
                return []
            except NOT_SENT as error:
                if error.status == 403:
                    raise
                logger.warning("telegram: %s was not sent: %s", medium.media, error)
                if not isinstance(error, InterfaceMessageError):
                    break
        return [medium.in_words]

    async def _send_media(
        self,
        message: InterfaceMessage,
        group: Sequence[Medium],
        markup: Mapping[str, Any] | None,
        caption: Mapping[str, Any],
    ) -> None:
        """Send a medium or an album, in one request."""
        method, parameters, uploads = "sendMediaGroup", dict[str, Any](), dict[str, Upload]()
        if len(group) > 1:
            parameters, uploads = album_parameters(group, caption)
        else:
            (medium,) = group
            method, parameters = medium.method, dict(caption)
            if medium.upload is None:
                parameters[medium.kind] = medium.reference
            else:
                uploads[medium.kind] = medium.upload
        if markup is not None:
            parameters["reply_markup"] = markup
        if too_large := sum(len(data) for _, data, _ in uploads.values() if len(data) > self._api.max_upload):
            raise InterfaceMessageError(f"{method}: {too_large} bytes are more than Telegram takes", status=413)

        async def send(place: Place) -> None:
            given = {**parameters, **place}
            form = _as_form(given) if uploads else given
            await self._api.send(method, message.platform_chat_id, form, uploads or None)

        await _placed(place_in_chat(message), send)

    def _posted_for(self, message: InterfaceMessage) -> str | None:
        return self._posted.get((message.platform_chat_id, message.platform_message_id))


async def _placed(place: Place, send: Callable[[Place], Awaitable[Any]]) -> Any:
    """Send to a place in a chat; to the chat itself where its topic, or the message that is replied to, is gone."""
    try:
        return await send(place)
    except TelegramRefusal as refusal:
        if "message_thread_id" in place and any(refusal.says(words) for words in THREAD_GONE):
            elsewhere: Place = {}
        elif "reply_parameters" in place and any(refusal.says(words) for words in REPLIED_GONE):
            elsewhere = {name: value for name, value in place.items() if name != "reply_parameters"}
        else:
            raise
        logger.info("telegram: sent to the chat itself: %s", refusal)
    return await _placed(elsewhere, send)


def place_in_chat(message: InterfaceMessage) -> dict[str, Any]:
    """Where in a chat a response goes: to its topic, and in a group as a reply."""
    place: dict[str, Any] = {}
    if message.thread_id is not None:
        place["message_thread_id"] = int(message.thread_id)
    number = message.metadata.get("message_id", message.platform_message_id)
    if is_in_group(message) and str(number).isdecimal():
        place["reply_parameters"] = {"message_id": int(number), "allow_sending_without_reply": True}
    return place


def is_in_group(message: InterfaceMessage) -> bool:
    """Whether others read along."""
    return not message.is_direct


def _as_form(parameters: Place) -> dict[str, str]:
    """Parameters as a form carries them."""
    return {name: value if isinstance(value, str) else json_bytes(value).decode() for name, value in parameters.items()}
