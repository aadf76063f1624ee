"""`OpenAIChat`, the one door to the `openai` SDK, which loads when a model is first used (a third of a second).

```
profiles.py       what each provider understands: one table
request.py        ModelRequest -> JSON; strict_schema.py its schemas
client.py         one event loop's client
errors.py         what the SDK and the provider report of a failure
response.py       JSON, whole or in chunks -> ModelReply, of the parts:
  completion.py   the JSON in the shapes in which servers send it
  calls.py        tool calls from their pieces
  reasoning.py    what the model thought before
```
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

from definable.errors import ConfigurationError, ModelConnectionError, TooManyOpenFiles
from definable.model.keys import APIKey, KeySource
from definable.model.loop_client import LoopClients
from definable.model.message import ModelDelta, ModelReply, ModelRequest

from .profiles import Profile, profile_of, provider_named
from .request import encode_request

if TYPE_CHECKING:
    from .client import OpenAIClient

_NOT_OURS = {
    "model": "it is the first argument, id=",
    "messages": "the agent makes them",
    "tools": "give them to the agent",
    "functions": "give tools to the agent",
    "function_call": "use tool_choice=",
    "stream": "use arun_stream() or model.stream()",
    "n": "one reply is read",
    "http_client": "each event loop has a client of its own; proxies are taken from HTTPS_PROXY and ALL_PROXY, "
    "certificates from SSL_CERT_FILE",
    "provider": "OpenRouter's goes into extra_body={\"provider\": ...}, the SDK's is a base_url=",
    "data_residency": "give its base_url=",
    "workload_identity": "give a function that returns the token as api_key=",
    "admin_api_key": "give the key as api_key=",
    "webhook_secret": "webhooks are verified by definable.agent.auth",
    "websocket_base_url": "Chat Completions come over HTTP: give base_url=",
    "azure_endpoint": 'give base_url="https://RESOURCE.openai.azure.com/openai/v1", or use "azure/DEPLOYMENT"',
    "azure_deployment": "it is the first argument, id=",
    "azure_ad_token": "give it as api_key=",
    "azure_ad_token_provider": "give it as api_key=",
    "api_version": 'the version "v1" of Azure needs none; else extra_query={"api-version": ...}',
    "_strict_response_validation": "answers are read leniently",
    "_enforce_credentials": "a server that needs no key takes any text as api_key=",
}
"""What Chat Completions or the SDK's clients take and this does not, and the way out."""


class OpenAIChat:
    """A model behind OpenAI's Chat Completions API, or behind any server that speaks it.

    The key and the base URL are read, and the client is made, when the model is first used in an event loop; `aclose()`
    closes it there. Failed tries are repeated when that can help (no connection, 408, 409, 429, 5xx) after an
    exponential backoff or after the pause that the provider asks for; a pause of more than 30 s, or one beyond the
    caller's deadline, is not waited for, and the error carries it as `retry_after`. A stream is tried again only before
    its first chunk, and a time-out never: the provider is likely still at work.

    Args:
        id: The model, as the provider names it.
        api_key: Text, a `SecretStr`, or a sync or async function that returns one, called before each request. None
            reads OPENAI_API_KEY, or the provider's variable. A server that needs no key takes any text.
        base_url: Up to and with the version, as in "http://localhost:11434/v1". None reads OPENAI_BASE_URL, and without
            it is OpenAI's.
        timeout: Seconds for one try of a whole reply; of a stream, for each wait for more of it: signs of life, as
            comments and empty chunks, are nothing of it.
        max_retries: How many tries may follow the first.
        profile: What the provider understands: a `Profile`, or the name of a provider in the table, whose base URL and
            key variable are then the defaults. None: by base URL and id.
        **options: Further Chat Completions parameters (temperature, max_tokens, reasoning_effort ...), also those of
            compatible servers; None leaves one out, and `stream_options=None` does not ask for the usage of streams.
            And, as in the SDK, extra_headers (or default_headers), extra_query (or default_query), extra_body,
            organization and project.

    Raises:
        ConfigurationError: An argument is out of range, or an option is set elsewhere.
    """

    def __init__(
        self,
        id: str,
        api_key: APIKey | None = None,
        base_url: str | None = None,
        timeout: float = 60,
        max_retries: int = 2,
        profile: Profile | str | None = None,
        **options: Any,
    ) -> None:
        if not id:
            raise ConfigurationError("id names the model and cannot be empty")
        if not (timeout > 0 and isfinite(timeout)):
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if max_retries < 0:
            raise ConfigurationError(f"max_retries is 0 or more, not {max_retries!r}")
        self.id = id
        self.base_url: str | None = _checked_url(base_url, "base_url")
        self.timeout = timeout
        self.max_retries = max_retries
        self._profile = profile
        self._row = provider_named(profile if isinstance(profile, str) else "openai")
        self._key = KeySource(api_key, self._row.key, id, "OpenAIChat", is_needed=self._row.needs_key)
        self._headers = _merged(options, "default_headers", "extra_headers")
        self._query = _merged(options, "default_query", "extra_query")
        self._sdk = {name: options.pop(name) for name in ("organization", "project") if name in options}
        extra_body: dict[str, Any] = options.pop("extra_body", None) or {}
        _check_options(options)
        _check_json(options | extra_body)
        given = {name: value for name, value in options.items() if value is not None or name == "stream_options"}
        self._options = given | extra_body
        self._clients: LoopClients[OpenAIClient] = LoopClients(self._make_client)

    def __repr__(self) -> str:
        return f"OpenAIChat({self.id!r})"

    @property
    def provider(self) -> str:
        """The provider's name in the table of profiles; spans bear it, and what only it may get back."""
        return self.profile.name

    @property
    def profile(self) -> Profile:
        """What the provider understands."""
        if isinstance(self._profile, Profile):
            return self._profile
        return profile_of(self._profile, self._url(), self.id)

    @property
    def has_key(self) -> bool:
        """Whether a key is there, or none is needed; serving warns at once when it is not."""
        return self._key.is_there

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
        if request.output_schema is not None and not self.profile.json_schema_streamed:
            yield WholeStream(await self.reply(request))
            return
        body = self._encode(request, stream=True)
        client = await self._client()
        async with client.stream(body) as deltas:
            yield deltas

    async def aclose(self) -> None:
        """Close the running event loop's connections; the model may be used again afterwards."""
        await self._clients.aclose()

    def _url(self) -> str | None:
        """The base URL; None for OpenAI's own."""
        if self.base_url is not None:
            return self.base_url
        if self._row.name == "openai":
            return _checked_url(os.environ.get("OPENAI_BASE_URL"), "OPENAI_BASE_URL")
        return self._row.url(os.environ)

    def _encode(self, request: ModelRequest, *, stream: bool) -> bytes:
        return encode_request(self.id, request, self._options, self.profile, stream=stream)

    async def _client(self) -> OpenAIClient:
        self._key.check()  # before the SDK is loaded
        return await self._clients.get()

    def _make_client(self) -> OpenAIClient:
        from .client import OpenAIClient  # loads the SDK, a third of a second

        base_url = self._url()
        if base_url is None and self._row.name != "openai":
            raise ModelConnectionError(
                f"no base URL for {self.id}: give base_url=, or set what {self._row.base_url} needs"
            )
        try:
            return OpenAIClient(
                self._key.read,
                base_url,
                self.profile,
                timeout=self.timeout,
                max_retries=self.max_retries,
                headers=self._headers,
                query=self._query,
                sdk=self._sdk,
            )
        except Exception as error:  # what the HTTP client makes of them: InvalidURL, ImportError, OSError ...
            from definable.model.failure import lacks_descriptors  # loads the HTTP client, which is loaded here

            if lacks_descriptors(error):
                raise TooManyOpenFiles(f"no client for {self.id} can be made: {error}") from error
            raise ModelConnectionError(
                f"no client for {self.id} can be made: {error} (check base_url= or OPENAI_BASE_URL, and the "
                "environment's proxies and SSL_CERT_FILE)"
            ) from error


class WholeStream:
    """The deltas of a reply that came whole: its text, and itself."""

    def __init__(self, reply: ModelReply) -> None:
        self._deltas = [ModelDelta(reply=reply)]
        if reply.content:
            self._deltas.append(ModelDelta(reply.content))

    def __aiter__(self) -> WholeStream:
        return self

    async def __anext__(self) -> ModelDelta:
        if not self._deltas:
            raise StopAsyncIteration
        return self._deltas.pop()


def _merged(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """What stands under several names of one thing, taken out of the options."""
    merged: dict[str, Any] = {}
    for name in names:
        merged |= options.pop(name, None) or {}
    return merged


def _check_options(options: Mapping[str, Any]) -> None:
    for name, why in _NOT_OURS.items():
        if name in options:
            raise ConfigurationError(f"{name}= is not an option of OpenAIChat: {why}")


def _check_json(options: Mapping[str, Any]) -> None:
    try:
        json.dumps(options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the options of OpenAIChat are not all JSON: {error}") from error


def _checked_url(url: str | None, name: str) -> str | None:
    if url and not url.startswith(("http://", "https://")):
        raise ConfigurationError(f'{name} is like "https://host/v1", not {url!r}')
    return url or None
