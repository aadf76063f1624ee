"""The body of an HTTP answer that may be left half-read: broken off, or impossible to decode.

The clients of this package that speak through httpx2 (the model provider's, the chat platforms') have it as a hook.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from typing import cast

import httpx2


class HalfReadBody(httpx2.AsyncByteStream):
    """A body that leaves nothing behind when it is closed before its end.

    httpx2 leaves a generator of its own to the garbage collector, about which trio warns; a read from the closed
    connection ends it: https://github.com/pydantic/httpx2/issues/1195

    Args:
        body: The body as it comes from the connection.
    """

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        chunks = aiter(cast("AsyncIterable[bytes]", self._body))
        try:
            async for chunk in chunks:
                yield chunk
        except GeneratorExit:
            try:
                await self._body.aclose()
            finally:
                with suppress(httpx2.HTTPError):
                    async for _ in chunks:
                        pass
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


async def may_be_half_read(response: httpx2.Response) -> None:
    """Give an answer such a body; a hook of httpx2's for responses."""
    response.stream = HalfReadBody(cast("httpx2.AsyncByteStream", response.stream))
