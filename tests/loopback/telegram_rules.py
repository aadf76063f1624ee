"""What the Bot API refuses (https://core.telegram.org/bots/api): parameters and messages, checked as Telegram does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

MAX_TEXT = 4096
"""UTF-16 code units."""

JSON_PARAMETERS = (
    "entities",
    "caption_entities",
    "reply_parameters",
    "allowed_updates",
    "reply_markup",
    "link_preview_options",
    "media",
    "commands",
)

MAX_CAPTION = 1024

ALBUMS = ({"photo", "video"}, {"audio"}, {"document"})
"""What an album may hold (https://core.telegram.org/bots/api#sendmediagroup)."""

MEDIA = {
    "sendPhoto": "photo",
    "sendAudio": "audio",
    "sendVoice": "voice",
    "sendVideo": "video",
    "sendDocument": "document",
}


class BadRequest(Exception):
    """Telegram's description, less its "Bad Request: "."""


def parameters_of(headers: Mapping[str, str], query: str, body: bytes) -> dict[str, Any]:
    """A method's parameters, however they came: query, form, multipart or JSON."""
    parameters: dict[str, Any] = dict(parse_qsl(query))
    content_type = headers.get("content-type", "")
    if content_type.startswith("application/json"):
        try:
            parameters |= json.loads(body)
        except ValueError:
            raise BadRequest("can't parse JSON object") from None
    elif content_type.startswith("application/x-www-form-urlencoded"):
        parameters |= dict(parse_qsl(body.decode()))
    elif content_type.startswith("multipart/form-data"):
        parameters |= _multipart(content_type, body)
    for name in JSON_PARAMETERS:
        if isinstance(parameters.get(name), str):
            parameters[name] = json.loads(parameters[name])
    if str(parameters.get("message_id", "")).isdecimal():
        parameters["message_id"] = int(parameters["message_id"])
    return parameters


def check_send(method: str, parameters: Mapping[str, Any]) -> None:
    """Refuse what cannot be sent."""
    if not str(parameters.get("chat_id", "")).lstrip("-").isdecimal():
        raise BadRequest("chat_id is empty")
    if method in ("sendMessage", "editMessageText"):
        _check_text(parameters.get("text"), parameters.get("entities") or [])
    elif method in MEDIA:
        medium = parameters.get(MEDIA[method])
        if not medium:
            raise BadRequest(f"there is no {MEDIA[method]} in the request")
        _check_caption(parameters)
    elif method == "sendMediaGroup":
        _check_album(parameters)
    elif method not in ("deleteMessage", "editMessageReplyMarkup"):
        raise BadRequest("method not found")
    _check_keyboard(parameters.get("reply_markup"))
    if method in ("editMessageText", "editMessageReplyMarkup", "deleteMessage") and not isinstance(
        parameters.get("message_id"), int
    ):
        raise BadRequest("message identifier is not specified")
    reply = parameters.get("reply_parameters")
    if reply is not None and not isinstance(reply.get("message_id"), int):
        raise BadRequest("can't parse reply parameters")


def _check_caption(parameters: Mapping[str, Any]) -> None:
    caption = parameters.get("caption")
    if caption is not None:
        _check_text(caption, parameters.get("caption_entities") or [])
        if len(caption.encode("utf-16-le")) // 2 > MAX_CAPTION:
            raise BadRequest("message caption is too long")


def _check_album(parameters: Mapping[str, Any]) -> None:
    media = parameters.get("media")
    if not isinstance(media, list) or not 2 <= len(media) <= 10:
        raise BadRequest("an album has 2 to 10 media")
    kinds = {each.get("type") for each in media}
    if not any(kinds <= album for album in ALBUMS):
        raise BadRequest(f"{kinds} cannot be sent as one album")
    for each in media:
        where = str(each.get("media", ""))
        if not where or (where.startswith("attach://") and where.removeprefix("attach://") not in parameters):
            raise BadRequest(f"file {where!r} not found in the request")
        _check_caption(each)
    if parameters.get("reply_markup") is not None:
        raise BadRequest("an album has no buttons")


def _check_keyboard(markup: Any) -> None:
    """https://core.telegram.org/bots/api#inlinekeyboardbutton"""
    for row in (markup or {}).get("inline_keyboard", ()):
        if not row or len(row) > 8:
            raise BadRequest("a row has 1 to 8 buttons")
        for button in row:
            data, url = button.get("callback_data"), button.get("url")
            if not button.get("text") or (data is None) == (url is None):
                raise BadRequest("text buttons are unallowed in the inline keyboard")
            if data is not None and not 1 <= len(data.encode()) <= 64:
                raise BadRequest("BUTTON_DATA_INVALID")


def check_commands(parameters: Mapping[str, Any]) -> None:
    """https://core.telegram.org/bots/api#setmycommands"""
    commands = parameters.get("commands")
    if not isinstance(commands, list) or len(commands) > 100:
        raise BadRequest("can't parse commands")
    for each in commands:
        if not re.fullmatch(r"[a-z0-9_]{1,32}", each["command"]):
            raise BadRequest("BOT_COMMAND_INVALID")
        if not 1 <= len(each["description"]) <= 256:
            raise BadRequest("BOT_COMMAND_DESCRIPTION_INVALID")


def _check_text(text: Any, entities: list[dict[str, Any]]) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadRequest("message text is empty")
    length = len(text.encode("utf-16-le", "strict")) // 2
    if length > MAX_TEXT:
        raise BadRequest("message is too long")
    for entity in entities:
        if not (0 <= entity["offset"] and entity["length"] > 0 and entity["offset"] + entity["length"] <= length):
            raise BadRequest(f"can't parse entities: {entity!r} is out of the text")
    _check_entities(text, entities)


STYLES = ("bold", "italic", "underline", "strikethrough", "spoiler")

MAX_ENTITIES = 100

LINK = re.compile(r"https?://[^/?#]+\.|tg://")


def _check_entities(text: str, entities: list[dict[str, Any]]) -> None:
    """What Telegram would drop or mend in silence (https://core.telegram.org/bots/api#formatting-options)."""
    if len(entities) > MAX_ENTITIES:
        raise BadRequest(f"can't parse entities: {len(entities)} are more than {MAX_ENTITIES}")
    for entity in entities:
        _check_entity(text.encode("utf-16-le"), entity)
    spans = [(each["offset"], each["offset"] + each["length"], each["type"]) for each in entities]
    if spans != sorted(spans, key=lambda span: (span[0], -span[1])):
        raise BadRequest("can't parse entities: not in order")
    for index, outer in enumerate(spans):
        for inner in spans[index + 1 :]:
            if inner[0] < outer[1]:
                _check_nested(outer, inner)


def _check_entity(units: bytes, entity: Mapping[str, Any]) -> None:
    kind = entity["type"]
    if kind not in (*STYLES, "code", "pre", "text_link", "blockquote"):
        raise BadRequest(f"can't parse entities: unknown type {kind!r}")
    if kind == "text_link" and not LINK.match(entity.get("url", "")):
        raise BadRequest("can't parse entities: Telegram makes no link of that address")
    for edge in (entity["offset"], entity["offset"] + entity["length"]):
        if edge * 2 < len(units) and 0xDC <= units[edge * 2 + 1] <= 0xDF:
            raise BadRequest("can't parse entities: an edge within a surrogate pair")


def _check_nested(outer: tuple[int, int, str], inner: tuple[int, int, str]) -> None:
    kinds = {outer[2], inner[2]}
    if inner[1] > outer[1]:
        raise BadRequest(f"can't parse entities: {outer} and {inner} cross")
    if len(kinds) == 1:
        raise BadRequest(f"can't parse entities: {outer} within {inner}")
    if kinds & {"code", "pre"} and "blockquote" not in kinds:
        raise BadRequest(f"can't parse entities: {outer} and {inner}: code holds nothing, and nothing holds code")


def _multipart(content_type: str, body: bytes) -> dict[str, Any]:
    message = BytesParser(policy=HTTP).parsebytes(f"content-type: {content_type}\r\n\r\n".encode() + body)
    found: dict[str, Any] = {}
    for part in message.iter_parts():  # type: ignore[attr-defined]
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        filename = part.get_filename()
        found[name] = content.decode() if filename is None else (filename, content, part.get_content_type())
    return found
