"""Messages as JSON values: how the session stores keep them.

Fields that hold their default are left out. A reader ignores fields that it does not know, so that a newer version may
add some and an older one still reads what the newer one wrote.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, cast

from .message import Image, Message, ToolCall


def message_to_json(message: Message) -> dict[str, Any]:
    """The message as a dict that `json.dumps` takes; bytes become base64 text."""
    value: dict[str, Any] = {"role": message.role}
    if message.content:
        value["content"] = message.content
    if message.tool_calls:
        value["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        value["tool_call_id"] = message.tool_call_id
    if message.images:
        value["images"] = [image_to_json(image) for image in message.images]
    return value


def message_from_json(value: object) -> Message:
    """The message that `message_to_json` made `value` from.

    Raises:
        ValueError: `value` is no such message.
    """
    try:
        fields = _mapping(value)
        return Message(
            fields["role"],
            fields.get("content", ""),
            tuple([_tool_call_from_json(_mapping(call)) for call in fields.get("tool_calls", ())]),
            fields.get("tool_call_id"),
            tuple([image_from_json(_mapping(image)) for image in fields.get("images", ())]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


def _tool_call_from_json(fields: Mapping[str, Any]) -> ToolCall:
    return ToolCall(fields["name"], fields["arguments"], fields["id"])


def image_to_json(image: Image) -> dict[str, Any]:
    """The image as a dict: where it is, or its bytes as base64 text."""
    source = {"url": image.url} if image.data is None else {"data": b64encode(image.data).decode("ascii")}
    return {**source, "media_type": image.media_type}


def image_from_json(fields: Mapping[str, Any]) -> Image:
    """The image that `image_to_json` made `fields` from."""
    data = fields.get("data")
    return Image(
        fields.get("url"),
        None if data is None else b64decode(data, validate=True),
        fields.get("media_type", Image.media_type),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return cast("dict[str, Any]", value)
