"""A chat message as JSON, for a durable event bus: without the fields that are empty."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, cast

from definable.model.message import Image, image_from_json, image_to_json

from .message import InterfaceMessage, Media, QuotedMessage

_IDS = ("platform", "platform_user_id", "platform_chat_id", "platform_message_id")
_MEDIA = ("audio", "videos", "files")
_OTHER = (*_MEDIA, "images", "context", "notes")
_PLAIN = {each.name: each.default for each in fields(InterfaceMessage) if each.name not in _OTHER}
"""The fields that are JSON by themselves, with their defaults."""


def message_to_json(message: InterfaceMessage) -> dict[str, Any]:
    """The message as a dict; its metadata is the interface's, and must be JSON by itself."""
    value = {name: own for name, default in _PLAIN.items() if (own := getattr(message, name)) != default}
    for name in _MEDIA:
        value[name] = [_media_to_json(each) for each in getattr(message, name)]
    value["images"] = [image_to_json(image) for image in message.images]
    value["context"] = [_quoted_to_json(each) for each in message.context]
    value["notes"] = list(message.notes)
    return {name: own for name, own in value.items() if own not in ([], {})}


def message_from_json(value: object) -> InterfaceMessage:
    """The message that `message_to_json` made `value` from.

    Raises:
        ValueError: `value` is no such message.
    """
    try:
        kept = _mapping(value)
        if wrong := [name for name in _IDS if not isinstance(kept[name], str | int)]:
            raise TypeError(f"{wrong[0]} is neither text nor a number")
        made: dict[str, Any] = {name: kept[name] for name in _PLAIN if name in kept}
        made |= {name: _media_list(kept, name) for name in _MEDIA if name in kept}
        quoted = tuple([_quoted_from_json(_mapping(each)) for each in kept.get("context", ())])
        return InterfaceMessage(
            **made, images=_images(kept), context=quoted, notes=tuple([str(note) for note in kept.get("notes", ())])
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


def _quoted_to_json(quoted: QuotedMessage) -> dict[str, Any]:
    value = {name: getattr(quoted, name) for name in ("kind", "author", "text", "message_id")}
    value["images"] = [image_to_json(image) for image in quoted.images]
    value["files"] = [_media_to_json(each) for each in quoted.files]
    return {name: own for name, own in value.items() if own not in (None, [])}


def _quoted_from_json(kept: Mapping[str, Any]) -> QuotedMessage:
    plain = {name: kept.get(name) for name in ("author", "text", "message_id")}
    return QuotedMessage(kept["kind"], **plain, images=_images(kept), files=_media_list(kept, "files"))


def _images(kept: Mapping[str, Any]) -> tuple[Image, ...]:
    return tuple([image_from_json(_mapping(image)) for image in kept.get("images", ())])


def _media_list(kept: Mapping[str, Any], name: str) -> tuple[Media, ...]:
    return tuple([_media_from_json(_mapping(each)) for each in kept.get(name, ())])


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
