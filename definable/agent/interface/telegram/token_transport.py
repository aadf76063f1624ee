"""Keeps the bot's token out of sight: requests carry a placeholder, which is filled in on the way to the wire.

The Bot API has the token in the URL, and HTTP clients put URLs into logs and exceptions.
"""

from __future__ import annotations

import httpx2

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
