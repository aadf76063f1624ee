"""Messages as JSON values: how an event bus that is more than memory keeps them. Fields that are empty are left out."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, cast

from definable.model.message_json import image_from_json, image_to_json

from .media import Media
from .message import InterfaceMessage

_PLAIN = (
    "platform",
    "platform_user_id",
    "platform_chat_id",
    "platform_message_id",
    "text",
    "username",
    "reply_to_message_id",
    "metadata",
    "created_at",
)
_IDS = ("platform", "platform_user_id", "platform_chat_id", "platform_message_id")
_MEDIA = ("audio", "videos", "files")


def message_to_json(message: InterfaceMessage) -> dict[str, Any]:
    """The message as a dict; its metadata is the interface's, and must be JSON by itself."""
    value = {name: getattr(message, name) for name in _PLAIN}
    value["images"] = [image_to_json(image) for image in message.images]
    for name in _MEDIA:
        value[name] = [_media_to_json(each) for each in getattr(message, name)]
    return {name: field for name, field in value.items() if field not in (None, [], {})}


def message_from_json(value: object) -> InterfaceMessage:
    """The message that `message_to_json` made `value` from.

    Raises:
        ValueError: `value` is no such message.
    """
    try:
        fields = _mapping(value)
        if wrong := [name for name in _IDS if not isinstance(fields[name], str | int)]:
            raise TypeError(f"{wrong[0]} is neither text nor a number")
        message = InterfaceMessage(**{name: fields[name] for name in _PLAIN if name in fields})
        images = tuple(image_from_json(_mapping(image)) for image in fields.get("images", ()))
        media: dict[str, Any] = {
            name: tuple(_media_from_json(_mapping(each)) for each in fields[name]) for name in _MEDIA if name in fields
        }
        return replace(message, images=images, **media)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


def _media_to_json(media: Media) -> dict[str, Any]:
    value = {name: field for name, field in asdict(media).items() if field is not None}
    return value if media.data is None else value | {"data": b64encode(media.data).decode("ascii")}


def _media_from_json(fields: Mapping[str, Any]) -> Media:
    media = Media(**{name: field for name, field in fields.items() if name != "data"})
    return replace(media, data=b64decode(fields["data"], validate=True)) if "data" in fields else media


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return cast("dict[str, Any]", value)
