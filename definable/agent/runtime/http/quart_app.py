"""The Quart application (QuartTrio under trio) that serves whatever is not one of the agent's own endpoints.

Made by the runtime with the users' blueprints; the ASGI entry hands it the requests that it does not answer itself.
Both backends share one connection layer and one way to fail, so that a blueprint behaves the same on either.

Quart and quart-trio are imported here and in `quart_websocket.py` alone. It leans on their internals; the versions are
pinned.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from inspect import isgenerator
from math import inf
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
from quart import Blueprint, Quart, Response, has_request_context, request
from quart.asgi import ASGIHTTPConnection
from quart.signals import got_serving_exception
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import RequestRedirect

from definable.concurrency.call import closing_what_it_leaves, contained
from definable.concurrency.event_loop import current_backend
from definable.concurrency.isolation import contain_errors
from definable.concurrency.logs import logger_named
from definable.concurrency.worker_thread import run_sync
from definable.server.problem import MEDIA_TYPE, Problem
from definable.server.request_cycle import Message, Receive, Scope, Send

from .app import ALLOW_SCOPE_KEY
from .quart_lifespan import ServingHooks, quart_lifespan
from .quart_websocket import ROUTE, WebsocketConnection

log: logging.Logger = logger_named("definable.http")

MAX_CONTENT_LENGTH = 16 * 1024 * 1024
"""Bytes of a request body that a route may read; a larger one is a 413."""

EVENT_STREAM_GRACE = 5.0
"""Seconds that an event stream which was asked for by GET goes on once a stop has begun. Its client only listens, and
asks again by itself when it ends (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

BACKGROUND_TASK = contain_errors("a background task")


def create_quart_app(name: str, blueprints: Iterable[Blueprint] = ()) -> Quart:
    """The application for the running backend.

    Args:
        name: What Quart calls the application; any text. Its own files are looked for in the working directory.
        blueprints: The users' routes.

    Returns:
        A `Quart`, or a `QuartTrio` under trio. Serve it within `quart_lifespan`.
    """
    app_class = _TrioApp if current_backend() == "trio" else _AsyncioApp
    folder = Path.cwd()
    app = app_class(name, static_folder=None, root_path=str(folder), instance_path=str(folder / "instance"))
    # Quart would send a traceback page to the client of an application in debug mode, which an environment variable
    # switches on; it would end a stream in silence after a minute, and a body that is still coming in.
    app.debug = False
    config = cast("dict[str, Any]", app.config)
    config.update(
        PROPAGATE_EXCEPTIONS=False, RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=MAX_CONTENT_LENGTH
    )
    app.register_error_handler(HTTPException, _answer_http_exception)
    app.register_error_handler(Problem, _answer_problem)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    return app


class QuartGuest:
    """The application as the ASGI entry's guest.

    Args:
        app: What `create_quart_app` made.
    """

    def __init__(self, app: Quart) -> None:
        self.app: Quart = app
        self.max_body: int = MAX_CONTENT_LENGTH

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(cast(Any, scope), cast(Any, receive), cast(Any, send))

    def methods(self, path: str) -> set[str]:
        """The methods of its routes on a path; OPTIONS only where a route of the user's own answers it."""
        adapter = self.app.url_map.bind("localhost")
        methods = set(adapter.allowed_methods(path))
        if "OPTIONS" in methods:
            rule: Any = adapter.match(path, "OPTIONS", return_rule=True)[0]
            if rule.provide_automatic_options:
                methods.remove("OPTIONS")
        return methods

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """See `quart_lifespan`."""
        return quart_lifespan(self.app)

    def drain(self) -> None:
        """See `drain_routes`."""
        drain_routes(self.app)


def drain_routes(app: Quart) -> None:
    """Ends what may go on for ever: WebSockets once their routes wait for a message, event streams after a while."""
    app = cast(_App, app)
    for connection in list(app.websockets):
        connection.drain()
    app.streams_end = anyio.current_time() + EVENT_STREAM_GRACE
    for sending in app.event_streams:
        sending.deadline = min(sending.deadline, app.streams_end)


class _HTTPConnection(ASGIHTTPConnection):
    """One request to Quart: answered, or cancelled once its client has gone.

    Quart's own leaves tasks behind when it is cancelled, quart-trio's cancels its own final send.
    """

    async def __call__(self, receive: Any, send: Any) -> None:
        request = self._create_request_from_scope(send)
        sent_last = False

        async def watched_send(message: Message) -> None:
            nonlocal sent_last
            sent_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def watch() -> None:
            await self.handle_messages(request, receive)  # until the client has gone
            if not sent_last:
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            with ROUTE:  # before the group sees it: what is no `Exception`, or cannot be shown
                response = await closing_what_it_leaves("a route", self.app.handle_request, request)
            timeout: Any = getattr(response, "timeout", ...)
            with anyio.move_on_after(None if timeout is ... else timeout) as sending:
                if request.method == "GET" and getattr(response, "mimetype", "") == "text/event-stream":
                    with cast(_App, self.app).ended_by_a_stop(sending):
                        await self._send_response(cast(Any, watched_send), response)
                else:
                    await self._send_response(cast(Any, watched_send), response)
            if sending.cancelled_caught and anyio.current_time() >= cast(_App, self.app).streams_end:
                log.info("ended the event stream of GET %r, for the stop: its client asks again", request.path)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()


class _App(Quart):
    """What both backends' applications do the same way."""

    asgi_http_class = cast(Any, _HTTPConnection)
    asgi_websocket_class = cast(Any, WebsocketConnection)
    nursery: Any  # a `TaskGroup`, which has what QuartTrio asks of its nursery
    """Where background tasks run; QuartTrio's name for it. Set by `quart_lifespan`."""
    websockets: set[WebsocketConnection]
    """Those that are open."""
    event_streams: set[anyio.CancelScope]
    """The sending of those that clients listen to."""
    streams_end: float
    """When they have to end, on the event loop's clock."""
    _hooks: ServingHooks

    async def startup(self) -> None:
        """Begins what runs around all requests."""
        self.shutdown_event = self.event_class()
        self.websockets = set()
        self.event_streams = set()
        self.streams_end = inf
        self._hooks = ServingHooks(
            [self.ensure_async(func) for func in self.before_serving_funcs],
            self.while_serving_gens,
            [self.ensure_async(func) for func in self.after_serving_funcs],
            self._report_serving_exception,
        )
        async with self.app_context():
            await self._hooks.start()

    @contextmanager
    def ended_by_a_stop(self, sending: anyio.CancelScope) -> Generator[None]:
        """A context within which a stop bounds the sending of an event stream."""
        sending.deadline = min(sending.deadline, self.streams_end)
        self.event_streams.add(sending)
        try:
            yield
        finally:
            self.event_streams.discard(sending)

    async def shutdown(self) -> None:
        """Ends what `startup` has begun, also when that failed."""
        async with self.app_context():
            await self._hooks.end()

    async def _report_serving_exception(self, error: Exception) -> None:
        await got_serving_exception.send_async(self, _sync_wrapper=cast(Any, self.ensure_async), exception=error)
        self.log_exception(error)

    async def handle_user_exception(self, error: BaseException) -> HTTPException | ResponseReturnValue:
        """Finds the handler of an exception, also of one that a route's own task group has wrapped."""
        return await super().handle_user_exception(_only(error))

    async def handle_http_exception(self, error: HTTPException) -> HTTPException | ResponseReturnValue:
        """Answers with a problem; a redirect to the canonical path without Werkzeug's HTML page."""
        if isinstance(error, RequestRedirect):
            return Response(b"", error.code, {"location": relative(error.new_url)})
        return await super().handle_http_exception(error)

    async def handle_websocket_exception(self, error: Exception) -> Any:
        """Leaves a failed WebSocket to the server, which logs it and closes with 1011; Quart would with 1000."""
        raise error

    def log_exception(self, exception_info: Any) -> None:
        """Logs under our name; Quart's logger installs a handler of its own."""
        where = f"{request.method} {request.path!r}" if has_request_context() else "the application's lifespan"
        log.error("error in a route, in %s", where, exc_info=exception_info)

    def sync_to_async(self, func: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Runs a sync route in a worker thread, the same kind on both backends."""

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await run_sync(partial(func, *args, **kwargs))
            return _iterate_in_thread(cast(Iterator[Any], result)) if isgenerator(result) else result

        return call

    def add_background_task(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Runs a function beside the requests, until it ends or the application shuts down."""

        async def work() -> None:
            async with self.app_context():
                await self.ensure_async(func)(*args, **kwargs)

        async def run() -> None:
            try:
                with BACKGROUND_TASK:
                    await contained("a background task", work)
            except Exception as error:
                await self.handle_background_exception(error)

        self.nursery.start_soon(run)


class _AsyncioApp(_App):
    """Quart, on asyncio."""


class _TrioApp(_App, QuartTrio):
    """Quart, on trio."""


def relative(url: str) -> str:
    """A URL of this service without scheme and host, which are others in front of a proxy (RFC 9110, 10.2.2)."""
    parts = urlsplit(url)
    path = f"/{parts.path.lstrip('/')}"  # two slashes would begin a host
    return f"{path}?{parts.query}" if parts.query else path


def _only(error: BaseException) -> Exception:
    """The one exception in a group of one, or the group."""
    while (
        isinstance(error, BaseExceptionGroup) and len(cast("BaseExceptionGroup[BaseException]", error).exceptions) == 1
    ):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return cast(Exception, error)


async def _iterate_in_thread(items: Iterator[Any]) -> AsyncGenerator[Any]:
    end = object()
    while (item := await run_sync(partial(next, items, end))) is not end:
        yield item


async def _answer_problem(problem: Problem) -> ResponseReturnValue:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in problem.headers]
    return Response(problem.body(), problem.status, cast(Any, headers), content_type=MEDIA_TYPE)


async def _answer_http_exception(error: HTTPException) -> ResponseReturnValue:
    """Any `abort`, routing failure or unhandled exception (an `InternalServerError` by then), as a problem."""
    if error.response is not None:
        return cast(ResponseReturnValue, error.response)
    status = error.code or 500
    headers = {name.lower(): value for name, value in error.get_headers()}
    headers.pop("content-type", None)
    if status in (404, 405) and (agents := _agents_methods(error)):
        own = {method.strip() for method in headers.get("allow", "").split(",")} - {""}
        status, headers["allow"] = 405, ", ".join(sorted(own | agents))
    if status < 400:
        return Response(b"", status, headers)
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return await _answer_problem(Problem(status, _detail(error, status), headers=raw))


def _detail(error: HTTPException, status: int) -> str:
    """What was said with `abort`, or Werkzeug's phrase; nothing of an exception that nobody handled."""
    if status == 405:
        return "The method is not allowed for this path."
    if getattr(error, "original_exception", None) is not None:
        return "The server failed to answer this request."
    return error.description or ""


def _agents_methods(error: HTTPException) -> set[str]:
    """The methods of the agent's own endpoint on this path, if routing failed and there is one."""
    if not has_request_context() or request.routing_exception is not error:
        return set()
    return set(cast("dict[str, Iterable[str]]", request.scope).get(ALLOW_SCOPE_KEY, ()))
