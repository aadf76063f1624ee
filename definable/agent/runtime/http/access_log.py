"""One log line a request, with `serve(access_log=True)`: around the ASGI entry, behind our own server."""

from __future__ import annotations

import logging
from time import perf_counter
from urllib.parse import quote

from .server.asgi import WHOLE_RESPONSE, ASGIApp, Message, Receive, Scope, Send

logger: logging.Logger = logging.getLogger("definable.access")

RUN_NOTE = "definable.run_note"
"""Where in a scope an endpoint notes down the run that it made: a list of ids."""

SWITCHING_PROTOCOLS, CLIENT_LEFT = 101, 499


class AccessLog:
    """An ASGI application around another, which logs what becomes of each request when it has ended.

    A line has client, method, path, status, bytes of the body (or of a WebSocket's messages) and milliseconds, each
    also as a field of its own; the run, where there is one. Never the query, where people put tokens.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have one request answered, or one WebSocket served."""
        line = AccessLine(scope, send)
        try:
            await self._app(scope, receive, line.send)
        finally:
            line.write()


class AccessLine:
    """What becomes of one request."""

    __slots__ = ("_bytes", "_runs", "_scope", "_send", "_started", "_status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = perf_counter()
        self._status: int | None = None
        self._bytes = 0
        self._runs: list[str] = scope.setdefault(RUN_NOTE, [])

    async def send(self, message: Message) -> None:
        """The application's `send`."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
            case "http.response.body" | "websocket.http.response.body":
                self._bytes += len(message.get("body", b""))
            case "websocket.accept":
                self._status = SWITCHING_PROTOCOLS
            case "websocket.send":
                text = message.get("text")
                self._bytes += len(message.get("bytes") or b"") if text is None else len(text.encode())
            case "websocket.close" if self._status is None:
                self._status = 403
            case kind if kind == WHOLE_RESPONSE:
                self._status = message["status"]
                self._bytes += len(message["body"])
            case _:
                pass
        await self._send(message)

    def write(self) -> None:
        """Log the line."""
        scope = self._scope
        client = scope.get("client")
        fields = {
            "client": client[0] if client else "-",
            "method": scope["method"] if scope["type"] == "http" else "WEBSOCKET",
            "path": quote(scope["path"].encode(errors="surrogateescape"), safe="/:@!$&'()*+,;=-._~"),
            "status": CLIENT_LEFT if self._status is None else self._status,
            "bytes": self._bytes,
            "duration_ms": round((perf_counter() - self._started) * 1000, 1),
        }
        run = {"run_id": self._runs[-1]} if self._runs else {}
        logger.info("%s %s %s %d, %d bytes, %g ms", *fields.values(), extra=fields | run)
