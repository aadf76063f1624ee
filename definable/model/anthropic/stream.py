"""One answer of the Messages API: asked for, tried again, explained, and added up. Loaded with the SDK.

Rules: https://platform.claude.com/docs/en/build-with-claude/streaming and .../api/errors
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, cast

import anthropic
import anyio
import httpx2
from anyio.lowlevel import checkpoint_if_cancelled

from definable.concurrency.logs import logger_named
from definable.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    TooManyOpenFiles,
)
from definable.half_read_body import may_be_half_read
from definable.model.message import FinishReason, ModelDelta, ModelReply, ToolCall, Usage
from definable.model.openai.errors import Failure, lacks_descriptors, parse_retry_after, raise_explained, retry_wait
from definable.model.openai.events import EventTooLong, SSEDecoder
from definable.model.openai.response import NoReply

logger: logging.Logger = logger_named("definable.model")

STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What the type of an error inside a stream, whose status is 200, stands for (API reference, errors)."""

FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}

DRAIN_TIMEOUT = 0.1
"""Seconds that leaving a whole answer waits for its last bytes."""


class AnthropicClient:
    """One event loop's connection to the API.

    Args:
        key: The API key.
        base_url: The server's, None for Anthropic's.
        timeout: Seconds for each wait for more of an answer.
        max_retries: How many tries may follow the first.
        extra_headers: Sent with every request.
        extra_query: Sent with every request.
    """

    def __init__(
        self,
        key: str,
        base_url: str | None,
        *,
        timeout: float,
        max_retries: int,
        extra_headers: dict[str, str] | None = None,
        extra_query: dict[str, object] | None = None,
    ) -> None:
        self.timeout = timeout
        self.max_retries = max_retries
        self._key = key
        deadlines = httpx2.Timeout(timeout, connect=min(timeout, 5.0))
        limits = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100, keepalive_expiry=30.0)
        self._sdk = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=base_url or "https://api.anthropic.com",
            max_retries=0,  # the SDK would wait for as long as Retry-After says, whatever the caller's deadline
            timeout=deadlines,
            default_headers=extra_headers,
            default_query=extra_query,
            http_client=httpx2.AsyncClient(
                limits=limits, timeout=deadlines, follow_redirects=True, event_hooks={"response": [may_be_half_read]}
            ),
        )
        self.where: str = str(self._sdk.base_url.copy_with(userinfo=b"")).rstrip("/")

    async def open(self, body: dict[str, Any]) -> Events:
        """Send a request; return its events once the answer begins. The caller closes them."""
        if self._sdk.is_closed():
            raise ModelConnectionError(f"the connections to {self.where} were closed meanwhile")
        # The SDK then hands out its raw response. A stream of its own leaves async generators behind, which trio warns
        # of, and takes one that broke off for one that ended.
        response = await self._sdk.post(
            "/v1/messages",
            cast_to=cast("type[anthropic.AsyncStream[Any]]", httpx2.Response),
            body={**body, "stream": True},
            stream=True,
            stream_cls=anthropic.AsyncStream[Any],
        )
        return Events(cast("httpx2.Response", response), self.where, self.timeout)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    def explain(self, error: BaseException) -> Failure:
        """Say what an exception of a try means."""
        return explain(error, where=self.where, key=self._key, timeout=self.timeout)


class Events:
    """The events of an answer, as JSON objects.

    Args:
        response: The answer, its body not read yet.
        where: The API's base URL, for errors.
        timeout: Seconds for each wait for an event.
    """

    def __init__(self, response: httpx2.Response, where: str, timeout: float) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._decoder = SSEDecoder()
        self._ready: Iterator[str] = iter(())
        self._where = where
        self._timeout = timeout

    async def next(self) -> dict[str, Any] | None:
        """The next event, None at the end; a keep-alive is none.

        Raises:
            ModelTimeoutError: None came in time.
            StreamError: One that reports a failure.
        """
        with anyio.move_on_after(self._timeout):
            while True:
                for data in self._ready:
                    event = json.loads(data)
                    if event["type"] == "error":
                        raise StreamError(event)
                    if event["type"] != "ping":
                        return event
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    return None
                self._ready = self._decoder.feed(chunk)
        raise ModelTimeoutError(f"{self._where} sent nothing for {self._timeout:g} s")

    async def drain(self) -> None:
        """Read what is left, as long as it takes no time: only then can the connection be used again."""
        with anyio.move_on_after(DRAIN_TIMEOUT), suppress(*EXPLAINED):
            async for _ in self._chunks:
                pass

    async def aclose(self) -> None:
        """Close the connection, or give it back when the answer was read to its end."""
        try:
            await self._chunks.aclose()
        finally:
            await self._response.aclose()


class StreamError(Exception):
    """An error inside an answer whose status was 200; its argument is the event."""


EXPLAINED = (
    anthropic.AnthropicError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    StreamError,
    NoReply,
    EventTooLong,
    ModelError,
    KeyError,
    ValueError,
)
"""What a try may raise that `explain` understands; the last two by an answer that is no event of the API's."""


class MessageStream:
    """A streamed answer: an async context manager that is its own iterator.

    Until its first block an answer is asked for again where that can help: an overloaded API often begins, and fails.

    Args:
        client: The running event loop's.
        body: The request.
        provider: Whose the reply's provider data are.

    Raises:
        ModelError: The provider failed: when entered, or in the middle.
    """

    def __init__(self, client: AnthropicClient, body: dict[str, Any], provider: str) -> None:
        self._client = client
        self._body = body
        self._provider = provider
        self._over = False

    async def __aenter__(self) -> Self:
        tries = 0
        while True:
            tries += 1
            try:
                self._events, self._answer, self._first_text = await self._begin()
                return self
            except EXPLAINED as error:
                await checkpoint_if_cancelled()  # a failure at the moment of a cancellation is none
                failure = self._client.explain(error)
                time_left = anyio.current_effective_deadline() - anyio.current_time()
                wait = retry_wait(failure, tries, self._client.max_retries, time_left=time_left)
                if wait is None:
                    raise_explained(failure, error)
            logger.info("try %d failed, the next in %.2f s: %s", tries, wait, failure.error)
            await anyio.sleep(wait)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._over and error is None:
                await self._events.drain()
        finally:
            await self._events.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelDelta:
        if self._over:
            raise StopAsyncIteration
        text, self._first_text = self._first_text, ""
        if text:
            return ModelDelta(text)
        try:
            while not self._answer.is_whole:
                event = await self._events.next()
                if event is None:
                    raise ModelResponseError("the model provider's stream broke off: it ended without message_stop")
                if text := self._answer.add(event):
                    return ModelDelta(text)
        except EXPLAINED as error:
            self._over = True
            raise_explained(self._client.explain(error), error)
        self._over = True
        return ModelDelta(reply=self._answer.reply())

    async def _begin(self) -> tuple[Events, Answer, str]:
        answer, text = Answer(self._provider), ""
        events = await self._client.open(self._body)
        try:
            while not (answer.has_begun or answer.is_whole):
                event = await events.next()
                if event is None:
                    raise NoReply("the model provider's stream ended before anything of a reply came")
                text = answer.add(event)
        except BaseException:
            await events.aclose()
            raise
        return events, answer, text


class Answer:
    """What the events of an answer add up to.

    Args:
        provider: Whose its provider data are.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._model: str | None = None
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        """By their index, as the API takes them back; a tool's input is its JSON text until the answer is whole."""
        self.is_whole: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether anything of a reply came."""
        return bool(self._blocks)

    def add(self, event: dict[str, Any]) -> str:
        """Take an event; return the text that it adds.

        Raises:
            KeyError: It is none of the API's.
        """
        match event["type"]:
            case "message_start":
                self._model = event["message"]["model"]
                self._count(event["message"]["usage"])
            case "content_block_start":
                return self._start(event["index"], event["content_block"])
            case "content_block_delta" if event["index"] in self._blocks:
                return self._extend(self._blocks[event["index"]], event["delta"])
            case "message_delta":
                self._stop_reason = event["delta"].get("stop_reason") or self._stop_reason
                self._count(event.get("usage", {}))
            case "message_stop":
                self.is_whole = True
            case _:  # newer than this
                pass
        return ""

    def reply(self) -> ModelReply:
        """The reply, once it is whole."""
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        reason = self._stop_reason or "end_turn"
        calls = [block for block in blocks if block["type"] == "tool_use"]
        parsed = {id(block): _object(block["input"]) for block in calls}
        for block in calls:
            block["input"] = parsed[id(block)] or {}
        thinks = any(block["type"] in ("thinking", "redacted_thinking") for block in blocks)
        kept = [block for block in blocks if block["type"] != "text" or block["text"].strip()]
        return ModelReply(
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            # Of a reply that was cut off, a call whose arguments are not whole is none.
            tuple([ToolCall(b["name"], b["input"], b["id"]) for b in calls if parsed[id(b)] is not None]),
            self._spent(),
            self._model,
            FINISH_REASONS.get(reason, reason),
            "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            self._provider,
            {"content": kept} if thinks else None,
        )

    def _start(self, index: int, block: dict[str, Any]) -> str:
        if block["type"] == "tool_use":
            text = json.dumps(block["input"]) if block.get("input") else ""
            block = {"type": "tool_use", "id": block["id"], "name": block["name"], "input": text}
        elif block["type"] not in ("text", "thinking", "redacted_thinking"):
            return ""  # of a tool of the API's own: what it says comes in blocks of text
        self._blocks[index] = dict(block)
        return block.get("text", "")

    def _extend(self, block: dict[str, Any], delta: dict[str, Any]) -> str:
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
                return delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                block["input"] += delta["partial_json"]
            case _:
                pass
        return ""

    def _count(self, usage: dict[str, Any]) -> None:
        """Take counts; later ones are totals too."""
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _spent(self) -> Usage:
        read, written = (self._usage.get(f"cache_{kind}_input_tokens", 0) for kind in ("read", "creation"))
        return Usage(
            self._usage.get("input_tokens", 0) + read + written,
            self._usage.get("output_tokens", 0),
            read,
            self._usage.get("output_tokens_details", {}).get("thinking_tokens", 0),
        )


def _object(text: str) -> dict[str, Any] | None:
    """The object that a tool's arguments are; None where they are not whole."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def explain(error: BaseException, *, where: str, key: str, timeout: float) -> Failure:
    """Return what a failed try means.

    Args:
        error: One of `EXPLAINED`.
        where: The API's base URL, for the message.
        key: The API key: our messages never repeat it.
        timeout: Seconds that each wait may take.
    """
    match error:
        case ModelError():
            return Failure(error, transient=False)
        case anthropic.APIStatusError():
            return _status_failure(error.status_code, error.body, error.response.headers, where, key)
        case StreamError(args=[event]):
            status = STATUSES.get(event.get("error", {}).get("type", ""))
            return _status_failure(status, event, {}, where, key)
        case NoReply():
            return Failure(ModelResponseError(str(error)), transient=True)
        case anthropic.APITimeoutError() | httpx2.TimeoutException():
            cause = error if isinstance(error, httpx2.TimeoutException) else error.__cause__
            if isinstance(cause, httpx2.ConnectTimeout):
                return Failure(ModelConnectionError(f"cannot reach {where}: no connection in time"), transient=True)
            return Failure(ModelTimeoutError(f"{where} sent nothing for {timeout:g} s"), transient=False)
        case anthropic.APIConnectionError() | httpx2.TransportError():
            cause = (error.__cause__ or error) if isinstance(error, anthropic.APIConnectionError) else error
            if lacks_descriptors(error):
                text = f"cannot reach {where}: this process has too many open files (raise LimitNOFILE= of systemd)"
                return Failure(TooManyOpenFiles(text), transient=True)
            kind = "cannot reach" if isinstance(cause, httpx2.ConnectError) else "the connection broke to"
            return Failure(ModelConnectionError(f"{kind} {where}: {cause or type(cause).__name__}"), transient=True)
        case _:
            return Failure(ModelResponseError(f"the answer of {where} cannot be read: {error!r}"), transient=False)


def _status_failure(status: int | None, body: object, headers: Mapping[str, str], where: str, key: str) -> Failure:
    said = _said(body)
    text = f"{where} answered {status or 'with an error'}: {said}"
    text = text.replace(key, "***") if len(key) >= 8 else text
    retry_after = parse_retry_after(headers, time.time())
    transient = status is None or status in (408, 409, 429) or status >= 500
    if (told := headers.get("x-should-retry")) in ("true", "false"):
        transient = told == "true"
    match status:
        case 401 | 403:
            ours: ModelError = ModelAuthenticationError(f"{text} (check api_key= or ANTHROPIC_API_KEY)", status=status)
        case 429:
            ours = ModelRateLimitError(text, status=status, retry_after=retry_after)
        case 408 | 504:
            ours = ModelTimeoutError(text, status=status)
        case 400 if "prompt is too long" in said or "exceed context limit" in said:
            ours = ContextWindowExceeded(text, status=status)
        case 400 if "content filtering" in said:
            ours = ContentFiltered(text, status=status)
        case int() if status < 500:
            ours = ModelRequestError(text, status=status)
        case _:
            ours = ModelResponseError(text, status=status)
    return Failure(ours, transient, retry_after)


def _said(body: object) -> str:
    """The API's own words in an error, or the beginning of what came in its place."""
    match body:
        case {"error": {"message": str() as message}}:
            return message
        case _:
            text = " ".join(str(body or "no message").split())
            return text if len(text) <= 200 else f"{text[:200]}..."
