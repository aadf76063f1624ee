"""What the agent's endpoints answer with: whole responses, documents, and problems in place of exceptions.

`ResponseSender` is the way out for the response to one request; `sse.py` streams events through it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import UnionType
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from definable.agent.runtime.run_log import TooManyRuns
from definable.agent.trigger.content import BadContent
from definable.agent.trigger.request import Reply
from definable.concurrency.byte_limit import ByteLimit
from definable.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    EmptyReply,
    EventBusError,
    MaxTurnsExceeded,
    ModelError,
    ModelTimeoutError,
    OutputTruncated,
    RunCancelled,
    RunTimeout,
    SessionNotFound,
    StorageError,
    TooManyOpenFiles,
    UsageLimitExceeded,
)
from definable.json_text import json_bytes, well_formed
from definable.server.problem import Problem
from definable.server.request_cycle import WHOLE_RESPONSE, Message, Scope, Send

from .request import ClientGone, Request, until_gone

RETRY_AFTER = (b"retry-after", b"1")

BUSY_RETRY_AFTER = (b"retry-after", b"5")


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is, without internals.

    A time-out is 504, a failing model provider 502, a foreign or unknown session 404, a saturated service or one out of
    file descriptors 503, and all that nobody foresaw 500.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, BadContent):
        return Problem(error.status, str(error))
    if isinstance(error, RunTimeout):
        return Problem(504, str(error))
    for kinds, status, detail in _FAILURES:
        if isinstance(error, kinds):
            return Problem(status, detail)
    if (lack := _what_lacks(error)) is not None:
        return Problem(503, f"{lack}: try again later", headers=[RETRY_AFTER])
    if isinstance(error, ModelError):
        return Problem(502, _MODEL_FAILURES.get(type(error), "the model provider failed"))
    return Problem(500, "the service failed to handle this request")


_FAILURES: Sequence[tuple[type[Exception] | UnionType, int, str]] = (
    (ModelTimeoutError, 504, "the model provider did not answer in time"),
    (TimeoutError, 504, "the request was not handled in time"),
    (UsageLimitExceeded | MaxTurnsExceeded, 500, "the run came to its limits before it was done"),
    (SessionNotFound, 404, "there is no such session"),
    (RunCancelled, 409, "the run was cancelled"),
)
"""What a caller is told of failures that have one answer, by their classes."""

_MODEL_FAILURES: dict[type[ModelError], str] = {
    OutputTruncated: "the model's reply was cut off at its limit of output tokens",
    ContentFiltered: "the model's provider withheld the reply for what it says",
    EmptyReply: "the model's reply was empty",
    ContextWindowExceeded: "the conversation is longer than the model takes",
}
"""What a caller may know of replies that are no answer."""

MAX_WRONG = 20
"""Wrong fields that are named to the client that sent them."""

MAX_NAME = 100
"""Characters of such a name."""


def wrong_fields(error: ValidationError, more: int = 0) -> Problem:
    """The problem of a body with wrong or missing fields: 422 with their names.

    Args:
        error: What pydantic found.
        more: Wrong fields that it was not shown.
    """
    details = error.errors(include_url=False, include_context=False, include_input=False)
    more += max(0, len(details) - MAX_WRONG)
    errors = [
        {"field": ".".join(map(shortened, each["loc"])) or "body", "message": each["msg"]}
        for each in details[:MAX_WRONG]
    ]
    fields = ", ".join(each["field"] for each in errors) + (f" and {more:,} more" if more else "")
    return Problem(422, f"wrong or missing: {fields}", errors=errors)


def shortened(name: object) -> str:
    """A field's name, which whoever sends it may make as long as a body."""
    text = str(name)
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"


def _what_lacks(error: Exception) -> str | None:
    """What the service has too little of for now; None when that is not why it failed."""
    if isinstance(error, TooManyOpenFiles):
        return "the service has too many open files"
    if isinstance(error, StorageError):
        return "the service cannot reach its storage"
    return "the service is saturated" if isinstance(error, TooManyRuns | EventBusError) else None


def is_worth_a_traceback(error: Exception, problem: Problem) -> bool:
    """Whether an operator should see the exception: it is nobody's mistake out there, and no mere lack of capacity."""
    if isinstance(error, StorageError | TooManyOpenFiles):
        return True
    return error is not problem and problem.status >= 500 and problem.status != 503


LARGE = 64 * 1024
"""Bytes from which an answer counts: the server hands smaller ones to the operating system in one piece."""

COPIES = 2
"""An answer is in memory as such, and as what the server has still to send."""

BODYLESS = frozenset({204, 304})
"""Statuses whose response has no body, and no `Content-Length` (RFC 9110, sections 8.6, 15.3.5 and 15.4.5)."""


class ResponseSender:
    """An ASGI `send` that knows whether the response has started: from then on there is no other.

    Args:
        scope: The request's ASGI scope.
        send: Its ASGI `send`.
        memory: Bytes that large answers hold, over all clients. A client that does not read holds its answer until the
            server's write time-out; many of them, on connections that cost them nothing, must not add up to more.
    """

    __slots__ = ("_memory", "_scope", "_send", "started")

    def __init__(self, scope: Scope, send: Send, memory: ByteLimit) -> None:
        self._scope = scope
        self._send = send
        self._memory = memory
        self.started: bool = False

    async def __call__(self, message: Message) -> None:
        """Send some of the response."""
        self.started = True
        await self._send(message)

    async def send_all(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send all of the response: in one message, where the server takes that.

        Args:
            status: Its status.
            headers: Its headers, less the length, which is added.
            body: Its body; empty, where a response of this status has none.

        Raises:
            Problem: 503, the request may as well come again, and large answers to others hold too much.
        """
        if len(body) < LARGE:
            await self._send_body(status, headers, body)
            return
        size = len(body) * COPIES
        if self._scope["method"] in ("GET", "HEAD") and not self._memory.has(size):
            raise Problem(503, "too many large answers are on their way: try again later", headers=[BUSY_RETRY_AFTER])
        with self._memory.held_anyway(size):  # what came of others was worked for, and is not lost
            await self._send_body(status, headers, body)

    @asynccontextmanager
    async def part_of(self, size: int) -> AsyncGenerator[None]:
        """Count a part of a stream while the context is open; wait for capacity first.

        Args:
            size: Bytes of the part, about; what is not large does not wait.
        """
        if size < LARGE:
            yield
            return
        async with self._memory.acquired(size * COPIES):
            yield

    async def _send_body(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if WHOLE_RESPONSE in (self._scope.get("extensions") or ()) and self._scope["method"] != "HEAD":
            await self({"type": WHOLE_RESPONSE, "status": status, "headers": headers, "body": body})
            return
        if status not in BODYLESS:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class Sendable(Protocol):
    """Something to answer with."""

    async def send(self, sender: ResponseSender, /) -> None:
        """Answer a request; what it raises becomes the response, unless one has started."""
        ...


HOP_BY_HOP = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade"})
"""Headers that say how the message travels: the server's to say, not a handler's."""

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
"""RFC 9110, section 5.1, in lower case."""

VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
"""RFC 9110, section 5.5."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    body: bytes
    status: int = 200
    content_type: bytes | None = b"application/json"
    headers: Iterable[tuple[bytes, bytes]] = ()

    async def send(self, sender: ResponseSender) -> None:
        """Answer a request."""
        headers = [*self.headers]
        if self.status in BODYLESS:
            await sender.send_all(self.status, headers, b"")
            return
        if self.content_type is not None:
            headers.append((b"content-type", self.content_type))
        await sender.send_all(self.status, headers, self.body)


class Document(BaseModel):
    """Anything that goes out; what each field is, its docstring says. One with a default may be absent."""

    model_config: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True, defer_build=True)

    _required: ClassVar[tuple[str, ...]]
    _values_of: ClassVar[Callable[[object], tuple[Any, ...]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        fields = cls.__pydantic_fields__
        cls._required = tuple(name for name, field in fields.items() if field.is_required())
        cls._values_of = attrgetter(*cls._required, "__class__")  # of one name alone it would give no tuple

    @classmethod
    def of(cls, source: object, **fields: Any) -> dict[str, Any]:
        """The document of an object that has attributes of the required fields' names; `fields` are other values.

        Not validated: pydantic refuses text that UTF-8 cannot hold, which a model or a user may bring along, and its
        validation takes twice the time.
        """
        document = dict(zip(cls._required, cls._values_of(source), strict=False))
        document.update(fields)
        return document


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """A response whose body a handler writes as it goes."""

    write: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
    status: int
    headers: list[tuple[bytes, bytes]]
    request: Request | None

    async def send(self, sender: ResponseSender) -> None:
        """Answer a request; HEAD gets the headers alone."""
        await sender({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if self.request is not None and self.request.method == "HEAD":
            await sender({"type": "http.response.body", "body": b""})
            return
        await self._send_chunk(sender, b"")  # a server may hold the head back for it
        write = partial(self.write, partial(self._send_chunk, sender))
        try:
            await (write() if self.request is None else until_gone(self.request, write))
        except ClientGone:
            return
        await sender({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_chunk(self, sender: ResponseSender, data: bytes) -> None:
        await sender({"type": "http.response.body", "body": data, "more_body": True})


def json_response(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """A response with a value as JSON."""
    return Response(json_bytes(value), status, headers=headers)


def reply_response(reply: Reply, request: Request | None = None) -> Sendable:
    """A handler's own response, sent as is.

    Args:
        reply: The handler's.
        request: What it answers: one that streams ends when its client leaves.

    Raises:
        ValueError: A header cannot be sent.
    """
    headers = header_items(reply.header_pairs())
    own_type = any(name == b"content-type" for name, _ in headers)
    if callable(reply.body):
        write: Any = reply.body
        return StreamedResponse(write, reply.status, headers, request)
    match reply.body:
        case None:
            body, content_type = b"", None
        case bytes():
            body, content_type = reply.body, b"application/octet-stream"
        case str():
            body, content_type = well_formed(reply.body).encode(), b"text/plain; charset=utf-8"
        case _:
            body, content_type = json_bytes(reply.body), b"application/json"
    return Response(body, reply.status, None if own_type else content_type, headers)


def header_items(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them, less those that are the server's to say.

    Raises:
        ValueError: A name or a value cannot be sent, say since it would break out of its line.
    """
    items: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        raw_name, raw_value = str(name).lower().encode("latin-1"), str(value).strip(" \t").encode("latin-1")
        if not (NAME.fullmatch(raw_name) and VALUE.fullmatch(raw_value)):
            raise ValueError(f"Reply(headers={{{name!r}: {value!r}}}): no valid HTTP header")
        if raw_name not in HOP_BY_HOP:
            items.append((raw_name, raw_value))
    return items
