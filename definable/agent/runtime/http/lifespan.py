"""The agent as an ASGI application for a foreign server: the lifespan runs everything but the listener."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from definable.concurrency.isolation import error_text
from definable.server.problem import Problem, send_problem
from definable.server.request_cycle import ASGIApp, Message, Receive, Scope, Send

from .app import refuse

if TYPE_CHECKING:
    from definable.agent.runtime.runtime import AgentRuntime

logger: logging.Logger = logging.getLogger(__name__)


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

    def watched(message: Message) -> Awaitable[None]:
        nonlocal started
        started = True
        return send(message)

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
