"""One event loop's connection to a Chat Completions server: the SDK's client, its deadlines and its retries.

Loaded with the SDK, when an `OpenAIChat` is first used; `model.py` opens one for each event loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
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
from .profiles import Profile
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
        key: Returns the API key, before each request.
        base_url: The server's, None for OpenAI's.
        profile: What the server understands.
        timeout: Seconds for one answer, or for the next piece of a streamed one.
        max_retries: How many tries may follow the first.
        headers: Sent with every request.
        query: Sent with every request.
        sdk: Further arguments of the SDK's client.
    """

    def __init__(
        self,
        key: Callable[[], Awaitable[str]],
        base_url: str | None,
        profile: Profile,
        *,
        timeout: float,
        max_retries: int,
        headers: Mapping[str, str],
        query: Mapping[str, object],
        sdk: Mapping[str, Any],
    ) -> None:
        self._key = key
        self._keys: deque[str] = deque(maxlen=4)
        """The last that were sent: what a server repeats of them is in no message."""
        self._has_authorization = any(name.lower() == "authorization" for name in headers)
        self._max_retries = max_retries
        self.timeout: float = timeout
        self.profile: Profile = profile
        deadlines = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._sdk = openai.AsyncOpenAI(
            api_key="set with each request",
            base_url=base_url,
            max_retries=0,  # the SDK's own would block for up to two minutes on a long Retry-After
            timeout=deadlines,
            default_headers=headers,
            default_query=query,
            http_client=httpx2.AsyncClient(
                limits=LIMITS, timeout=deadlines, follow_redirects=True, event_hooks={"response": [may_be_half_read]}
            ),
            **sdk,
        )
        self._where = str(self._sdk.base_url.copy_with(userinfo=b"")).rstrip("/")

    async def post(self, body: bytes) -> httpx2.Response:
        """Send one request; return the answer before its body is read. The caller closes it."""
        if self._sdk.is_closed():
            raise ModelConnectionError(f"the connections to {self._where} were closed meanwhile")
        key = await self._key()
        if key not in self._keys:
            self._keys.append(key)
        headers = {"Content-Type": "application/json"}
        if not self._has_authorization:
            headers["Authorization"] = f"Bearer {key}"
        # `chat.completions.create` takes milliseconds to walk a long history through its parameter types; a body of our
        # own goes through the same client without.
        response = await self._sdk.post(
            "/chat/completions",
            cast_to=cast("type[openai.AsyncStream[Any]]", httpx2.Response),  # the SDK then hands out its raw response
            content=body,
            options={"headers": headers},
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
        return explain(error, where=self._where, keys=self._keys, timeout=self.timeout)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def _reply_once(self, body: bytes) -> ModelReply:
        with anyio.move_on_after(self.timeout):
            response = await self.post(body)
            try:
                return read_reply(await response.aread(), self.profile.name, think_tags=self.profile.think_tags)
            finally:
                await response.aclose()
        raise ModelTimeoutError(f"{self._where} did not answer within {self.timeout:g} s")

    async def _no_page(self, response: httpx2.Response) -> httpx2.Response:
        if response.headers.get("content-type", "").startswith("text/html"):
            await response.aclose()
            raise ModelResponseError(f"{self._where} answered with a web page, not a completion: check base_url")
        return response

    def _retry_wait(self, failure: Failure, tries: int) -> float | None:
        time_left = anyio.current_effective_deadline() - anyio.current_time()
        return retry_wait(failure, tries, self._max_retries, time_left=time_left)
