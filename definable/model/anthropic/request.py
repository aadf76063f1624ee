"""`ModelRequest` to the arguments of Anthropic's `messages.create`.

Pure; `model.py` calls it. Sources: https://platform.claude.com/docs/en/api/messages, and the guides of tool use (the
order of blocks with results), extended thinking (blocks go back unmodified) and prompt caching.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from definable.model.message import Image, Message, ModelRequest, ToolCall

NO_TEXT = "(no text)"
"""In place of an empty message, which the API refuses."""

_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
"""Of a tool call's id; those of other providers may hold it."""


def encode_request(
    model: str, request: ModelRequest, options: Mapping[str, Any], *, provider: str, cache_ttl: str | None
) -> dict[str, Any]:
    """Return the request's body.

    Args:
        model: The model's id.
        request: What is asked.
        options: Further parameters of the Messages API; `max_tokens` is one.
        provider: Whose blocks a message's `provider_data` may hold to be sent back.
        cache_ttl: How long the provider keeps what it has read: "5m" or "1h"; None: it is not asked to.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": _conversation(request.messages, provider),
        "stream": True,
        **options,
    }
    system = [_text(message.content) for message in request.messages if message.role == "system" and message.content]
    tools = [
        {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
        for tool in request.tools
    ]
    if system:
        body["system"] = system
    if tools:
        body["tools"] = tools
    else:
        body.pop("tool_choice", None)
    if request.output_schema is not None:
        schema = {"type": "json_schema", "schema": dict(request.output_schema.schema)}
        body["output_config"] = {**body.get("output_config", {}), "format": schema}
    if cache_ttl is not None:
        mark = {"type": "ephemeral", "ttl": cache_ttl}
        for block in (system or tools)[-1:]:  # what all conversations share: tools stand before the system prompt
            block["cache_control"] = mark
        body.setdefault("cache_control", mark)  # and this conversation up to its last block
    return body


def _conversation(messages: Sequence[Message], provider: str) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn, as the API wants them; results of tools come first in the user's."""
    turns: list[dict[str, Any]] = []
    ids = _CallIds()
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = list(_blocks(message, provider, ids))
        if not turns and role == "assistant":
            turns.append({"role": "user", "content": [_text(NO_TEXT)]})
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


class _CallIds:
    """What the calls of one conversation are called: the API refuses an id that returns.

    Other servers number the calls of each reply anew: https://github.com/NVIDIA-NeMo/Switchyard/issues/502
    """

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._newest: dict[str, str] = {}

    def of_call(self, id: str) -> str:
        plain = sent = _NOT_IN_AN_ID.sub("_", id) or "call"
        count = 1
        while sent in self._sent:
            count += 1
            sent = f"{plain}_{count}"
        self._sent.add(sent)
        self._newest[id] = sent
        return sent

    def of_result(self, id: str) -> str:
        """The id of the call before it that a result is of."""
        return self._newest.get(id, id)


def _blocks(message: Message, provider: str, ids: _CallIds) -> Iterator[dict[str, Any]]:
    match message.role:
        case "assistant":
            for block in _own_blocks(message, provider) or _said(message):
                yield block | {"id": ids.of_call(block["id"])} if block["type"] == "tool_use" else block
        case "tool":
            content: list[Any] = [_text(message.content or NO_TEXT), *map(_image, message.images)]
            yield {"type": "tool_result", "tool_use_id": ids.of_result(message.tool_call_id or ""), "content": content}
        case _:
            yield from map(_image, message.images)
            if message.content.strip() or not message.images:
                yield _text(message.content if message.content.strip() else NO_TEXT)


def _said(message: Message) -> Iterator[dict[str, Any]]:
    if message.content.strip():
        yield _text(message.content)
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)}


def _own_blocks(message: Message, provider: str) -> list[dict[str, Any]] | None:
    """The blocks of a reply as the API sent them, thinking included; None where the message is not that any more."""
    data = message.provider_data if message.provider == provider else None
    if data is None:
        return None
    blocks = cast("list[dict[str, Any]]", data["content"])
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return [dict(block) for block in blocks] if calls == [call.id for call in message.tool_calls] else None


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(image: Image) -> dict[str, Any]:
    if image.data is None:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    data = b64encode(image.data).decode("ascii")
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": data}}


def _arguments(call: ToolCall) -> Any:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return {}
    return cast("Any", arguments) if isinstance(arguments, dict) else {}
