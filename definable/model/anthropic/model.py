"""`Claude`, the one door to the `anthropic` SDK, which loads when a model is first used."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from definable.errors import ConfigurationError, MissingExtra, ModelConnectionError, ModelResponseError
from definable.model.function import PlainProfile
from definable.model.keys import APIKey, KeySource
from definable.model.loop_client import LoopClients
from definable.model.message import ModelDelta, ModelProfile, ModelReply, ModelRequest

from .request import encode_request

if TYPE_CHECKING:
    from .client import AnthropicClient

DEFAULT_MAX_TOKENS = 8_192
"""Of one reply: the API wants a number, and every model of the last years takes this one."""

_OURS = {
    "model": "it is the first argument, id=",
    "messages": "the agent makes them",
    "system": "give the agent instructions",
    "tools": "give them to the agent",
    "stream": "use arun_stream() or model.stream()",
}
"""Parameters of the Messages API that are not the caller's to set, and why."""


class Claude:
    """A model of Anthropic's, behind its Messages API.

    Every answer is streamed to here, so that none is too long for one request. Failed tries are repeated before the
    first piece as `OpenAIChat` repeats them. Thinking (`thinking={"type": "adaptive"}`) is kept with the conversation
    and sent back with its signature.

    Args:
        id: The model, as Anthropic names it: `"claude-sonnet-5"`.
        api_key: Text, a `SecretStr`, or a sync or async function that returns one, called before each request. None
            reads ANTHROPIC_API_KEY.
        base_url: None reads ANTHROPIC_BASE_URL, and without it is Anthropic's.
        timeout: Seconds for each wait for more of an answer; a sign of life is nothing of it.
        max_retries: How many tries may follow the first.
        max_tokens: How long a reply may become; a longer one is cut off.
        cache_ttl: How long the provider keeps the beginning of a conversation in its cache, which makes the next
            request cheaper and faster; None switches it off.
        **options: Further parameters of the Messages API (temperature, thinking, tool_choice ...), and, as in the SDK,
            extra_headers, extra_query and extra_body.

    Raises:
        ConfigurationError: An argument is out of range, or an option is set elsewhere.
        MissingExtra: The extra `anthropic` is not installed.
    """

    provider = "anthropic"
    """What spans call it."""

    profile: ModelProfile = PlainProfile(tools=True)
    """Older models have no parameter for an answer's schema: a tool's call is the answer."""

    def __init__(
        self,
        id: str,
        api_key: APIKey | None = None,
        base_url: str | None = None,
        timeout: float = 60,
        max_retries: int = 2,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        cache_ttl: Literal["5m", "1h"] | None = "5m",
        **options: Any,
    ) -> None:
        if not id:
            raise ConfigurationError("id names the model and cannot be empty")
        if not (timeout > 0 and isfinite(timeout)):
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if max_retries < 0 or max_tokens < 1:
            raise ConfigurationError(f"max_retries={max_retries!r} is 0 or more, max_tokens={max_tokens!r} 1 or more")
        if cache_ttl not in ("5m", "1h", None):
            raise ConfigurationError(f"cache_ttl is '5m', '1h' or None, not {cache_ttl!r}")
        if base_url and not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(f'base_url is like "https://host", not {base_url!r}')
        for name, why in _OURS.items():
            if name in options:
                raise ConfigurationError(f"{name}= is not an option of Claude: {why}")
        if find_spec("anthropic") is None:
            raise MissingExtra("Claude needs anthropic: pip install 'definable[anthropic]'")
        self.id = id
        self.base_url: str | None = base_url or None
        self._key = KeySource(api_key, "ANTHROPIC_API_KEY", id, "Claude")
        self._cache_ttl = cache_ttl
        headers: dict[str, str] = options.pop("extra_headers", None) or {}
        query: dict[str, object] = options.pop("extra_query", None) or {}
        self._connection: dict[str, Any] = {
            "timeout": timeout,
            "max_retries": max_retries,
            "headers": headers,
            "query": query,
        }
        extra_body: dict[str, Any] = options.pop("extra_body", None) or {}
        self._options: dict[str, Any] = {"max_tokens": max_tokens, **options, **extra_body}
        try:
            json.dumps(self._options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the options of Claude are not all JSON: {error}") from error
        self._clients: LoopClients[AnthropicClient] = LoopClients(self._make_client)

    def __repr__(self) -> str:
        return f"Claude({self.id!r})"

    @property
    def has_key(self) -> bool:
        """Whether a key is there; serving warns at once when it is not."""
        return self._key.is_there

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer a request whole.

        Raises:
            ModelError: The provider failed; one class below it for each kind of failure.
        """
        reply: ModelReply | None = None
        async with self.stream(request) as deltas:
            async for delta in deltas:
                reply = delta.reply
        if reply is None:
            raise ModelResponseError(f"the stream of {self.id} ended without a whole reply")
        return reply

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelDelta]]:
        """Answer a request piece by piece.

        Entering waits for the first event; the last delta holds the whole reply.

        Raises:
            ModelError: The provider failed, also in the middle of a stream; one class below it for each kind.
        """
        self._key.check()  # before the SDK is loaded
        body = encode_request(self.id, request, self._options, provider=self.provider, cache_ttl=self._cache_ttl)
        client = await self._clients.get()
        async with client.stream(json.dumps(body).encode(), self.provider) as deltas:
            yield deltas

    async def aclose(self) -> None:
        """Close the running event loop's connections; the model may be used again afterwards."""
        await self._clients.aclose()

    def _make_client(self) -> AnthropicClient:
        from .client import AnthropicClient  # loads the SDK

        base_url = self.base_url or os.environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
        try:
            return AnthropicClient(self._key.read, base_url, **self._connection)
        except Exception as error:  # what the HTTP client makes of them: InvalidURL, ImportError, OSError ...
            raise ModelConnectionError(
                f"no client for {self.id} can be made: {error} (check base_url= or ANTHROPIC_BASE_URL, and the "
                "environment's proxies and SSL_CERT_FILE)"
            ) from error
