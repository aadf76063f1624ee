"""One streamed answer of a provider; `OpenAIChat` and `Claude` hand it out, the run loop reads it.

The server-sent events are read here and not by the SDKs, whose objects cost five times as much a chunk, which leave
async generators behind, of which trio warns, and which take a stream that broke off for one that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import anyio
import httpx2

from definable.concurrency.event_loop import loop_clock
from definable.errors import ModelResponseError

from .failure import NoReply, raise_explained
from .message import ModelDelta, ModelReply
from .sdk_client import SDKClient
from .sse import SSEDecoder

DRAIN_TIMEOUT = 0.1
"""Seconds that leaving a complete stream waits for its last bytes: only then can the connection be used again."""

_END: Iterator[str] = iter(())
"""What stands for the end of the answer."""


class Assembler(Protocol):
    """Puts a reply together from the data of an answer's events."""

    brought: bool
    """Whether what was added last was more than a sign of life."""

    is_over: bool
    """Whether what was added last was the answer's end: nothing behind it is read."""

    @property
    def is_complete(self) -> bool:
        """Whether the reply is whole, as the provider says."""
        ...

    def add(self, payload: str) -> str:
        """Take an event's data; return the text that it adds."""
        ...

    def end(self) -> str:
        """Return the text that was held back, now that none follows."""
        ...

    def broke_off(self) -> str:
        """What is missing of an answer that ended and is not complete."""
        ...

    def reply(self) -> ModelReply:
        """The reply as far as it came."""
        ...


class ReplyStream:
    """An async context manager that is its own iterator: no scope stays open between two deltas.

    Until something of the reply comes, an answer is asked for again where that can help: many servers send a chunk with
    nothing but the role at once, and fail thereafter.

    Args:
        client: The running event loop's.
        body: The request, as JSON.
        new_assembler: Makes what puts a reply together.

    Raises:
        ModelError: The provider failed: when entered, or in the middle.
    """

    def __init__(self, client: SDKClient, body: bytes, new_assembler: Callable[[], Assembler]) -> None:
        self._client = client
        self._body = body
        self._new_assembler = new_assembler
        self._is_over = False

    async def __aenter__(self) -> ReplyStream:
        self._now = loop_clock()
        self._first_text = await self._client.retrying(self._begin)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if self._is_over and error is None:
                await self._drain()
        finally:
            await self._close()

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> ModelDelta:
        if self._is_over:
            raise StopAsyncIteration
        text, self._first_text = self._first_text, ""
        try:
            if not text and not self._has_ended:
                text = await self._next_text()
        except self._client.explained as error:
            self._is_over = True
            raise_explained(self._client.explain(error), error)
        if text:
            return ModelDelta(text)
        self._is_over = True
        return ModelDelta(reply=self._assembler.reply())

    async def _begin(self) -> str:
        """Open the answer and read it until something of the reply comes; return its text."""
        self._assembler, self._decoder, self._ready = self._new_assembler(), SSEDecoder(), iter(())
        self._has_ended = False  # no text comes any more, but perhaps the reply
        deadline = self._now() + self._client.timeout
        response: httpx2.Response | None = None
        with anyio.CancelScope(deadline=deadline):
            response = await self._client.post(self._body)
        if response is None:
            raise httpx2.ReadTimeout("")
        self._response, self._chunks = response, response.aiter_bytes()
        try:
            return await self._next_text(deadline)
        except BaseException:
            await self._close()
            raise

    async def _next_text(self, begin_until: float | None = None) -> str:
        """The next text, empty at the end of a complete reply.

        Args:
            begin_until: When to give up, of an answer that begins: what brings something without a text is enough then.
        """
        assembler, deadline = self._assembler, begin_until
        while self._ready is not _END:
            for data in self._ready:
                if not data or data.isspace():  # some keep the connection alive by empty events
                    continue
                text = assembler.add(data)
                if assembler.is_over:
                    return self._end(is_begin=begin_until is not None)
                if text or (begin_until is not None and assembler.brought):
                    return text
                if assembler.brought:  # a wait counts from what brought something, not from a sign of life
                    deadline = None
            if deadline is None:
                deadline = self._now() + self._client.timeout
            self._ready = await self._events_by(deadline)
        return self._end(is_begin=begin_until is not None)

    async def _events_by(self, deadline: float) -> Iterator[str]:
        """The events of the next bytes, which come until `deadline` or are a `ReadTimeout`."""
        events: Iterator[str] | None = None
        try:
            with anyio.CancelScope(deadline=deadline):
                events = await self._more()
        except httpx2.TransportError:
            if not self._assembler.is_complete:
                raise
            return _END  # nothing but the usage can be missing
        if events is None:
            raise httpx2.ReadTimeout("")
        return events

    async def _more(self) -> Iterator[str]:
        """The events of the next bytes, or the whole answer of a server that cannot stream."""
        if self._response.headers.get("content-type", "").startswith("application/json"):
            whole = "" if self._response.is_closed else (await self._response.aread()).decode("utf-8", "replace")
            return iter((whole,)) if whole else _END
        chunk = await anext(self._chunks, None)
        if chunk is not None:
            return self._decoder.feed(chunk)
        rest = self._decoder.end()
        return _END if rest is None else iter((rest,))

    def _end(self, *, is_begin: bool) -> str:
        self._has_ended = True
        if self._assembler.is_complete:
            return self._assembler.end()
        if is_begin:
            raise NoReply(self._assembler.broke_off())
        raise ModelResponseError(self._assembler.broke_off())

    async def _drain(self) -> None:
        """Read what is left, as long as it takes no time."""
        with anyio.move_on_after(DRAIN_TIMEOUT), suppress(*self._client.explained):
            async for _ in self._chunks:
                pass

    async def _close(self) -> None:
        """Close the connection, or give it back when the answer was read to its end."""
        try:
            await self._chunks.aclose()
        finally:
            await self._response.aclose()
