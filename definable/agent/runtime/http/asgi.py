"""`agent.asgi()`: the agent under another ASGI server, whose lifespan runs everything but the listener.

What such servers do otherwise than our own is met here: middleware that takes no answer for a failure, and a kept
connection that ends when a request's body was not read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from definable.concurrency.isolation import error_text
from definable.concurrency.logs import logger_named
from definable.server import ASGIApp
from definable.server.problem import Problem, send_problem
from definable.server.request_cycle import Message, Receive, Scope, Send

from .app import refuse

if TYPE_CHECKING:
    from definable.agent.runtime.runtime import AgentRuntime

logger: logging.Logger = logger_named(__name__)

UNREAD_BYTES = 64 * 1024
"""Of a body that the application did not read, which are read for the sake of the connection."""

UNREAD_SECONDS = 2.0
"""How long the answer to such a request waits for the rest of its body."""


class LifespanApp:
    """Serves while the server's lifespan is on (ASGI lifespan protocol, https://asgi.readthedocs.io).

    The lifespan's own task enters and leaves the runtime's task group, so it is safe under any server. An application
    that mounts this one, and so keeps the server's lifespan to itself, enters `lifespan` in its own.

    Args:
        running: Makes the context in which the runtime runs.
    """

    def __init__(self, running: Callable[[], AbstractAsyncContextManager[AgentRuntime]]) -> None:
        self._running = running
        self._runtime: AgentRuntime | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._runtime is not None and self._runtime.http is not None:
            await answered(self._runtime.http.app, scope, receive, send)
        else:
            await refuse(scope, send, Problem(503, "not serving: this application needs its server's lifespan on"))

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None, None]:
        """Serve while the context is open: for the lifespan of an application that mounts this one.

        Args:
            app: Not used; Starlette and FastAPI hand over the application.
        """
        async with self._running() as self._runtime:
            try:
                yield
            finally:
                self._runtime = None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        phase = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()  # lifespan.shutdown
        except Exception as error:
            failure: Message = {"type": f"lifespan.{phase}.failed", "message": error_text(error)}
            await send(failure)
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call an application, and answer 499 for it where the client went away before it did.

    Nobody reads that; but middleware above waits for an answer and takes none for a failure, as Starlette's
    `BaseHTTPMiddleware` does ("No response returned.", https://github.com/Kludex/starlette/issues/2516). The status
    is nginx's for it, and shows in the server's access log.
    """
    if scope["type"] == "websocket":
        await app(scope, receive, partial(closing_quietly, send))
        return
    started = False

    async def watched(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    if has_body(scope):
        body = UnreadBody(receive, watched)
        await app(scope, body.receive, body.send)
    else:
        await app(scope, receive, watched)
    if not started:
        await send_problem(send, Problem(499, "the client went away before there was an answer"))


async def closing_quietly(send: Send, message: Message) -> None:
    """Send a WebSocket's message; that the connection cannot be closed any more, since it is closing, is no failure.

    hypercorn on trio raises `BusyResourceError` where client and application close at once: it writes from both tasks
    without a lock (`hypercorn/trio/tcp_server.py`, `protocol_send`, 0.18).
    """
    try:
        await send(message)
    except Exception:
        if message["type"] != "websocket.close":
            raise
        logger.debug("a WebSocket was closing already when the application closed it", exc_info=True)


def has_body(scope: Scope) -> bool:
    """Whether a request has a body that stands on its connection, which HTTP/1 uses for one request after another."""
    if not scope.get("http_version", "1.1").startswith("1"):
        return False
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


class UnreadBody:
    """Reads what the application leaves of a small body, before its answer begins; else the answer ends the connection.

    hypercorn closes a connection whose request was not read to its end when the answer is sent, and does not say so in
    the answer: the client's next request on it fails (https://github.com/pgjones/hypercorn/issues/314).

    Args:
        receive: The server's.
        send: The server's.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._reading = anyio.Lock()
        self._kept: deque[Message] = deque()
        """Read ahead, for an application that reads on after its answer has begun."""
        self._is_read = False

    async def receive(self) -> Message:
        """The ASGI `receive` of the application."""
        async with self._reading:
            return self._kept.popleft() if self._kept else await self._next()

    async def send(self, message: Message) -> None:
        """The ASGI `send` of the application."""
        if message["type"] == "http.response.start" and not self._is_read and not await self._read_rest():
            headers = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await self._send(message)

    async def _next(self) -> Message:
        message = await self._receive()
        self._is_read = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def _read_rest(self) -> bool:
        """Read what is unread, within bounds of bytes and time.

        Returns:
            Whether that was all.
        """
        unread = UNREAD_BYTES
        with anyio.move_on_after(UNREAD_SECONDS):
            while unread > 0:
                async with self._reading:  # a task of the application's own may read at the same time
                    if self._is_read:
                        break
                    message = await self._next()
                    self._kept.append(message)
                    unread -= len(message.get("body", b""))
        return self._is_read
