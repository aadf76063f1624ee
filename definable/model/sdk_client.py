"""One event loop's client of a provider: its official SDK, with connections, keys and retries of this package.

`openai/client.py` and `anthropic/client.py` are one each: one generator makes both SDKs, which are alike. Loaded with
the SDK, when a model is first used.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import anyio
import httpx2
from anyio.lowlevel import checkpoint_if_cancelled

from definable.concurrency.logs import logger_named
from definable.errors import ModelConnectionError, ModelResponseError
from definable.half_read_body import may_be_half_read

from .failure import Failure, raise_explained, retry_wait

logger: logging.Logger = logger_named("definable.model")

Result = TypeVar("Result")

CONNECT_TIMEOUT = 5.0
"""Seconds, the SDKs' own: a server that is there answers a connect sooner."""

LIMITS = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100, keepalive_expiry=30.0)
"""httpx2's own default has no bound at all."""


class SDK(Protocol):
    """What the SDKs have in common."""

    @property
    def base_url(self) -> httpx2.URL:
        """The server's."""
        ...

    def is_closed(self) -> bool:
        """Whether the connections are closed."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...

    async def post(
        self, path: str, *, cast_to: Any, content: bytes, options: Any, stream: Literal[True], stream_cls: Any
    ) -> Any:
        """Send a request."""
        ...


class SDKClient(ABC):
    """Sends requests and explains what goes wrong.

    Args:
        make_sdk: Makes the SDK's client.
        key: Returns the API key, before each request.
        base_url: The server's.
        timeout: Seconds for one answer, or for the next piece of a streamed one.
        max_retries: How many tries may follow the first.
        headers: Sent with every request.
        query: Sent with every request.
        sdk: Further arguments of the SDK's client.
    """

    path: ClassVar[str]
    """Where requests go, behind the base URL."""
    credential: ClassVar[tuple[str, str]]
    """The header of the key, and what stands before the key in it."""
    stream_class: ClassVar[type]
    """The SDK's streams."""
    explained: ClassVar[tuple[type[Exception], ...]]
    """What a try may raise that `explain` understands."""

    def __init__(
        self,
        make_sdk: Callable[..., SDK],
        key: Callable[[], Awaitable[str]],
        base_url: str | None,
        *,
        timeout: float,
        max_retries: int,
        headers: Mapping[str, str],
        query: Mapping[str, object],
        sdk: Mapping[str, Any],
    ) -> None:
        self.timeout: float = timeout
        self._max_retries = max_retries
        self._key = key
        self.keys: deque[str] = deque(maxlen=4)
        """The last that were sent: what a server repeats of them is in no message."""
        self._has_credential = any(name.lower() == self.credential[0].lower() for name in headers)
        deadlines = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._sdk = make_sdk(
            api_key="set with each request",
            base_url=base_url,
            max_retries=0,  # the SDK's own would wait for as long as Retry-After says, whatever the caller's deadline
            timeout=deadlines,
            default_headers=headers,
            default_query=query,
            http_client=httpx2.AsyncClient(
                limits=LIMITS, timeout=deadlines, follow_redirects=True, event_hooks={"response": [may_be_half_read]}
            ),
            **sdk,
        )
        self.where: str = str(self._sdk.base_url.copy_with(userinfo=b"")).rstrip("/")
        """The base URL, for messages."""

    @abstractmethod
    def explain(self, error: BaseException) -> Failure:
        """Say what an exception of a try means."""

    async def post(self, body: bytes) -> httpx2.Response:
        """Send one request; return the answer before its body is read. The caller closes it."""
        if self._sdk.is_closed():
            raise ModelConnectionError(f"the connections to {self.where} were closed meanwhile")
        key = await self._key()
        if key not in self.keys:
            self.keys.append(key)
        headers = {"Content-Type": "application/json"}
        if not self._has_credential:
            name, before = self.credential
            headers[name] = f"{before}{key}"
        # The SDKs' own methods take milliseconds to walk a long history through their parameter types; a body of ours
        # goes through the same client without. Asked for a response, they hand out their raw one.
        response: httpx2.Response = await self._sdk.post(
            self.path,
            cast_to=httpx2.Response,
            content=body,
            options={"headers": headers},
            stream=True,
            stream_cls=self.stream_class,
        )
        if response.headers.get("content-type", "").startswith("text/html"):
            await response.aclose()
            raise ModelResponseError(f"{self.where} answered with a web page: check base_url")
        return response

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
            except self.explained as error:
                await checkpoint_if_cancelled()  # a failure at the moment of a cancellation is none
                failure = self.explain(error)
                time_left = anyio.current_effective_deadline() - anyio.current_time()
                wait = retry_wait(failure, tries, self._max_retries, time_left=time_left)
                if wait is None:
                    raise_explained(failure, error)
            logger.info("try %d failed, the next in %.2f s: %s", tries, wait, failure.error)
            await anyio.sleep(wait)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()
