"""What the SDK and the provider report, in the words of our error tree: by the body of an error, whatever shape it has.

Pure; `client.py` calls it. What all providers have in common is in `definable/model/failure.py`. Loaded with the SDK,
when an `OpenAIChat` is first used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import httpx2
import openai

from definable.errors import ContentFiltered, ContextWindowExceeded, ModelError
from definable.model.failure import (
    Failure,
    NoReply,
    ProviderError,
    excerpt,
    explain_answer,
    explain_connection,
    explain_status,
    seconds_in,
)
from definable.model.sse import EventTooLong

from .completion import fields_of

EXPLAINED = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    ProviderError,
    NoReply,
    EventTooLong,
    ModelError,
)
"""What a try may raise that `explain` understands."""

QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_LIMIT_CODES = frozenset({"rate_limit_exceeded", "rate_limit_error", "tokens", "requests"}) | QUOTA_CODES
_KEY_CODES = frozenset({"invalid_api_key", "authentication_error", "permission_error"})
_REQUEST_CODES = frozenset({"invalid_request_error", "context_length_exceeded", "model_not_found"})
FAILED_CODES = frozenset(
    "server_error internal_error internal_server_error internalservererror api_error overloaded_error overloaded "
    "engine_overloaded_error service_unavailable temporarily_unavailable".split()
)
"""Of an error inside a 200, which has no status: the provider failed, and may not the next time."""

TOO_LONG = re.compile(
    "context_length_exceeded|exceed_context_size|model_max_prompt_tokens_exceeded|maximum context length|"
    "context (window|length|size)|(prompt|input) is too long|too many (input )?tokens|maximum prompt length|"
    "input token count|(input|prompt) length .*exceed|exceeds? the (maximum|max) .*tokens"
)
"""In lower case, of OpenAI, vLLM, llama.cpp, Ollama, Google, xAI, Mistral, Groq, Copilot and OpenRouter."""

FILTERED = re.compile(
    "content_filter|responsibleaipolicyviolation|content_policy_violation|data_inspection_failed|content exists risk"
)
"""In lower case, of Azure, OpenAI, Alibaba and DeepSeek."""


def explain(error: BaseException, *, where: str, keys: Iterable[str], timeout: float) -> Failure:
    """Return what a failed try means.

    Args:
        error: One of `EXPLAINED`.
        where: The provider's base URL, for the message.
        keys: The API keys that were sent: some servers repeat them, our messages never do.
        timeout: Seconds that one answer, or the next piece of one, may take.
    """
    match error:
        case openai.APIStatusError():
            return _explain_body(error.status_code, error.body, error.response.headers, where, keys)
        case ProviderError():
            return _explain_body(status_of(error.error), error.error, {}, where, keys)
        case openai.APIConnectionError() | httpx2.TransportError():
            return explain_connection(error, where=where, timeout=timeout)
        case _:
            return explain_answer(error, where=where)


def _explain_body(
    status: int | None, body: object, headers: Mapping[str, str], where: str, keys: Iterable[str]
) -> Failure:
    body = only_error(body)
    said, codes = provider_message(body), codes_of(body)
    words = " ".join([said, *codes]).lower()
    kind: type[ModelError] | None = None
    if status == 413 or TOO_LONG.search(words):
        kind = ContextWindowExceeded
    elif FILTERED.search(words):
        kind = ContentFiltered
    failure = explain_status(
        status,
        said,
        headers,
        where=where,
        keys=keys,
        kind=kind,
        transient=not codes.isdisjoint(FAILED_CODES),
        retry_after=retry_delay(body),
    )
    return failure if codes.isdisjoint(QUOTA_CODES) else replace(failure, transient=False)


def status_of(error: object) -> int | None:
    """The HTTP status that an error object inside an answer stands for."""
    code = fields_of(error).get("code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        return code
    codes = codes_of(error)
    for known, status in ((_LIMIT_CODES, 429), (_KEY_CODES, 401), (_REQUEST_CODES, 400)):
        if not known.isdisjoint(codes):
            return status
    return None


def retry_delay(body: object) -> float | None:
    """The seconds that Google asks to wait, which stands in the body: https://cloud.google.com/apis/design/errors"""
    details = fields_of(body).get("details")
    for detail in cast("list[object]", details) if isinstance(details, list) else ():
        delay = fields_of(detail).get("retryDelay")
        if isinstance(delay, str):
            return seconds_in(delay.removesuffix("s"))
    return None


def only_error(body: object) -> object:
    """The error object that is alone in a list, which is how Google's compatible server sends it; else the body."""
    match cast("Any", body):
        case [{"error": error}]:
            return error
        case _:
            return body


_TITLE, _TITLE_END = re.compile("<title>", re.IGNORECASE), re.compile("</title>", re.IGNORECASE)


def codes_of(body: object) -> frozenset[str]:
    """The words that say what kind of error it is, in lower case."""
    fields = fields_of(body)
    inner = fields_of(fields.get("innererror"))  # Azure's
    named = [fields.get(name) for name in ("code", "type", "error_code", "status")]
    return frozenset([name.lower() for name in [*named, inner.get("code")] if isinstance(name, str)])


def _behind(fields: Mapping[str, Any]) -> str:
    """The words of the provider behind OpenRouter, whose own are "Provider returned error"."""
    match fields.get("metadata"):
        case {"raw": str(raw)} if raw:
            return f" ({raw})"
        case _:
            return ""


def provider_message(body: object) -> str:
    """The provider's own words, whatever shape its error has."""
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        for name in ("message", "error", "detail", "error_message", "status_msg", "msg"):
            if isinstance(fields.get(name), str):
                return excerpt(f"{fields[name]}{_behind(fields)}", 1_000)
        return excerpt(str(fields))
    text = body if isinstance(body, str) else ""
    title = _TITLE.search(text)  # a second one is never looked for: an unclosed one would be sought from each again
    end = None if title is None else _TITLE_END.search(text, title.end())
    if title is None or end is None:
        return excerpt(text) or "no message"
    return f"an HTML page, {excerpt(text[title.end() : end.start()])!r}"
