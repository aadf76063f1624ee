"""What OpenAI's Chat Completions endpoint accepts, and the words in which it refuses the rest.

Pure: `refusal(headers, body, ...)` knows no socket. Source: the API reference and the error texts that the service
answers with (https://platform.openai.com/docs/api-reference/chat/create).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELDS = frozenset(
    "model messages temperature top_p n stream stream_options stop max_tokens max_completion_tokens presence_penalty "
    "frequency_penalty logit_bias logprobs top_logprobs user seed tools tool_choice parallel_tool_calls "
    "response_format reasoning_effort metadata store service_tier modalities prediction verbosity".split()
)
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal"},
    "tool": {"role", "content", "tool_call_id"},
}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(eq=False)
class Refusal(Exception):
    """An error answer, as the service writes it."""

    message: str
    status: int = 400
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def check(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    key: str,
    models: frozenset[str],
    more: frozenset[str] = frozenset(),
) -> Any:
    """Return the parsed request, or raise the `Refusal` that OpenAI would answer.

    Args:
        more: Further fields of assistants' messages and calls, which other providers know.
    """
    if (method, path) != ("POST", "/v1/chat/completions"):
        raise Refusal(f"Invalid URL ({method} {path})", 404)
    _check_key(headers.get("authorization", ""), key)
    if headers.get("content-type") != "application/json":
        raise Refusal("you must provide a JSON body with content type application/json", 415)
    try:
        request = json.loads(body)
    except ValueError:
        raise Refusal("We could not parse the JSON body of your request.") from None
    _check_fields(request)
    if request["model"] not in models:
        message = f"The model `{request['model']}` does not exist or you do not have access to it."
        raise Refusal(message, 404, code="model_not_found")
    _check_messages(request["messages"], more)
    _check_tools(request)
    _check_format(request.get("response_format"))
    return request


def _check_key(authorization: str, key: str) -> None:
    scheme, _, given = authorization.partition(" ")
    if scheme != "Bearer" or not given:
        raise Refusal("You didn't provide an API key.", 401)
    if given != key:
        masked = f"{given[:4]}****{given[-2:]}"
        raise Refusal(f"Incorrect API key provided: {masked}.", 401, code="invalid_api_key")


def _check_fields(request: Any) -> None:
    if not isinstance(request, dict):
        raise Refusal("We could not parse the JSON body of your request.")
    for name in request:
        if name not in FIELDS:
            raise Refusal(f"Unrecognized request argument supplied: {name}")
    for name in ("model", "messages"):
        if name not in request:
            raise Refusal(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    if "stream_options" in request and not request.get("stream"):
        raise Refusal("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    temperature = request.get("temperature", 1)
    if not (isinstance(temperature, (int, float)) and 0 <= temperature <= 2):
        raise Refusal("Invalid 'temperature': expected a value between 0 and 2.", param="temperature")


def _check_messages(messages: Any, more: frozenset[str]) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refusal("Invalid 'messages': empty array. Expected an array with minimum length 1.", param="messages")
    unanswered: list[str] = []
    answerable: set[str] = set()
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in MESSAGE_FIELDS:
            raise Refusal(f"Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', and 'tool'.")
        if unknown := set(message) - MESSAGE_FIELDS[role] - (more if role == "assistant" else set()):
            raise Refusal(
                f"Additional properties are not allowed ('{unknown.pop()}' was unexpected) - 'messages.{index}'"
            )
        if role == "tool":
            if message.get("tool_call_id") not in answerable:
                raise Refusal("messages with role 'tool' must be a response to a preceding message with 'tool_calls'.")
            unanswered = [call for call in unanswered if call != message["tool_call_id"]]
        else:
            _check_answered(unanswered)
            unanswered = _call_ids(message, index, more)
            answerable = set(unanswered)
        _check_content(message, index)
    _check_answered(unanswered)


def _check_answered(unanswered: list[str]) -> None:
    if unanswered:
        raise Refusal(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(unanswered)}"
        )


def _call_ids(message: dict[str, Any], index: int, more: frozenset[str]) -> list[str]:
    if "tool_calls" not in message:
        return []
    calls = message["tool_calls"]
    if not calls:
        raise Refusal(f"Invalid 'messages[{index}].tool_calls': empty array.")
    for call in calls:
        if set(call) - more != {"id", "type", "function"} or call["type"] != "function":
            raise Refusal(f"Invalid 'messages[{index}].tool_calls': {call}")
        if set(call["function"]) != {"name", "arguments"} or not isinstance(call["function"]["arguments"], str):
            raise Refusal(f"Invalid type for 'messages[{index}].tool_calls[0].function.arguments': expected a string.")
        if not NAME.fullmatch(call["function"]["name"]):
            raise Refusal(
                f"Invalid 'messages[{index}].tool_calls[0].function.name': string does not match pattern. Expected a "
                "string that matches the pattern '^[a-zA-Z0-9_-]+$'."
            )
    return [call["id"] for call in calls]


def _check_content(message: dict[str, Any], index: int) -> None:
    content = message.get("content")
    where = f"messages[{index}].content"
    if content is None:
        if not message.get("tool_calls"):
            raise Refusal(f"Invalid value for 'content': expected a string, got null. ({where})")
    elif isinstance(content, list):
        if not content or message["role"] != "user":
            raise Refusal(f"Invalid type for '{where}'")
        for part in content:
            _check_part(part, where)
    elif not isinstance(content, str):
        raise Refusal(f"Invalid type for '{where}': expected a string or an array.")


def _check_part(part: dict[str, Any], where: str) -> None:
    if part.get("type") == "text" and set(part) == {"type", "text"} and part["text"]:
        return
    if part.get("type") != "image_url" or set(part) != {"type", "image_url"}:
        raise Refusal(f"Invalid value in '{where}': {part}")
    url = part["image_url"]["url"]
    if url.startswith(("http://", "https://")):
        return
    match = re.fullmatch(r"data:image/(png|jpeg|gif|webp);base64,(.*)", url)
    try:
        base64.b64decode(match.group(2) if match else "?", validate=True)
    except binascii.Error:
        raise Refusal("Invalid base64 image_url.", code="invalid_base64") from None


def _check_tools(request: dict[str, Any]) -> None:
    if "tools" not in request:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in request:
                raise Refusal(f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.")
        return
    if not request["tools"]:
        raise Refusal("Invalid 'tools': empty array. Expected an array with minimum length 1.")
    for index, tool in enumerate(request["tools"]):
        function = tool.get("function", {})
        if set(tool) != {"type", "function"} or set(function) - {"name", "description", "parameters", "strict"}:
            raise Refusal(f"Invalid 'tools[{index}]'")
        if not NAME.fullmatch(function["name"]):
            raise Refusal(f"Invalid 'tools[{index}].function.name': string does not match pattern.")
        if function["parameters"].get("type") != "object":
            raise Refusal(f"Invalid schema for function '{function['name']}': schema must be of 'type: \"object\"'.")


def _check_format(format: Any) -> None:
    if format is None or format in ({"type": "text"}, {"type": "json_object"}):
        return
    if format.get("type") != "json_schema" or set(format) != {"type", "json_schema"}:
        raise Refusal("Invalid value for 'response_format'", param="response_format")
    wanted = format["json_schema"]
    if set(wanted) - {"name", "schema", "strict", "description"} or not NAME.fullmatch(wanted["name"]):
        raise Refusal("Invalid 'response_format.json_schema'", param="response_format")
    if wanted["schema"].get("type") != "object":
        raise Refusal(f"Invalid schema for response_format '{wanted['name']}': schema must be of 'type: \"object\"'.")
    if wanted.get("strict"):
        check_strict(wanted["schema"], wanted["name"])


def check_strict(schema: Any, name: str) -> None:
    if isinstance(schema, list):
        for item in schema:
            check_strict(item, name)
    if not isinstance(schema, dict):
        return
    where = f"Invalid schema for response_format '{name}':"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            raise Refusal(f"{where} 'additionalProperties' is required to be supplied and to be false.")
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            raise Refusal(f"{where} 'required' is required to be supplied and to be an array including every key.")
    if "default" in schema:
        raise Refusal(f"{where} 'default' is not permitted.")
    for key, value in schema.items():
        members = value.values() if key in ("properties", "$defs") else (value,)
        for member in members:
            check_strict(member, name)
