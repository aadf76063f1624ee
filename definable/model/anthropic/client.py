"""One event loop's connection to Anthropic's API, and what its failures mean. Loaded with the SDK.

Rules: https://platform.claude.com/docs/en/api/errors
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import anthropic
import httpx2

from definable.errors import ContentFiltered, ContextWindowExceeded, ModelError
from definable.model.failure import (
    Failure,
    NoReply,
    ProviderError,
    excerpt,
    explain_answer,
    explain_connection,
    explain_status,
)
from definable.model.reply_stream import ReplyStream
from definable.model.sdk_client import SDKClient
from definable.model.sse import EventTooLong

from .answer import AnswerAssembler

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

EXPLAINED = (
    anthropic.AnthropicError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    ProviderError,
    NoReply,
    EventTooLong,
    ModelError,
    KeyError,
    ValueError,
)
"""What a try may raise that `explain` understands; the last two by an answer that is no event of the API's."""


class AnthropicClient(SDKClient):
    """Sends requests and explains what goes wrong.

    Args:
        key: Returns the API key, before each request.
        base_url: The server's.
        timeout: Seconds for each wait for more of an answer.
        max_retries: How many tries may follow the first.
        headers: Sent with every request.
        query: Sent with every request.
    """

    path: ClassVar[str] = "/v1/messages"
    credential: ClassVar[tuple[str, str]] = ("X-Api-Key", "")
    stream_class: ClassVar[type] = anthropic.AsyncStream[Any]
    explained: ClassVar[tuple[type[Exception], ...]] = EXPLAINED

    def __init__(
        self,
        key: Callable[[], Awaitable[str]],
        base_url: str,
        *,
        timeout: float,
        max_retries: int,
        headers: Mapping[str, str],
        query: Mapping[str, object],
    ) -> None:
        super().__init__(
            anthropic.AsyncAnthropic,
            key,
            base_url,
            timeout=timeout,
            max_retries=max_retries,
            headers=headers,
            query=query,
            sdk={},
        )

    def stream(self, body: bytes, provider: str) -> ReplyStream:
        """A request's answer, streamed."""
        return ReplyStream(self, body, lambda: AnswerAssembler(provider))

    def explain(self, error: BaseException) -> Failure:
        match error:
            case anthropic.APIStatusError():
                return self._explain_body(error.status_code, error.body, error.response.headers)
            case ProviderError():
                return self._explain_body(None, error.error, {})
            case anthropic.APIConnectionError() | httpx2.TransportError():
                return explain_connection(error, where=self.where, timeout=self.timeout)
            case _:
                return explain_answer(error, where=self.where)

    def _explain_body(self, status: int | None, body: object, headers: Mapping[str, str]) -> Failure:
        match body:
            case {"error": {"message": str() as said, "type": str() as named}}:
                status = status or STATUSES.get(named)
            case _:
                said = excerpt(str(body or "no message"))
        kind: type[ModelError] | None = None
        if status == 400 and ("prompt is too long" in said or "exceed context limit" in said):
            kind = ContextWindowExceeded
        elif status == 400 and "content filtering" in said:
            kind = ContentFiltered
        return explain_status(status, said, headers, where=self.where, keys=self.keys, kind=kind)
