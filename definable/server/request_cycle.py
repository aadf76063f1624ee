"""One call of the ASGI application: a request and its response, or a WebSocket from handshake to close.

A connection makes one for each request. It sees that each ends with an answer: 500 if the application raises or does
not answer, 503 if the server is cancelled before. `HTTP1RequestCycle` is plain HTTP/1.1, without a queue, a task or an
event of its own; `hypercorn.HypercornRequestCycle` is an HTTP/2 stream or a WebSocket. The names of ASGI
(https://asgi.readthedocs.io) are here too.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, cast

import anyio
import anyio.lowlevel

from definable.concurrency.logs import logger_named

from .http1_parser import IncomingRequest
from .http1_response import CONTINUE, ResponseWriter, whole_response
from .problem import Problem, refusal, send_problem
from .transport import Transport

log: logging.Logger = logger_named("definable.http")

Scope: TypeAlias = MutableMapping[str, Any]
"""What one request or WebSocket is: its type, method, path, headers and so on."""

Message: TypeAlias = MutableMapping[str, Any]
"""One ASGI event, named by its `type`."""

Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""Waits for the client's next message."""

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends a message to the client; waits while the client is slower than the application."""

ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application."""

WHOLE_BODY = "definable.whole_body"
"""An extension of this server's (ASGI, "Extensions"): the request's body, where all of it has come in. `receive` gives
it all the same."""

WHOLE_RESPONSE = "definable.whole_response"
"""An extension of this server's: `send` takes a message of this type, with `status`, `headers` and `body`, for a start
and a body that is all of it."""

ON_DISCONNECT = "definable.on_disconnect"
"""An extension of this server's: an `OnDisconnect`, which costs a fraction of a task that waits in `receive`."""

OnDisconnect: TypeAlias = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""A context within which a function is called if the client hangs up; one at a time."""

RETRY_AFTER = b"5"
"""Seconds after which a client may try again: another process has then taken over."""

PARTS_A_TURN = 16
"""Parts of a response, or messages, that an application may send at once before others get their turn: as long as the
socket takes them, no send waits for anything."""

SERVICE_RESTART = 1012
"""WebSocket close code (https://www.iana.org/assignments/websocket)."""


def unavailable() -> Problem:
    """The answer to a request that the server takes no more."""
    return Problem(503, "The server is shutting down.", headers=[(b"retry-after", RETRY_AFTER)])


class RequestCycle(ABC):
    """One call of the application.

    Args:
        app: The application.
        scope: Its ASGI scope.
        close_deadline: Gives the event loop's time until which a cancelled cycle may still answer.
    """

    def __init__(self, app: ASGIApp, scope: Scope, close_deadline: Callable[[], float]) -> None:
        self._app = app
        self._scope = scope
        self._close_deadline = close_deadline
        self._started = False
        """Whether some of the response is on its way."""
        self._finished = False
        """Whether all of it is."""
        self._parts = 0

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing the application sends will arrive any more."""

    @abstractmethod
    async def receive(self) -> Message:
        """The application's ASGI `receive`."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """The application's ASGI `send`."""

    async def _give_way(self) -> None:
        """Lets others run after some parts of a response: an application may send on without ever waiting."""
        self._parts += 1
        if self._parts % PARTS_A_TURN == 0:
            await anyio.lowlevel.checkpoint()

    @abstractmethod
    async def _end(self) -> None:
        """Does what is left to do when the application sends no more."""

    @abstractmethod
    def _drop_head(self) -> None:
        """Forgets the head of a response that has not gone out: another one follows."""

    @abstractmethod
    async def _flush(self) -> None:
        """Sends what waits to be written."""

    async def run(self, *, refused: bool = False) -> None:
        """Calls the application and ends its response.

        Args:
            refused: Answers 503 instead, because the server drains.
        """
        try:
            if refused:
                await self._refuse()
            else:
                try:
                    await self._app(self._scope, self.receive, self.send)
                except BaseException as error:  # even SystemExit: one request must not stop the server
                    failure = _failure(error)
                    if failure is None or isinstance(failure, KeyboardInterrupt):
                        raise
                    log.error("error in the application, in %s", self._name(), exc_info=failure)
                else:
                    if not (self._finished or self.ended or self._is_websocket):
                        log.error("the application did not finish its response to %s", self._name())
            if not self._finished:
                await self._answer_for_application()
            await self._end()
        except BaseException as error:
            if _failure(error) is not None:
                raise
            await self._send_unavailable()
            raise

    @property
    def _is_websocket(self) -> bool:
        return self._scope["type"] == "websocket"

    async def _answer_for_application(self) -> None:
        """Answers 500 if nothing was."""
        self._drop_head()
        if not self._started and not self.ended and not self._is_websocket:
            await send_problem(self.send, Problem(500, "The server failed to answer this request."))

    async def _send_unavailable(self) -> None:
        """The server is cancelled: answers 503 if that is still possible."""
        # Shielded, because the client is owed an answer; the deadline bounds it.
        with anyio.CancelScope(shield=True, deadline=self._close_deadline()):
            try:
                await self._flush()
                await self._refuse()
                await self._end()
            except Exception:
                log.debug("cannot send the last response in %s", self._name(), exc_info=True)

    async def _refuse(self) -> None:
        if self._finished or self.ended:
            return
        if not self._started:
            self._drop_head()
            kind = "websocket.http.response" if self._is_websocket else "http.response"
            await send_problem(self.send, unavailable(), kind=kind, close=True)
        elif self._is_websocket:
            await self.send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "server restart"})

    def _name(self) -> str:
        return f"{self._scope.get('method', 'WebSocket')} {self._scope['path']!r}"


def _failure(error: BaseException) -> BaseException | None:
    """What is left of an exception without the cancellations in it; a group of one is that one."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        failures = [failure for inner in group.exceptions if (failure := _failure(inner)) is not None]
        return group.derive(failures) if len(failures) > 1 else failures[0] if failures else None
    return None if isinstance(error, cancelled) else error


class Connection(Protocol):
    """The connection, as a request cycle sees it."""

    @property
    def gone(self) -> bool:
        """Whether nothing will arrive at the client any more."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the connection must end with this cycle."""
        ...

    async def pull(self) -> None:
        """Returns after something has come in, the client has gone, or the cycle has ended."""
        ...

    def answered(self) -> None:
        """The response is complete."""
        ...


class HTTP1RequestCycle(RequestCycle):
    """One request over HTTP/1.1.

    Args:
        app: The application.
        scope: Its ASGI scope.
        request: The request.
        connection: Where it came in.
        transport: Where the response goes.
        close_deadline: See `RequestCycle`.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        request: IncomingRequest,
        connection: Connection,
        transport: Transport,
        close_deadline: Callable[[], float],
    ) -> None:
        super().__init__(app, scope, close_deadline)
        self._request = request
        self._connection = connection
        self._transport = transport
        self._response: ResponseWriter | None = None
        self._body_given = False
        self._must_go_on = not request.complete and request.expects_continue
        self.closes: bool = True
        """Whether the connection ends with this cycle."""

    @property
    def ended(self) -> bool:
        """Whether nothing the application sends will arrive any more."""
        return self._finished or self._connection.gone or self._request.refusal is not None

    async def receive(self) -> Message:
        """The application's ASGI `receive`: the body as it has come in, then the disconnect."""
        request, connection = self._request, self._connection
        while True:
            if request.has_body or (request.complete and not self._body_given):
                body, more = request.take(), not request.complete
                self._body_given = not more
                return {"type": "http.request", "body": body, "more_body": more}
            if self.ended:
                await anyio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            if self._must_go_on and not self._started:
                self._must_go_on = False
                await self._transport.write(CONTINUE)
            else:
                await connection.pull()

    async def send(self, message: Message) -> None:
        """The application's ASGI `send`. The head of a response waits for the first of its body, as ASGI allows."""
        kind = message["type"]
        if kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == WHOLE_RESPONSE:
            self._start(message)
            await self._send_body(message["body"], False)
        else:
            raise RuntimeError(f"the application sent {kind!r} out of order")

    def _start(self, message: Message) -> None:
        if self._response is not None:
            raise RuntimeError("the application sent another response, out of order")
        request = self._request
        self._response = ResponseWriter(
            message["status"],
            message.get("headers", ()),
            method=request.method,
            version=request.version,
            keep_alive=request.keep_alive,
        )

    async def _send_body(self, body: bytes, more: bool) -> None:
        response = self._response
        if response is None or (self._finished and not self._connection.gone):
            raise RuntimeError("the application sent a response's body out of order")
        if self.ended:  # sends nothing any more, but must not keep others from running
            self._finished = not more
            await anyio.lowlevel.checkpoint()
            return
        if self._started:
            data = response.next(body, more=more)
        else:
            # The rest of a body that nobody read would stand in the way of the next request.
            must_close = self._connection.draining or not self._request.complete
            data = response.first(body, more=more, must_close=must_close)
        self._started = True
        if not more:
            self._finished = True
            self.closes = response.closes
        rest = data and self._transport.write_now(data)
        if rest:
            await self._transport.write(rest)
        if more:
            await self._give_way()
        else:
            self._connection.answered()

    async def _end(self) -> None:
        """Answers a request whose body was none; a response that is unfinished is cut by the connection's end."""
        status = self._request.refusal
        if status is not None and not self._started and not self._connection.gone:
            await self._transport.write(whole_response(refusal(status), self._request.method))

    def _drop_head(self) -> None:
        self._response = None

    async def _flush(self) -> None:
        await self._transport.flush()
