"""`ModelRequest` to the body of a Chat Completions request, as its provider's profile wants it.

Pure; `model.py` calls it. Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from definable.errors import ModelRequestError
from definable.model.message import Image, Message, ModelRequest, OutputSchema, ToolCall, ToolDefinition

from .profiles import UNKNOWN, Profile
from .strict_schema import inline_root, strict_schema

_SHORT_ID = re.compile("[a-zA-Z0-9]{9}")

_SYSTEM = ("system", "developer")

_ANSWER_IN_JSON = "Answer with nothing but JSON, not fenced, that fits this JSON schema:"


def encode_request(
    model: str, request: ModelRequest, options: Mapping[str, Any], profile: Profile = UNKNOWN, *, stream: bool
) -> bytes:
    """Return the request's JSON body.

    Args:
        model: The model's id.
        request: What is asked.
        options: Further Chat Completions parameters.
        profile: What the provider understands.
        stream: Whether the answer is to be streamed, with its usage in the last chunk.

    Raises:
        ModelRequestError: Something in the request cannot be written as JSON.
    """
    body: dict[str, Any] = {"model": model, "messages": _messages(request.messages, profile), **options}
    stream_options = body.pop("stream_options", {"include_usage": True} if profile.stream_options else None)
    for name in ("max_tokens", "max_completion_tokens"):
        if profile.max_tokens and name in body:
            body[profile.max_tokens] = body.pop(name)
    _add_tools(request, profile, body)
    if request.output_schema is not None:
        _ask_for(request.output_schema, body)
    if stream:
        body["stream"] = True
        if stream_options is not None:
            body["stream_options"] = stream_options
    try:
        # ASCII escapes also carry a lone surrogate, which UTF-8 cannot: users send them.
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ModelRequestError(f"the request to {model} cannot be written as JSON: {error}") from error


def _add_tools(request: ModelRequest, profile: Profile, body: dict[str, Any]) -> None:
    """Add the tools; the options about them go with them alone, since OpenAI refuses them without."""
    choice = body.pop("tool_choice", None)
    if not request.tools or not profile.parallel_tool_calls:
        body.pop("parallel_tool_calls", None)
    if not request.tools:
        return
    body["tools"] = [_tool(tool) for tool in request.tools]
    if request.messages and request.messages[-1].role == "tool":
        choice = _unforced(choice)
    if choice is not None:
        body["tool_choice"] = choice


def _unforced(choice: Any) -> Any:
    """The choice of a tool once tools have been called: a model that must call one each turn never comes to an end."""
    if choice in ("required", "any"):
        return None
    if not isinstance(choice, dict):
        return choice
    fields = cast("dict[str, Any]", choice)
    if fields.get("type") == "allowed_tools":
        return {**fields, "allowed_tools": {**fields.get("allowed_tools", {}), "mode": "auto"}}
    return None


def _messages(messages: Sequence[Message], profile: Profile) -> list[dict[str, Any]]:
    encoded: list[dict[str, Any]] = []
    seen: list[Image] = []
    for message in messages:
        if seen and message.role != "tool":
            encoded.append(_images(seen))
            seen = []
        encoded.append(_message(message, profile))
        if message.role == "tool":  # whose message takes no images: they come behind the results
            seen += message.images
    if seen:
        encoded.append(_images(seen))
    return encoded if profile.several_system_messages else _with_one_system_message(encoded)


def _with_one_system_message(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    said = [message for message in messages if message["role"] in _SYSTEM]
    if not said or (len(said) == 1 and messages[0] is said[0]):
        return messages
    whole = {**said[0], "content": "\n\n".join([message["content"] for message in said])}
    return [whole, *[message for message in messages if message["role"] not in _SYSTEM]]


def _message(message: Message, profile: Profile) -> dict[str, Any]:
    match message.role:
        case "assistant":
            return _assistant_message(message, profile)
        case "tool":
            call_id = _call_id(message.tool_call_id or "", profile)
            return {"role": "tool", "tool_call_id": call_id, "content": message.content}
        case "user" if message.images:
            return {"role": "user", "content": _parts(message)}
        case "system":
            return {"role": profile.system_role, "content": message.content}
        case role:
            return {"role": role, "content": message.content}


def _assistant_message(message: Message, profile: Profile) -> dict[str, Any]:
    content = _tagged_content(message, profile)
    if not message.tool_calls:
        return {"role": "assistant", "content": content, **_reasoning_fields(message, profile)}
    calls = [_tool_call(call, message, profile) for call in message.tool_calls]
    if profile.call_signature and not any("extra_content" in call for call in calls):
        calls[0]["extra_content"] = {"google": {"thought_signature": profile.call_signature}}
    return {
        "role": "assistant",
        "content": content or (None if profile.null_content else ""),
        "tool_calls": calls,
        **_reasoning_fields(message, profile),
    }


def _reasoning_fields(message: Message, profile: Profile) -> dict[str, Any]:
    """The fields of an assistant's message in which its provider wants its reasoning back: it gets what is its own."""
    data: Mapping[str, Any] = message.provider_data or {} if message.provider == profile.name else {}
    fields: dict[str, Any] = {name: data[name] for name in ("reasoning_details", "extra_content") if name in data}
    form = data.get("form")
    if message.tool_calls and form in ("reasoning_content", "reasoning"):
        fields[form] = message.reasoning
    if message.tool_calls and profile.reasoning_needed:
        fields.setdefault("reasoning_content", "")
    return fields if profile.reasoning_back == "as it came" else {}


def _tagged_content(message: Message, profile: Profile) -> str:
    """The text of an assistant's message, behind its reasoning in tags where its provider wants it so."""
    if profile.reasoning_back != "in tags" or message.provider != profile.name or not message.reasoning:
        return message.content
    return f"<think>\n{message.reasoning}\n</think>\n\n{message.content}"


def _images(images: Sequence[Image]) -> dict[str, Any]:
    return {"role": "user", "content": _parts(Message("user", "The images of these results:", images=tuple(images)))}


def _parts(message: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    return parts + [{"type": "image_url", "image_url": {"url": _image_url(image)}} for image in message.images]


def _image_url(image: Image) -> str:
    if image.data is None:
        return image.url or ""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def _tool_call(call: ToolCall, message: Message, profile: Profile) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    encoded: dict[str, Any] = {"id": _call_id(call.id, profile), "type": "function", "function": function}
    if call.provider_data and message.provider == profile.name and "extra_content" in call.provider_data:
        encoded["extra_content"] = call.provider_data["extra_content"]
    return encoded


def _call_id(id: str, profile: Profile) -> str:
    if not profile.short_call_ids or _SHORT_ID.fullmatch(id):
        return id
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _ask_for(output: OutputSchema, body: dict[str, Any]) -> None:
    schema = inline_root(output.schema)
    if "response_format" not in body and schema.get("type") == "object":
        body["response_format"] = _response_format(output, schema)
        return
    # OpenAI takes nothing but an object as a response format; and what the caller has set, say `json_object`, stays.
    told = {"role": "system", "content": f"{_ANSWER_IN_JSON}\n{json.dumps(schema)}"}
    head = [message for message in body["messages"][:1] if message["role"] in _SYSTEM]
    body["messages"] = _with_one_system_message([*head, told, *body["messages"][len(head) :]])


def _response_format(output: OutputSchema, schema: dict[str, Any]) -> dict[str, Any]:
    strict = strict_schema(schema)
    wanted = {"name": output.name, "schema": strict or schema, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": wanted}
