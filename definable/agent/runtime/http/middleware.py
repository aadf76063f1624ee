"""Middleware of the user's, around everything that answers HTTP: pure ASGI applications around the agent's own.

The `HTTPService` makes them at each start, opens their lifespan before the first request and closes it after the last.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskStatus

from definable.agent.runtime.dispatch import log_failure
from definable.concurrency.call import contained
from definable.concurrency.isolation import contain_errors, error_text
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, ServeError
from definable.server.problem import Problem, send_problem
from definable.server.request_cycle import (
    ON_DISCONNECT,
    WHOLE_BODY,
    WHOLE_RESPONSE,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
)

logger: logging.Logger = logger_named("definable.http")

MakeMiddleware: TypeAlias = Callable[[ASGIApp], ASGIApp]
"""Makes an ASGI application around another."""

OWN_EXTENSIONS = frozenset({ON_DISCONNECT, WHOLE_BODY, WHOLE_RESPONSE})
"""Short cuts past `receive` and `send`, where middleware would not see what it is there to change."""

CLOSE_TIMEOUT = 10.0
"""Seconds that the lifespan of the middleware may take to close what it has opened."""

MIDDLEWARE = contain_errors("a middleware")


class MiddlewareStack:
    """An ASGI application: middleware around another one.

    Args:
        app: The application.
        makers: Make the middleware, the outermost first.

    Raises:
        ConfigurationError: What a maker has made is no ASGI application.
        Exception: What a maker raises.
    """

    def __init__(self, app: ASGIApp, makers: Sequence[MakeMiddleware]) -> None:
        self._app = app
        outermost: ASGIApp = self._innermost
        for maker in reversed(makers):
            outermost = maker(outermost)
            if not callable(outermost):
                raise ConfigurationError(f"middleware {outermost!r} is no ASGI application")
        self._outermost = outermost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one WebSocket; what the middleware raises is a 500 for this one alone."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        extensions: dict[str, Any] = scope.get("extensions") or {}
        scope = {**scope, "extensions": {name: each for name, each in extensions.items() if name not in OWN_EXTENSIONS}}
        try:
            with MIDDLEWARE:
                await contained("a middleware", self._call, scope, receive, watched)
        except Exception as error:
            if started:  # the server ends the connection, so that nobody takes a part for the whole
                raise
            log_failure(logger, logging.ERROR, error, "a middleware failed at %r", scope["path"])
            if scope["type"] == "http":
                await send_problem(send, Problem(500, "the service failed to handle this request"))
            else:
                await send({"type": "websocket.close", "code": 1011})

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._outermost(scope, receive, send)

    async def _innermost(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Have the middleware start, and shut down when the context is left (ASGI lifespan protocol).

        As under other servers, middleware that raises at the start has no lifespan, and is served without.

        Raises:
            ServeError: A middleware says that its start has failed.
        """
        failure: str | None = None
        async with anyio.create_task_group() as group:
            shutdown, ended = anyio.Event(), anyio.Event()
            failure = await group.start(self._run_lifespan, shutdown, ended)
            try:
                if failure is None:
                    yield
            finally:
                shutdown.set()
                # Shielded: what it has opened is closed also when serving is cancelled. Bounded.
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await ended.wait()
                group.cancel_scope.cancel()
        if failure is not None:
            raise ServeError(f"a middleware has failed to start: {failure}")

    async def _run_lifespan(
        self, shutdown: anyio.Event, ended: anyio.Event, *, task_status: TaskStatus[str | None]
    ) -> None:
        """Reports, once they have started, why that has failed; None where it has not."""
        is_asked = has_started = False

        async def receive() -> Message:
            nonlocal is_asked
            if is_asked:
                await shutdown.wait()
                return {"type": "lifespan.shutdown"}
            is_asked = True
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            nonlocal has_started
            text: Any = message.get("message") or "it does not say why"
            if message["type"] == "lifespan.shutdown.failed":
                logger.error("a middleware has failed to shut down: %s", text)
            elif not has_started and message["type"] in ("lifespan.startup.complete", "lifespan.startup.failed"):
                has_started = True
                task_status.started(text if message["type"].endswith("failed") else None)

        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            with MIDDLEWARE:
                await contained("a middleware", self._call, scope, receive, send)
        except Exception as error:
            if has_started:
                log_failure(logger, logging.ERROR, error, "a middleware failed to shut down")
            else:
                logger.info("the middleware is served without a lifespan: %s", error_text(error))
        finally:
            ended.set()
        if not has_started:
            task_status.started(None)
