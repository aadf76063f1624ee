"""`ModelRequest` to the body of a Chat Completions request, with schemas in the subset that OpenAI enforces ("strict").

Pure; `model.py` calls it. Sources: https://platform.openai.com/docs/api-reference/chat/create and
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from definable.errors import ModelRequestError
from definable.model.message import Image, Message, ModelRequest, OutputSchema, ToolCall, ToolDefinition

_ONLY_WITH_TOOLS = ("tool_choice", "parallel_tool_calls")
"""Options that OpenAI refuses in a request without tools."""

_OF_ANY_TEXT = frozenset({"type", "title", "description", "default", "examples"})
"""Keywords of a string's schema that every text fits."""

_ANSWER_IN_JSON = "Answer with nothing but JSON, not fenced, that fits this JSON schema:"


def encode_request(model: str, request: ModelRequest, options: Mapping[str, Any], *, stream: bool) -> bytes:
    """Return the request's JSON body.

    Args:
        model: The model's id.
        request: What is asked.
        options: Further Chat Completions parameters.
        stream: Whether the answer is to be streamed, with its usage in the last chunk.

    Raises:
        ModelRequestError: Something in the request cannot be written as JSON.
    """
    body: dict[str, Any] = {"model": model, "messages": [_message(message) for message in request.messages], **options}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    else:
        for name in _ONLY_WITH_TOOLS:
            body.pop(name, None)
    if request.output_schema is not None:
        _ask_for(request.output_schema, body)
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    try:
        # ASCII escapes also carry a lone surrogate, which UTF-8 cannot: users send them.
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ModelRequestError(f"the request to {model} cannot be written as JSON: {error}") from error


def _message(message: Message) -> dict[str, Any]:
    match message.role:
        case "assistant" if message.tool_calls:
            calls = [_tool_call(call) for call in message.tool_calls]
            return {"role": "assistant", "content": message.content or None, "tool_calls": calls}
        case "tool":
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content}
        case "user" if message.images:
            return {"role": "user", "content": _parts(message)}
        case role:
            return {"role": role, "content": message.content}


def _parts(message: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    return parts + [{"type": "image_url", "image_url": {"url": _image_url(image)}} for image in message.images]


def _image_url(image: Image) -> str:
    if image.data is None:
        return image.url or ""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _ask_for(output: OutputSchema, body: dict[str, Any]) -> None:
    schema = inline_root(output.schema)
    match schema.get("type"):
        case "object":
            body["response_format"] = _response_format(output, schema)
        case "string" if schema.keys() <= _OF_ANY_TEXT:
            pass
        case _:
            # OpenAI takes nothing but an object as a response format.
            told = {"role": "system", "content": f"{_ANSWER_IN_JSON}\n{json.dumps(schema)}"}
            body["messages"].insert(1 if body["messages"][:1] and body["messages"][0]["role"] == "system" else 0, told)


def _response_format(output: OutputSchema, schema: dict[str, Any]) -> dict[str, Any]:
    strict = strict_schema(schema)
    wanted = {"name": output.name, "schema": strict or schema, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": wanted}


_UNSUPPORTED = frozenset(
    "allOf contains dependentRequired dependentSchemas else if maxContains maxLength maxProperties minContains "
    "minLength minProperties not oneOf patternProperties prefixItems propertyNames then unevaluatedItems "
    "unevaluatedProperties uniqueItems".split()
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_ONE_OF_THESE = frozenset({"type", "anyOf", "$ref", "enum", "const"})
_MAPS_OF_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_VERBATIM = frozenset({"enum", "const", "required", "description", "title"})


def inline_root(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with an object at its root: pydantic puts a reference there for a recursive model."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    definitions: Mapping[str, Mapping[str, Any]] = schema.get("$defs", {})
    if name not in definitions:
        return dict(schema)
    return {**definitions[name], "$defs": definitions}


class _NotStrict(Exception):
    """The schema has no strict equivalent."""


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an equivalent that strict mode accepts, or None when there is none.

    Objects are closed and every property becomes required (the model then writes out what it would have left to a
    default); `default` is dropped. Open objects (a `dict[str, int]`) and the keywords that strict mode refuses have no
    equivalent: then the schema is sent as it is, as a request that the model may miss.
    """
    try:
        return _strict(schema)
    except _NotStrict:
        return None


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not _UNSUPPORTED.isdisjoint(schema) or _ONE_OF_THESE.isdisjoint(schema):
        raise _NotStrict
    if schema.get("format", "date") not in _FORMATS:
        raise _NotStrict
    strict = {key: _strict_value(key, value) for key, value in schema.items() if key != "default"}
    if "$ref" in strict:
        return {"$ref": strict["$ref"]}  # strict mode refuses keywords beside a reference
    if schema.get("type") == "object":
        _close(schema, strict)
    return strict


def _close(schema: Mapping[str, Any], strict: dict[str, Any]) -> None:
    if schema.get("additionalProperties", False) is not False or "properties" not in schema:
        raise _NotStrict
    strict["additionalProperties"] = False
    strict["required"] = list(cast("Mapping[str, Any]", schema["properties"]))


def _strict_value(key: str, value: Any) -> Any:
    if key in _VERBATIM:
        return value
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        if key in _MAPS_OF_SCHEMAS:
            return {name: _strict(member) for name, member in members.items()}
        return _strict(members)
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = cast("Sequence[Any]", value)
        return [_strict(cast("Mapping[str, Any]", item)) if isinstance(item, Mapping) else item for item in items]
    return value
