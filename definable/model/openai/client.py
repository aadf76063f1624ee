"""One event loop's connection to a Chat Completions server: the SDK's client, its deadlines and its retries.

Loaded with the SDK, when an `OpenAIChat` is first used; `model.py` opens one for each event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import anyio
import httpx2
import openai
from anyio.lowlevel import checkpoint_if_cancelled

from definable.concurrency.logs import logger_named
from definable.errors import ModelConnectionError, ModelResponseError, ModelTimeoutError
from definable.half_read_body import may_be_half_read
from definable.model.message import ModelReply

from .errors import EXPLAINED, Failure, explain, raise_explained, retry_wait
from .response import read_reply

logger: logging.Logger = logger_named("definable.model")

Result = TypeVar("Result")

CONNECT_TIMEOUT = 5.0
"""Seconds, the SDK's own: a server that is there answers a connect sooner."""

LIMITS = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100, keepalive_expiry=30.0)
"""httpx2's own default has no bound at all."""


class OpenAIClient:
    """Sends requests and explains what goes wrong.

    Args:
        key: The API key.
        base_url: The server's, None for OpenAI's.
        timeout: Seconds for one answer, or for the next piece of a streamed one.
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
        self._key = key
        self._timeout = timeout
        self._max_retries = max_retries
        deadlines = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._sdk = openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,  # the SDK's own would block for up to two minutes on a long Retry-After
            timeout=deadlines,
            default_headers=extra_headers,
            default_query=extra_query,
            http_client=httpx2.AsyncClient(
                limits=LIMITS, timeout=deadlines, follow_redirects=True, event_hooks={"response": [may_be_half_read]}
            ),
        )
        self._where = str(self._sdk.base_url.copy_with(userinfo=b"")).rstrip("/")

    async def post(self, body: bytes) -> httpx2.Response:
        """Send one request; return the answer before its body is read. The caller closes it."""
        if self._sdk.is_closed():
            raise ModelConnectionError(f"the connections to {self._where} were closed meanwhile")
        # `chat.completions.create` takes milliseconds to walk a long history through its parameter types; a body of our
        # own goes through the same client without.
        response = await self._sdk.post(
            "/chat/completions",
            cast_to=cast("type[openai.AsyncStream[Any]]", httpx2.Response),  # the SDK then hands out its raw response
            content=body,
            options={"headers": {"Content-Type": "application/json"}},
            stream=True,
            stream_cls=openai.AsyncStream[Any],
        )
        return await self._no_page(cast("httpx2.Response", response))

    async def reply(self, body: bytes) -> ModelReply:
        """Send a request and read its whole answer, again when that fails for a while.

        Raises:
            ModelError: The provider failed.
        """
        return await self.retrying(lambda: self._reply_once(body))

    async def retrying(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `attempt` returns; call it again after a transient failure.

        Raises:
            ModelError: The last try's failure.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return await attempt()
            except EXPLAINED as error:
                await checkpoint_if_cancelled()  # a failure at the moment of a cancellation is none
                failure = self.explain(error)
                wait = self._retry_wait(failure, tries)
                if wait is None:
                    raise_explained(failure, error)
            logger.info("try %d failed, the next in %.2f s: %s", tries, wait, failure.error)
            await anyio.sleep(wait)

    def explain(self, error: BaseException) -> Failure:
        """Say what an exception of a try means."""
        return explain(error, where=self._where, key=self._key, timeout=self._timeout)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def _reply_once(self, body: bytes) -> ModelReply:
        with anyio.move_on_after(self._timeout):
            response = await self.post(body)
            try:
                return read_reply(await response.aread())
            finally:
                await response.aclose()
        raise ModelTimeoutError(f"{self._where} did not answer within {self._timeout:g} s")

    async def _no_page(self, response: httpx2.Response) -> httpx2.Response:
        if response.headers.get("content-type", "").startswith("text/html"):
            await response.aclose()
            raise ModelResponseError(f"{self._where} answered with a web page, not a completion: check base_url")
        return response

    def _retry_wait(self, failure: Failure, tries: int) -> float | None:
        time_left = anyio.current_effective_deadline() - anyio.current_time()
        return retry_wait(failure, tries, self._max_retries, time_left=time_left)
