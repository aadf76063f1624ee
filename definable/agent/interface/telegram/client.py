"""The Bot API over one HTTP client: call a method, fetch a file.

A long poll holds a connection for its time: every bot has a client of its own, with bounded limits.

What an answer of the Bot API means: pure.

```
InterfaceError
├── InterfaceAuthenticationError   401, 404: no such bot, or its token was revoked
├── InterfaceRateLimitError        429, with `parameters.retry_after`
├── InterfaceMessageError
│   └── TelegramRefusal            400, 403 and other refusals of one request
└── InterfaceConnectionError       5xx, an answer that is none, a connection that broke
    ├── TelegramConflict           409: another poller, or a webhook
    └── TelegramUnreached          the request was never sent: it may be sent again
```
Source: https://core.telegram.org/bots/api#making-requests and #responseparameters

Keeps the bot's token out of sight: requests carry a placeholder, which is filled in on the way to the wire.

The Bot API has the token in the URL, and HTTP clients put URLs into logs and exceptions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias, cast
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from pydantic_core import from_json

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)
from definable.half_read_body import may_be_half_read

from .config import TelegramConfig

PLACEHOLDER = "/bot:token/"
"""In place of `/bot<token>/`."""


class TokenTransport(httpx2.AsyncBaseTransport):
    """Puts the token into the URL of every request.

    Args:
        inner: Sends the request.
        token: The bot's.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, token: str) -> None:
        self._inner = inner
        self._path = f"/bot{token}/".encode()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.replace(PLACEHOLDER.encode(), self._path, 1)
        secret = httpx2.Request(
            request.method,
            request.url.copy_with(raw_path=path),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return await self._inner.handle_async_request(secret)

    async def aclose(self) -> None:
        await self._inner.aclose()


class TelegramConflict(InterfaceConnectionError):
    """Somebody else gets this bot's updates."""

    status: int | None = 409


class TelegramUnreached(InterfaceConnectionError):
    """The request never reached Telegram."""


class TelegramRefusal(InterfaceMessageError):
    """Telegram refuses a request as it stands.

    Args:
        message: What happened.
        status: Telegram's error code.
        description: Telegram's words.
        moved_to: The id of the supergroup that the chat has become.
    """

    def __init__(self, message: str, *, status: int, description: str, moved_to: int | None = None) -> None:
        super().__init__(message, status=status)
        self.description = description
        self.moved_to = moved_to

    def says(self, words: str) -> bool:
        """Whether Telegram's description has the words in it."""
        return words in self.description.lower()


def result_of(method: str, status: int, body: bytes) -> Any:
    """The `result` of a method's answer.

    Raises:
        InterfaceError: The answer says, or shows, that the method failed; see the module.
    """
    try:
        answer = from_json(body)
    except ValueError:
        raise InterfaceConnectionError(f"{method}: Telegram answered {status}, and not in JSON") from None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise InterfaceConnectionError(f"{method}: Telegram answered {status}, and not as the Bot API does")
    fields = cast("dict[str, Any]", answer)
    if fields["ok"] is True and "result" in fields:
        return fields["result"]
    raise failure_of(method, status, fields)


def failure_of(method: str, status: int, fields: Mapping[str, Any]) -> InterfaceError:
    """The error of an answer that is not ok."""
    code = _integer(fields.get("error_code")) or status
    description = str(fields.get("description", "no description"))
    message = f"{method}: Telegram answered {code}: {description}"
    raw = fields.get("parameters")
    parameters = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
    if code in (401, 404):
        return InterfaceAuthenticationError(message, status=code)
    if code == 409:
        return TelegramConflict(message)
    if code == 429:
        return InterfaceRateLimitError(message, retry_after=_integer(parameters.get("retry_after")))
    if code >= 500:
        return InterfaceConnectionError(message, status=code)
    moved_to = _integer(parameters.get("migrate_to_chat_id"))
    return TelegramRefusal(message, status=code, description=description, moved_to=moved_to)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


MAX_FILE_SIZE = 20 * 1024 * 1024
"""Bytes that a bot can fetch (https://core.telegram.org/bots/api#getfile)."""

MAX_CONNECTIONS = 64
"""At once, the poll's included."""

Upload: TypeAlias = tuple[str, bytes, str]
"""File name, content and MIME type."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Failures before the first byte of a request was sent."""


class BotAPI:
    """Calls methods of the Bot API.

    Args:
        client: Made by `bot_api`.
        request_timeout: Seconds that one request may take.
    """

    def __init__(self, client: httpx2.AsyncClient, request_timeout: float) -> None:
        self._client = client
        self._request_timeout = request_timeout

    async def call(
        self,
        method: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        uploads: Mapping[str, Upload] | None = None,
        held_open: float = 0.0,
    ) -> Any:
        """Call a method, once.

        Args:
            method: Its name.
            parameters: Those that are None are left out.
            uploads: Files that are sent along, by parameter.
            held_open: Seconds that Telegram may hold the request open.

        Raises:
            InterfaceError: It failed; see `failure.py`.
        """
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        body: dict[str, Any] = {"json": given} if uploads is None else {"data": given, "files": dict(uploads)}
        timeout = httpx2.Timeout(self._request_timeout, connect=self._client.timeout.connect)
        timeout.read = self._request_timeout + held_open
        try:
            response = await self._client.post(f"{PLACEHOLDER}{method}", timeout=timeout, **body)
        except _UNSENT as error:
            raise TelegramUnreached(f"{method}: Telegram cannot be reached: {_words(error)}") from None
        except httpx2.HTTPError as error:
            raise InterfaceConnectionError(f"{method}: no answer from Telegram: {_words(error)}") from None
        return result_of(method, response.status_code, response.content)

    async def fetch(self, path: str) -> bytes:
        """Fetch a file by the `file_path` that getFile gave.

        Raises:
            InterfaceConnectionError: It could not be fetched.
            InterfaceMessageError: It is larger than a bot can fetch.
        """
        content = bytearray()
        try:
            async with self._client.stream("GET", f"/file{PLACEHOLDER}{quote(path)}") as response:
                if response.status_code != 200:
                    raise InterfaceConnectionError(f"a file could not be fetched: Telegram says {response.status_code}")
                async with aclosing(response.aiter_bytes()) as chunks:
                    async for chunk in chunks:
                        content += chunk
                        if len(content) > MAX_FILE_SIZE:
                            raise InterfaceMessageError(f"a file is larger than {MAX_FILE_SIZE} bytes")
        except httpx2.HTTPError as error:
            raise InterfaceConnectionError(f"a file could not be fetched: {_words(error)}") from None
        return bytes(content)


@asynccontextmanager
async def bot_api(config: TelegramConfig) -> AsyncGenerator[BotAPI, None]:
    """The Bot API for one bot, while the context is open."""
    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS // 2)
    transport = TokenTransport(
        httpx2.AsyncHTTPTransport(limits=limits, proxy=_proxy(config.base_url)), config.bot_token
    )
    timeout = httpx2.Timeout(config.request_timeout, connect=config.connect_timeout)
    async with httpx2.AsyncClient(
        base_url=config.base_url, transport=transport, timeout=timeout, event_hooks={"response": [may_be_half_read]}
    ) as client:
        yield BotAPI(client, config.request_timeout)


def _proxy(url: str) -> str | None:
    """The environment's proxy, which a client with a transport of its own does not look for."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _words(error: httpx2.HTTPError) -> str:
    """What an error says, less where it came from: there the token was."""
    return f"{type(error).__name__} {error}".rstrip()
