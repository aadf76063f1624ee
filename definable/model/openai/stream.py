"""One streamed answer of a Chat Completions server; `model.py` hands it out, the run loop reads it.

The SSE lines are read here and not by the SDK, whose objects cost five times as much a chunk, and which takes a stream
that broke off for one that ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType

import anyio
import httpx2

from definable.errors import ModelResponseError
from definable.model.message import ModelDelta

from .client import OpenAIClient
from .completion import ProviderError, fields_of
from .errors import EXPLAINED, raise_explained
from .events import DONE, ErrorEvent, SSEDecoder
from .response import NoReply, ReplyAssembler

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
        self._ended = False
        """No text comes any more, but perhaps the reply."""

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
            if not text and not self._ended:
                text = await self._next_text()
        except EXPLAINED as error:
            self._over = True
            raise_explained(self._client.explain(error), error)
        if text:
            return ModelDelta(text)
        self._over = True
        return ModelDelta(reply=self._assembler.reply())

    async def _begin(self) -> tuple[_Events, ReplyAssembler, str]:
        """Open the stream and read it until something of the reply comes: until then it can be tried again.

        Many servers send a chunk with nothing but the role at once, and fail thereafter.
        """
        profile = self._client.profile
        assembler = ReplyAssembler(profile.name, think_tags=profile.think_tags)
        deadline = anyio.current_time() + self._client.timeout
        events: _Events | None = None
        with anyio.CancelScope(deadline=deadline):
            events = _Events(await self._client.post(self._body))
        if events is None:
            raise httpx2.ReadTimeout("")
        try:
            while not assembler.brought:
                data = await events.next(deadline)
                if data is None or data.strip() == DONE:
                    if not assembler.has_choice:
                        raise NoReply("the model provider's stream ended before its first chunk")
                    if not assembler.is_complete:
                        raise NoReply(_broke_off(assembler))
                    break
                if text := _add(data, assembler):
                    return events, assembler, text
            return events, assembler, ""
        except BaseException:
            await events.aclose()
            raise

    async def _next_text(self) -> str:
        """The next text, empty at the end of a complete reply."""
        deadline = anyio.current_time() + self._client.timeout
        while True:
            try:
                data = await self._events.next(deadline)
            except httpx2.TransportError:
                if not self._assembler.is_complete:
                    raise
                data = None  # nothing but the usage can be missing
            if data is None or data.strip() == DONE:
                if not self._assembler.is_complete:
                    raise ModelResponseError(_broke_off(self._assembler))
                self._ended = True
                return self._assembler.end()
            if text := _add(data, self._assembler):
                return text
            if self._assembler.brought:  # a wait counts from what brought something, not from a sign of life
                deadline = anyio.current_time() + self._client.timeout


def _broke_off(assembler: ReplyAssembler) -> str:
    strange = f"; it holds {assembler.strange}" if assembler.strange else ""
    return f"the model provider's stream broke off: it ended without finish_reason{strange}"


def _add(data: str, assembler: ReplyAssembler) -> str:
    """Give an event's data to the assembler; return the text that it adds."""
    if isinstance(data, ErrorEvent):
        raise ProviderError(_json_or_text(data))
    try:
        return assembler.add(data)
    except ModelResponseError:
        lines = data.splitlines()
        if len(lines) < 2:
            raise
        # A server that ends its events with one line break: by the standard they are one event of many lines.
        return "".join([assembler.add(line) for line in lines if line.strip() not in ("", DONE)])


def _json_or_text(data: str) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return fields_of(value).get("error") or value


class _Events:
    """The data of an answer's server-sent events."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._decoder = SSEDecoder()
        self._ready: Iterator[str] = iter(())
        self._is_whole = response.headers.get("content-type", "").startswith("application/json")

    async def next(self, deadline: float) -> str | None:
        """The next event's data, or the whole answer of a server that cannot stream; None at the end.

        Args:
            deadline: When to give up, by the event loop's clock.

        Raises:
            ReadTimeout: It came to that.
        """
        while True:
            for data in self._ready:
                if data and not data.isspace():  # some keep the connection alive by empty events
                    return data
            with anyio.CancelScope(deadline=deadline) as scope:
                self._ready = await self._more()
            if scope.cancelled_caught:
                raise httpx2.ReadTimeout("")
            if self._ready is _END:
                return None

    async def _more(self) -> Iterator[str]:
        if self._is_whole:
            whole = "" if self._response.is_closed else (await self._response.aread()).decode("utf-8", "replace")
            return iter((whole,)) if whole else _END
        chunk = await anext(self._chunks, None)
        if chunk is not None:
            return self._decoder.feed(chunk)
        rest = self._decoder.end()
        return _END if rest is None else iter((rest,))

    async def drain(self) -> None:
        """Read what is left, as long as it takes no time."""
        deadline = anyio.current_time() + DRAIN_TIMEOUT
        try:
            while await self.next(deadline) is not None:
                pass
        except EXPLAINED:
            return  # the reply is complete, and the connection will not be used again

    async def aclose(self) -> None:
        """Close the connection, or give it back when the answer was read to its end."""
        try:
            await self._chunks.aclose()
        finally:
            await self._response.aclose()


_END: Iterator[str] = iter(())
"""What stands for the end of the answer."""
