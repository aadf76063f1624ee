"""One WebSocket to a Quart route: cancelled once its client has gone, and closed at a stop when nothing is going on.

Made by the application of `quart_app.py` for each WebSocket; both backends share it.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any, Protocol, cast

import anyio
from quart import Quart
from quart.asgi import ASGIWebsocketConnection
from quart.signals import websocket_received

from definable.concurrency.call import closing_what_it_leaves
from definable.concurrency.isolation import contain_errors
from definable.server.request_cycle import Message

ROUTE = contain_errors("a route")

BUFFERED_MESSAGES = 10
"""Messages that wait for a route; then its client is not read from."""

BUFFERED_BYTES = 262_144
"""The same in bytes."""

SERVICE_RESTART = 1012
"""WebSocket close code (https://www.iana.org/assignments/websocket)."""

QUIET = 1.0
"""Seconds since a route sent something, after which it is taken for idle at a stop: a reply may be sent in pieces while
the route waits for the next message."""

UNANSWERED = 5.0
"""The same since a message came that nothing has been sent after: somebody may be working on it."""


class WebsocketApp(Protocol):
    """What a connection needs of its application."""

    websockets: set[WebsocketConnection]


class MessageQueue:
    """Messages on their way to a route, bounded; in place of an `asyncio.Queue` without bound."""

    def __init__(self) -> None:
        self._messages: deque[str | bytes] = deque()
        self._size = 0
        self._changed = anyio.Event()
        self._readers = 0

    async def put(self, message: str | bytes) -> None:
        """Adds a message; waits while too much is unread."""
        self._messages.append(message)
        self._size += len(message)
        self._notify()
        while len(self._messages) >= BUFFERED_MESSAGES or self._size > BUFFERED_BYTES:
            await self._changed.wait()

    async def get(self) -> str | bytes:
        """The next message."""
        self._readers += 1
        self._notify()
        try:
            while not self._messages:
                await self._changed.wait()
            message = self._messages.popleft()
        finally:
            self._readers -= 1
        self._size -= len(message)
        self._notify()
        return message

    async def awaited(self) -> None:
        """Returns once the route waits for a message, and there is none."""
        while self._messages or not self._readers:
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class WebsocketConnection(ASGIWebsocketConnection):
    """One WebSocket, from its handshake until its route, its client or a stop ends it."""

    def __init__(self, app: Quart, scope: Any) -> None:
        super().__init__(app, scope)
        self._open = cast(WebsocketApp, app).websockets
        self._messages = MessageQueue()
        self.queue: Any = self._messages
        self._tasks = anyio.create_task_group()
        self._quiet_from = -inf
        """When the route counts as idle if nothing happens until then, on the event loop's clock."""
        self._ended_by_stop = False

    async def __call__(self, receive: Any, send: Any) -> None:
        async def watched_send(message: Message) -> None:
            if message["type"] == "websocket.send":
                self._quiet_from = anyio.current_time() + QUIET
            await send(message)

        async def watch() -> None:
            await self.handle_messages(receive)  # until the client has gone
            self._tasks.cancel_scope.cancel()

        websocket = self._create_websocket_from_scope(cast(Any, watched_send))
        self._open.add(self)
        try:
            async with self._tasks:
                self._tasks.start_soon(watch)
                with ROUTE:
                    await closing_what_it_leaves("a route", self.handle_websocket, websocket, cast(Any, watched_send))
                self._tasks.cancel_scope.cancel()
        finally:
            self._open.discard(self)
        if self._ended_by_stop:
            await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "server restart"})

    def drain(self) -> None:
        """Closes the WebSocket with 1012 as soon as its route waits for a message and is idle."""
        self._tasks.start_soon(self._end_when_idle)

    async def handle_messages(self, receive: Any) -> None:
        """Takes messages in until the client has gone, also empty ones: Quart looks for the text of empty bytes."""
        while (event := await receive())["type"] != "websocket.disconnect":
            if event["type"] == "websocket.receive":
                self._quiet_from = anyio.current_time() + UNANSWERED
                data = event.get("bytes")
                message = event["text"] if data is None else data
                await websocket_received.send_async(message)
                await self._messages.put(message)

    async def _end_when_idle(self) -> None:
        while True:
            await self._messages.awaited()
            wait = self._quiet_from - anyio.current_time()
            if wait <= 0:
                self._ended_by_stop = True
                self._tasks.cancel_scope.cancel()
                return
            await anyio.sleep(wait)
