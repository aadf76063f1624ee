"""The JSON of a Chat Completions answer, whole or a chunk, in the shapes in which servers send it. Pure.

`response.py` puts replies together from it. It is lenient where compatible servers differ from OpenAI's, but for one
thing: an error in whatever form is an error, and never the end of an answer. Sources:
https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from definable.errors import ModelResponseError
from definable.model.failure import ProviderError, excerpt
from definable.model.message import Usage

from .calls import CallPiece, FunctionPiece
from .reasoning import ReasoningFields

_ERROR_FIELDS = frozenset({"error_code", "error_message", "errors", "detail", "message"})
"""An object without choices that has one of these reports a failure: FastAPI's, Databricks', vLLM's, gateways'."""

_TEXT_FIELDS = frozenset({"role", "content"})

_OF_ANY_CHUNK = frozenset({"usage", "id", "object", "created", "model", "choices", "type"})


class MessageFields(ReasoningFields):
    """Of a whole reply the message, of a chunk what it adds."""

    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None
    function_call: FunctionPiece | None = None
    """What came before tool calls; a server that knows no other still sends it."""

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join([part.text or "" for part in self.content if part.type in (None, "text")])
        return self.content or self.refusal or ""

    def calls(self) -> list[CallPiece]:
        if self.function_call is None:
            return self.tool_calls or []
        return self.tool_calls or [CallPiece(index=0, function=self.function_call)]


class Choice(BaseModel):
    """One of the replies that were asked for."""

    index: int | None = None
    message: MessageFields | None = None
    delta: MessageFields | None = None
    finish_reason: str | None = None
    error: Any = None
    """OpenRouter's way to tell that the model behind it failed."""


class _Details(BaseModel):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's, https://api-docs.deepseek.com/guides/kv_cache"""
    cached_tokens: int | None = None
    """Moonshot's."""

    def tokens(self) -> Usage:
        cached = (self.prompt_tokens_details or _Details()).cached_tokens
        return Usage(
            self.prompt_tokens or 0,
            self.completion_tokens or 0,
            cached or self.prompt_cache_hit_tokens or self.cached_tokens or 0,
            (self.completion_tokens_details or _Details()).reasoning_tokens or 0,
        )


class Completion(BaseModel):
    """A `chat.completion` or a `chat.completion.chunk`."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


def parse(payload: str | bytes) -> Completion:
    """Return the completion, or the chunk of one, that a JSON text is.

    Raises:
        ModelResponseError: It is no JSON, or no completion.
        ProviderError: It reports an error.
    """
    try:
        completion = Completion.model_validate_json(payload)
    except ValidationError:
        completion = _parse_leniently(payload)
    if completion.error is not None:
        raise_reported(completion.error)
    return completion


def text_alone(payload: str) -> tuple[str, int, str] | None:
    """A chunk's text, the index of its choice and the model, of one that brings nothing else; None: look closer."""
    try:
        fields: Any = from_json(payload)
        (choice,) = fields["choices"]
        delta, index, model = choice["delta"], choice.get("index") or 0, fields["model"]
        text = delta["content"]
        is_more = choice.get("finish_reason") or "message" in choice or "error" in choice
        if len(delta) > 1:
            is_more = is_more or any(delta[name] is not None for name in delta.keys() - _TEXT_FIELDS)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if is_more or fields.get("usage") is not None or fields.get("error") is not None:
        return None
    return (text, index, model) if type(text) is type(model) is str and type(index) is int else None


def raise_reported(error: Any) -> None:
    """Raise an `error` field, unless it reports none: some servers always send it, with code 0 and no words.

    Raises:
        ProviderError: It reports an error.
    """
    values: Any = fields_of(cast("object", error)).values() if isinstance(error, dict) else [error]
    if any(value not in (None, 0, "0", "", {}, [], False) for value in values):
        raise ProviderError(cast("object", error))


def check_object(payload: str | bytes) -> str:
    """See whether an object without choices says that the provider failed.

    Returns:
        The begin of one that is neither that nor a plain sign of life: for the message of what follows.

    Raises:
        ProviderError: It reports an error.
    """
    fields: Mapping[str, Any] = json.loads(payload)
    status = cast("Mapping[str, Any]", fields.get("base_resp") or {})  # MiniMax's
    if status.get("status_code"):
        raise ProviderError(status)
    if "error" in (fields.get("object"), fields.get("type")) or any(fields.get(name) for name in _ERROR_FIELDS):
        raise ProviderError(fields)
    return excerpt(payload) if fields.keys() - _OF_ANY_CHUNK else ""


def _parse_leniently(payload: str | bytes) -> Completion:
    """A chunk may end in the middle of an emoji, an escaped half of a surrogate pair: pydantic takes no such JSON."""
    try:
        return Completion.model_validate(_tidied(json.loads(payload)))
    except (ValueError, RecursionError) as error:
        raise ModelResponseError(f"the model provider's answer is no chat completion: {excerpt(payload)}") from error


def fields_of(value: object) -> dict[str, Any]:
    """The fields of a JSON object; none of what is no object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _tidied(completion: object) -> object:
    """A completion of odd shape in the one that `Completion` knows; what it has none for stays, and is refused."""
    if not isinstance(completion, dict):
        return completion
    fields = fields_of(cast("object", completion))
    if "usage" in fields:
        fields["usage"] = _tidy_usage(fields["usage"])
    if not isinstance(fields.get("model"), str):
        fields["model"] = None
    choices = fields.get("choices")
    for choice in cast("list[object]", choices) if isinstance(choices, list) else ():
        for name in ("message", "delta"):
            _tidy_message(fields_of(fields_of(choice).get(name)))
    return fields


def _tidy_usage(usage: object) -> object:
    numbers = fields_of(usage)
    return {name: int(value) if isinstance(value, float) else value for name, value in numbers.items()} or None


def _tidy_message(message: dict[str, Any]) -> None:
    content: Any = message.get("content")
    if "text" in fields_of(content):
        content = [content]
    if isinstance(content, list):
        parts = cast("list[object]", content)
        message["content"] = [{"text": part} if isinstance(part, str) else part for part in parts]
    for name in ("reasoning", "reasoning_content"):
        if name in message and not isinstance(message[name], str):
            message[name] = None
    calls: Any = message.get("tool_calls")
    if isinstance(calls, dict):
        calls = [cast("object", calls)]
    if isinstance(calls, list):
        given = cast("list[object]", calls)
        message["tool_calls"] = [_tidy_call(fields_of(call)) or call for call in given if call]


def _tidy_call(call: dict[str, Any]) -> dict[str, Any]:
    if not call:
        return call
    function = fields_of(call.get("function"))
    arguments: object = function.get("arguments")
    if isinstance(arguments, list):  # of PHP an empty object
        empty: dict[str, Any] = {}
        function = {**function, "arguments": json.dumps(arguments) if arguments else empty}
    id = call.get("id")
    return {**call, "function": function, "id": str(id) if isinstance(id, int) else id}
