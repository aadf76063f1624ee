"""The way out for the response to one request."""

from __future__ import annotations

from collections.abc import Awaitable

from .answer_memory import LARGE, AnswerMemory
from .server.asgi import WHOLE_RESPONSE, Message, Scope, Send

BODYLESS = frozenset({204, 304})
"""Statuses whose response has no body, and no `Content-Length` (RFC 9110, sections 8.6, 15.3.5 and 15.4.5)."""


class Answer:
    """An ASGI `send` that knows whether the response has started: from then on there is no other.

    Args:
        scope: The request's ASGI scope.
        send: Its ASGI `send`.
        memory: Bounds what large answers hold.
    """

    __slots__ = ("_scope", "_send", "memory", "started")

    def __init__(self, scope: Scope, send: Send, memory: AnswerMemory) -> None:
        self._scope = scope
        self._send = send
        self.memory: AnswerMemory = memory
        self.started: bool = False

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send some of the response."""
        self.started = True
        return self._send(message)

    def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Awaitable[None]:
        """Send all of the response: in one message, where the server takes that.

        Args:
            status: Its status.
            headers: Its headers, less the length, which is added.
            body: Its body; empty, where a response of this status has none.

        Raises:
            Problem: 503, the request may as well come again, and large answers to others hold too much.
        """
        if len(body) >= LARGE:
            return self._large(status, headers, body)
        return self._sent(status, headers, body)

    async def _large(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        refusable = self._scope["method"] in ("GET", "HEAD")  # what came of others was worked for, and is not lost
        with self.memory.held(len(body), refusable=refusable):
            await self._sent(status, headers, body)

    def _sent(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Awaitable[None]:
        if WHOLE_RESPONSE in (self._scope.get("extensions") or ()) and self._scope["method"] != "HEAD":
            self.started = True
            return self._send({"type": WHOLE_RESPONSE, "status": status, "headers": headers, "body": body})
        return self._in_two(status, headers, body)

    async def _in_two(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if status not in BODYLESS:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
