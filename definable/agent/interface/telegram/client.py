"""The Bot API over one HTTP client: call a method, fetch a file.

A long poll holds a connection for its time: every bot has a client of its own, with bounded limits.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from definable.agent.interface.errors import InterfaceConnectionError, InterfaceMessageError
from definable.half_read_body import may_be_half_read

from .config import TelegramConfig
from .failure import TelegramUnreached, result_of
from .token_transport import PLACEHOLDER, TokenTransport

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
