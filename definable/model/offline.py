"""A model that needs no network: tests, examples and `definable demo` run agents on it.

Deterministic: it echoes, or plays a script. Nothing here knows about providers; the run loop calls it like any `Model`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import count
from math import isfinite
from types import TracebackType
from typing import TypeAlias, cast

import anyio
from anyio.lowlevel import checkpoint

from ..errors import ConfigurationError, ModelError
from .message import ModelDelta, ModelReply, ModelRequest, Usage

ScriptedReply: TypeAlias = str | ModelReply | Exception | type[Exception]
"""What one request is answered with; an exception is raised instead."""

ScriptedCallable: TypeAlias = Callable[[ModelRequest], ScriptedReply | Awaitable[ScriptedReply]]
"""Makes the answer from the request; sync (on the event loop: it must not block) or async."""

Script: TypeAlias = ScriptedReply | ScriptedCallable | Iterable[ScriptedReply | ScriptedCallable]
"""What a whole `OfflineModel` plays."""

MAX_RECORDED_REQUESTS = 1_000
"""Requests that `OfflineModel.requests` keeps; older ones are dropped, so that a served demo does not grow."""

MAX_RECORDED_BYTES = 64 * 1024 * 1024
"""Bytes of text in these requests, the newest in any case."""

_WORD = re.compile(r"\s*\S+\s*|\s+")
_SCRIPT_RULE = "a script holds strings, ModelReplys, exceptions and callables of the request"


class OfflineModel:
    """A deterministic model without a network.

    Without a script it echoes: the reply's content is the last user message's. Usage is an estimate, one token for each
    space-separated word, unless a scripted `ModelReply` brings its own.

    Args:
        script: What to answer. An iterable is played one item a request, in the order in which the requests come; each
            item is a string, a `ModelReply`, an exception (instance or class) to raise, or a sync or async callable of
            the `ModelRequest` that returns one of these. Anything but an iterable (a single string, `ModelReply`,
            exception or callable) answers every request.
        latency: Seconds before each answer, or before the first delta of a streamed one.

    Raises:
        ConfigurationError: The script holds something else, or `latency` is negative.

    Example:
        >>> model = OfflineModel([ModelReply(tool_calls=(ToolCall("add", {"a": 1, "b": 2}),)), "The sum is 3."])
    """

    id = "offline"
    provider = "definable.offline"
    """What spans call it."""

    def __init__(self, script: Script | None = None, *, latency: float = 0.0) -> None:
        if not (isfinite(latency) and latency >= 0):
            raise ConfigurationError(f"latency is a number of seconds, 0 or more, not {latency!r}")
        self.latency = latency
        self.requests: list[ModelRequest] = []
        """What the model was asked, oldest first: the last `MAX_RECORDED_REQUESTS` requests, as they were then."""
        self._recorded_bytes = 0
        """Of what was recorded since it was last counted, and of what there was then."""
        self._next_item: Callable[[], object] | None = None if script is None else _player(script)

    def __repr__(self) -> str:
        return f"OfflineModel({'echo' if self._next_item is None else 'script'}, latency={self.latency})"

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer whole, after `latency` seconds.

        Raises:
            ModelError: The script is exhausted.
            Exception: Whatever the script says.
        """
        self._record(request)
        # Taken before the first await: concurrent requests get the script's items in the order in which they asked.
        item = _last_user_text(request) if self._next_item is None else self._next_item()
        if self.latency:
            await anyio.sleep(self.latency)
        else:
            await checkpoint()
        if type(item) is not str and callable(item) and not isinstance(item, type):
            item = cast("Callable[[ModelRequest], object]", item)(request)
            if inspect.isawaitable(item):
                item = await item
        return _as_reply(item, request)

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """Answer word by word, after `latency` seconds; raises what `reply` raises, when entered."""
        return _OfflineStream(self, request)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    def _record(self, request: ModelRequest) -> None:
        if not (isinstance(request.messages, tuple) and isinstance(request.tools, tuple)):
            request = replace(request, messages=tuple(request.messages), tools=tuple(request.tools))
        self.requests.append(request)
        if len(self.requests) > MAX_RECORDED_REQUESTS:
            del self.requests[0]
        self._recorded_bytes += _text_size(request)
        if self._recorded_bytes > MAX_RECORDED_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        sizes = [_text_size(request) for request in self.requests]  # counted anew: the list is the user's to change
        total, dropped = sum(sizes), 0
        while total > MAX_RECORDED_BYTES // 2 and dropped < len(sizes) - 1:
            total -= sizes[dropped]
            dropped += 1
        del self.requests[:dropped]
        self._recorded_bytes = total


class _OfflineStream:
    """One streamed answer: its words, then the whole reply."""

    def __init__(self, model: OfflineModel, request: ModelRequest) -> None:
        self._model = model
        self._request = request
        self._deltas: Iterator[ModelDelta] = iter(())

    async def __aenter__(self) -> _OfflineStream:
        reply = await self._model.reply(self._request)
        deltas = [ModelDelta(word) for word in cast("list[str]", _WORD.findall(reply.content))]
        self._deltas = iter([*deltas, ModelDelta(reply=reply)])
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deltas = iter(())

    def __aiter__(self) -> _OfflineStream:
        return self

    async def __anext__(self) -> ModelDelta:
        await checkpoint()
        for delta in self._deltas:
            return delta
        raise StopAsyncIteration


def _player(script: Script) -> Callable[[], object]:
    """A function that gives the script's next item."""
    if isinstance(script, str) or not isinstance(script, Iterable):
        answer = _checked(script)
        return lambda: answer
    items = cast("Iterable[object]", script)
    if isinstance(script, Sequence):
        items = [_checked(item) for item in items]
    return _next_of(iter(items))


def _next_of(items: Iterator[object]) -> Callable[[], object]:
    numbers = count(1)

    def next_item() -> object:
        number = next(numbers)
        for item in items:
            return item
        return ModelError(f"OfflineModel's script is exhausted: it has no answer for request {number}")

    return next_item


def _checked(item: object) -> object:
    if isinstance(item, (str, ModelReply, Exception)) or callable(item):
        return item
    raise ConfigurationError(f"OfflineModel cannot answer with {item!r}: {_SCRIPT_RULE}")


def _as_reply(item: object, request: ModelRequest) -> ModelReply:
    if isinstance(item, str):
        return ModelReply(item, usage=_estimate(request, item), model=OfflineModel.id)
    if isinstance(item, ModelReply):
        return _completed(item, request)
    if isinstance(item, Exception):
        raise item.with_traceback(None)  # or one that answers every request would keep the frames of all
    if isinstance(item, type) and issubclass(item, Exception):
        raise item("raised by OfflineModel's script")
    raise ModelError(f"OfflineModel cannot answer with {item!r}: {_SCRIPT_RULE}")


def _completed(reply: ModelReply, request: ModelRequest) -> ModelReply:
    """A scripted reply with what its author may leave out: usage, the model's name, the finish reason of tool calls."""
    tool_calls = tuple(reply.tool_calls)
    asks_for_tools = tool_calls and reply.finish_reason == "stop"
    return ModelReply(  # `replace` costs three times as much
        reply.content,
        tool_calls,
        reply.usage if reply.usage.total_tokens else _estimate(request, reply.content),
        reply.model or OfflineModel.id,
        "tool_calls" if asks_for_tools else reply.finish_reason,
        reply.reasoning,
        reply.provider,
        reply.provider_data,
    )


def _text_size(request: ModelRequest) -> int:
    return sum(map(sys.getsizeof, [message.content for message in request.messages]))


def _last_user_text(request: ModelRequest) -> str:
    for message in reversed(request.messages):
        if message.role == "user":
            return message.content
    return ""


def _estimate(request: ModelRequest, answer: str) -> Usage:
    # Joined, the words of a long session are counted at once: one by one they would cost more than all else of a run.
    return Usage(_words(" ".join([message.content for message in request.messages if message.content])), _words(answer))


def _words(text: str) -> int:
    return text.count(" ") + 1 if text else 0
