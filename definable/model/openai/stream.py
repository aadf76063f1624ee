"""One streamed answer of a Chat Completions server; `model.py` hands it out, the run loop reads it.

The SSE lines are read here and not by the SDK, whose objects cost five times as much a chunk, and which takes a stream
that broke off for one that ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import anyio
import httpx2

from definable.errors import ModelResponseError
from definable.model.message import ModelDelta

from .client import OpenAIClient
from .errors import EXPLAINED, raise_explained
from .response import ReplyAssembler, SSEDecoder

DONE = "[DONE]"

DRAIN_TIMEOUT = 0.1
"""Seconds that leaving a complete stream waits for its last bytes: only then can the connection be used again."""


class ChatStream:
    """An async context manager that is its own iterator: no scope stays open between two deltas.

    Args:
        client: The running event loop's.
        body: The request, as JSON.

    Raises:
        ModelError: The provider failed: when entered, or in the middle.
    """

    def __init__(self, client: OpenAIClient, body: bytes) -> None:
        self._client = client
        self._body = body
        self._over = False

    async def __aenter__(self) -> ChatStream:
        self._events, self._assembler, self._first_text = await self._client.retrying(self._begin)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._over and exc is None:
                await self._events.drain()
        finally:
            await self._events.aclose()

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> ModelDelta:
        if self._over:
            raise StopAsyncIteration
        text, self._first_text = self._first_text, ""
        try:
            text = text or await self._next_text()
        except EXPLAINED as error:
            self._over = True
            raise_explained(self._client.explain(error), error)
        if text:
            return ModelDelta(text)
        self._over = True
        return ModelDelta(reply=self._assembler.reply())

    async def _begin(self) -> tuple[_Events, ReplyAssembler, str]:
        """Open the stream and take its first chunk: until then it can be tried again."""
        events = _Events(await self._client.post(self._body))
        assembler = ReplyAssembler()
        try:
            data = await events.first()
            if data is None or data == DONE:
                raise ModelResponseError("the model provider's stream ended before its first chunk")
            return events, assembler, assembler.add(data)
        except BaseException:
            await events.aclose()
            raise

    async def _next_text(self) -> str:
        """The next text, empty at the end of a complete reply."""
        while True:
            try:
                data = await self._events.next()
            except httpx2.TransportError:
                if self._assembler.finish_reason is None:
                    raise
                return ""  # nothing but the usage can be missing
            if data is None or data == DONE:
                self._check_complete(done=data is not None)
                return ""
            if text := self._assembler.add(data):
                return text

    def _check_complete(self, *, done: bool) -> None:
        if self._assembler.finish_reason is None and not (done and self._assembler.has_choice):
            raise ModelResponseError("the model provider's stream broke off: it ended without finish_reason or [DONE]")


class _Events:
    """The data of an answer's server-sent events."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._decoder = SSEDecoder()
        self._ready: Iterator[str] = iter(())

    async def first(self) -> str | None:
        """The first event's data; the whole answer of a server that cannot stream and sends it at once."""
        if self._response.headers.get("content-type", "").startswith("application/json"):
            return (await self._response.aread()).decode("utf-8", "replace")
        return await self.next()

    async def next(self) -> str | None:
        """The next event's data, None at the end of the answer."""
        while True:
            for data in self._ready:
                return data
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return None
            self._ready = self._decoder.feed(chunk)

    async def drain(self) -> None:
        """Read what is left, as long as it takes no time."""
        with anyio.move_on_after(DRAIN_TIMEOUT):
            try:
                while await self.next() is not None:
                    pass
            except EXPLAINED:
                return  # the reply is complete, and the connection will not be used again

    async def aclose(self) -> None:
        """Close the connection, or give it back when the answer was read to its end."""
        try:
            await self._chunks.aclose()
        finally:
            await self._response.aclose()
