"""`OpenAIChat`, the one door to the `openai` SDK, which loads when a model is first used (a third of a second).

```
request.py     ModelRequest -> JSON
client.py      one event loop's client: sends, tries again
errors.py      explains failures, says when to try again
response.py    JSON, whole or in server-sent events -> ModelReply
stream.py      one streamed answer
```
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token
from anyio.to_thread import run_sync

from definable.errors import ConfigurationError, ModelAuthenticationError, ModelConnectionError, TooManyOpenFiles
from definable.model.message import ModelDelta, ModelReply, ModelRequest

from .request import encode_request

if TYPE_CHECKING:
    from .client import OpenAIClient

_OURS = {
    "model": "it is the first argument, id=",
    "messages": "the agent makes them",
    "tools": "give them to the agent",
    "functions": "give tools to the agent",
    "function_call": "use tool_choice=",
    "stream": "use arun_stream() or model.stream()",
    "stream_options": "usage is always asked for",
    "n": "one reply is read",
}
"""Chat Completions parameters that are not the caller's to set, and why."""


class OpenAIChat:
    """A model behind OpenAI's Chat Completions API, or behind any server that speaks it.

    The key and the base URL are read, and the client is made, when the model is first used in an event loop; `aclose()`
    closes it there. Failed tries are repeated when that can help (no connection, 408, 409, 429, 5xx) after an
    exponential backoff or after the pause that the provider asks for; a pause of more than 30 s, or one beyond the
    caller's deadline, is not waited for, and the error carries it as `retry_after`. A stream is tried again only before
    its first chunk, and a time-out never: the provider is likely still at work.

    Args:
        id: The model, as the provider names it.
        api_key: None reads OPENAI_API_KEY. A server that needs no key takes any text.
        base_url: Up to and with the version, as in "http://localhost:11434/v1". None reads OPENAI_BASE_URL, and without
            it is OpenAI's.
        timeout: Seconds for one try of a whole reply; of a stream, for each wait for more of it.
        max_retries: How many tries may follow the first.
        **options: Further Chat Completions parameters (temperature, max_tokens, reasoning_effort ...), also those of
            compatible servers; and, as in the SDK, extra_headers, extra_query and extra_body.

    Raises:
        ConfigurationError: An argument is out of range, or an option is set elsewhere.
    """

    provider = "openai"
    """What spans call it."""

    def __init__(
        self,
        id: str,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 60,
        max_retries: int = 2,
        **options: Any,
    ) -> None:
        if not id:
            raise ConfigurationError("id names the model and cannot be empty")
        if not (timeout > 0 and isfinite(timeout)):
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if max_retries < 0:
            raise ConfigurationError(f"max_retries is 0 or more, not {max_retries!r}")
        _check_options(options)
        self.id = id
        self.base_url: str | None = _checked_url(base_url, "base_url")
        self.timeout = timeout
        self.max_retries = max_retries
        self._api_key = api_key
        extra_body: dict[str, Any] = options.pop("extra_body", None) or {}
        self._http_options = {name: options.pop(name, None) for name in ("extra_headers", "extra_query")}
        self._options = options | extra_body
        self._held: WeakKeyDictionary[object, _LoopClient] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"OpenAIChat({self.id!r})"

    @property
    def has_key(self) -> bool:
        """Whether a key is there; serving warns at once when it is not."""
        return bool(self._key)

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer a request whole.

        Raises:
            ModelError: The provider failed; one class below it for each kind of failure.
        """
        body = self._encode(request, stream=False)
        client = await self._client()
        return await client.reply(body)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelDelta]]:
        """Answer a request piece by piece.

        Entering waits for the first chunk; the last delta holds the whole reply.

        Raises:
            ModelError: The provider failed, also in the middle of a stream; one class below it for each kind.
        """
        body = self._encode(request, stream=True)
        client = await self._client()
        from .stream import ChatStream  # needs the SDK, which `_client` has loaded

        async with ChatStream(client, body) as deltas:
            yield deltas

    async def aclose(self) -> None:
        """Close the running event loop's connections; the model may be used again afterwards."""
        held = self._held.get(current_token().native_token)
        if held is not None:
            await held.aclose()

    @property
    def _key(self) -> str:
        return (self._api_key or os.environ.get("OPENAI_API_KEY", "")).strip()

    def _encode(self, request: ModelRequest, *, stream: bool) -> bytes:
        return encode_request(self.id, request, self._options, stream=stream)

    async def _client(self) -> OpenAIClient:
        key = self._key
        if not key:
            raise ModelAuthenticationError(
                f"no API key for {self.id}: set OPENAI_API_KEY, or pass api_key= to OpenAIChat (a server that needs no "
                "key takes any text)"
            )
        if not (key.isascii() and key.isprintable()):
            raise ModelAuthenticationError(f"the API key for {self.id} holds a character that no header can carry")
        loop = current_token().native_token
        held = self._held.get(loop)
        if held is None:
            held = self._held[loop] = _LoopClient()
        return await held.get(self._make_client)

    def _make_client(self) -> OpenAIClient:
        from .client import OpenAIClient  # loads the SDK, a third of a second

        base_url = self.base_url or _checked_url(os.environ.get("OPENAI_BASE_URL"), "OPENAI_BASE_URL")
        try:
            return OpenAIClient(
                self._key, base_url, timeout=self.timeout, max_retries=self.max_retries, **self._http_options
            )
        except Exception as error:  # what the HTTP client makes of them: InvalidURL, ImportError, OSError ...
            from .errors import lacks_descriptors  # loads the SDK, which is loaded here

            if lacks_descriptors(error):
                raise TooManyOpenFiles(f"no client for {self.id} can be made: {error}") from error
            raise ModelConnectionError(
                f"no client for {self.id} can be made: {error} (check base_url= or OPENAI_BASE_URL, and the "
                "environment's proxies and SSL_CERT_FILE)"
            ) from error


class _LoopClient:
    """The client of one event loop, made when first asked for."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._client: OpenAIClient | None = None
        self._life: AsyncGenerator[None] | None = None

    async def get(self, make: Callable[[], OpenAIClient]) -> OpenAIClient:
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                # Reading the SDK and the CA certificates takes too long to hold up the event loop.
                client = await run_sync(make)
                self._life = self._live(client)
                await anext(self._life)
                self._client = client
            return self._client

    async def aclose(self) -> None:
        async with self._lock:
            if self._life is not None:
                await self._life.aclose()

    async def _live(self, client: OpenAIClient) -> AsyncGenerator[None]:
        """Suspended as long as the client is open, closed with it.

        asyncio and trio both close the async generators that are left when an event loop ends: a script that never
        calls `aclose()` leaves no open socket behind.
        """
        try:
            yield
        finally:
            self._client = self._life = None  # a generator refers to its loop, which must not outlive its end here
            await client.aclose()


def _check_options(options: Mapping[str, Any]) -> None:
    for name, why in _OURS.items():
        if name in options:
            raise ConfigurationError(f"{name}= is not an option of OpenAIChat: {why}")
    try:
        json.dumps(options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the options of OpenAIChat are not all JSON: {error}") from error


def _checked_url(url: str | None, name: str) -> str | None:
    if url and not url.startswith(("http://", "https://")):
        raise ConfigurationError(f'{name} is like "https://host/v1", not {url!r}')
    return url or None
