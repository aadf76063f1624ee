"""One call of the ASGI application: a request and its response, or a WebSocket from handshake to close.

Made by a connection for each request. Here an application's end is made good: 500 when it raises or says nothing, an
honest 503 when the server is cancelled first. `HTTP1Exchange` and `EngineExchange` bring what an application receives
and sends to and from the wire.

One call of the ASGI application on the way of plain HTTP/1.1: no queue, no task and no event of its own.

An `HTTP1Connection` makes one for each request, in its turn.

The ASGI vocabulary (https://asgi.readthedocs.io), as the server and the applications behind it spell it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, cast

import anyio
import anyio.lowlevel

from .http1_parser import IncomingRequest
from .http1_response import CONTINUE, ResponseWriter
from .problem import Problem, refusal, send_problem
from .transport import Transport

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
"""An extension of this server's (ASGI, "Extensions"): the request's body, where all of it has come in.

Whoever takes it from here need not call `receive`, which gives it all the same, nor set a time limit for that, which
costs a fifth of a small request.
"""

WHOLE_RESPONSE = "definable.whole_response"
"""An extension of this server's: `send` takes a message of this type, with `status`, `headers` and `body`, for a start
and a body that is all of it."""

UNTIL_HANGUP = "definable.until_hangup"
"""An extension of this server's: a `WatchHangup`, which costs a fraction of a task that reads on."""

WatchHangup: TypeAlias = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""A context within which a function is called if the client hangs up; one at a time."""


log: logging.Logger = logging.getLogger("definable.http")

RETRY_AFTER = b"5"
"""Seconds after which a client may try again: another process has then taken over."""

SERVICE_RESTART = 1012
"""WebSocket close code (https://www.iana.org/assignments/websocket)."""


def unavailable() -> Problem:
    """The answer to a request that the server takes no more."""
    return Problem(503, "The server is shutting down.", headers=[(b"retry-after", RETRY_AFTER)])


class Exchange(ABC):
    """One request, from the application's side of it.

    Args:
        app: The application.
        scope: Its ASGI scope.
        last_call: Gives the time, on the event loop's clock, until which a cancelled exchange may still say so.
    """

    __slots__ = ("_app", "_finished", "_last_call", "_scope", "_started")

    def __init__(self, app: ASGIApp, scope: Scope, last_call: Callable[[], float]) -> None:
        self._app = app
        self._scope = scope
        self._last_call = last_call
        self._started = False
        """Whether some of the response is on its way."""
        self._finished = False
        """Whether all of it is."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing the application sends will arrive any more."""

    @abstractmethod
    async def receive(self) -> Message:
        """The application's ASGI `receive`."""

    @abstractmethod
    def send(self, message: Message) -> Awaitable[None]:
        """The application's ASGI `send`."""

    @abstractmethod
    def _hang_up(self) -> Awaitable[None] | None:
        """What is left to do when the application sends no more, as an unfinished response is cut; None: nothing."""

    @abstractmethod
    def _drop_head(self) -> None:
        """Forgets the head of a response that has not gone out: another one follows."""

    @abstractmethod
    def _flush(self) -> Awaitable[None]:
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
                    self._log_failure(error)
                else:
                    self._log_unfinished()
            if not self._finished:
                await self._answer_for_application()
            if (hang_up := self._hang_up()) is not None:
                await hang_up
        except BaseException as error:
            if _failure(error) is not None:
                raise
            await self._say_goodbye()
            raise

    @property
    def _is_websocket(self) -> bool:
        return self._scope["type"] == "websocket"

    def _log_failure(self, error: BaseException) -> None:
        """Log what the application raised; raises what is not its failure."""
        failure = _failure(error)
        if failure is None or isinstance(failure, KeyboardInterrupt):
            raise error
        log.error("error in the application, in %s", self._name(), exc_info=failure)

    def _log_unfinished(self) -> None:
        if not self._finished and not self.ended and not self._is_websocket:
            log.error("the application did not finish its response to %s", self._name())

    async def _answer_for_application(self) -> None:
        """Answers 500 if nothing was."""
        self._drop_head()
        if not self._started and not self.ended and not self._is_websocket:
            await send_problem(self.send, Problem(500, "The server failed to answer this request."))

    async def _say_goodbye(self) -> None:
        """The server is cancelled: says so if that is still possible."""
        # Shielded: the client is owed an answer. Bounded by the connection's last call.
        with anyio.CancelScope(shield=True, deadline=self._last_call()):
            try:
                await self._flush()
                await self._refuse()
                if (hang_up := self._hang_up()) is not None:
                    await hang_up
            except Exception:
                log.debug("cannot say goodbye in %s", self._name(), exc_info=True)

    async def _refuse(self) -> None:
        if self._finished or self.ended:
            return
        if not self._started:
            self._drop_head()
        if not self._is_websocket:
            if not self._started:
                await send_problem(self.send, unavailable(), close=True)
        elif self._started:
            await self.send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "server restart"})
        else:
            await _reject_websocket(self.send, unavailable())

    def _name(self) -> str:
        return f"{self._scope.get('method', 'WebSocket')} {self._scope['path']!r}"


async def _reject_websocket(send: Send, problem: Problem) -> None:
    """Answers a WebSocket handshake with a problem (the `websocket.http.response` extension of ASGI)."""
    headers = problem.response_headers(close=True)
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.body()})


def _failure(error: BaseException) -> BaseException | None:
    """What is left of an exception without the cancellations in it; a group of one is that one."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        failures = [failure for inner in group.exceptions if (failure := _failure(inner)) is not None]
        return group.derive(failures) if len(failures) > 1 else failures[0] if failures else None
    return None if isinstance(error, cancelled) else error


class Client(Protocol):
    """The connection, as an exchange sees it."""

    @property
    def gone(self) -> bool:
        """Whether nothing will arrive at the client any more."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the connection must end with the exchange in progress."""
        ...

    async def pull(self) -> None:
        """Returns after something has come in, the client has gone, or the exchange has ended."""
        ...

    def answered(self) -> None:
        """The response is complete."""
        ...


class HTTP1Exchange(Exchange):
    """One request, from the application's side of it.

    Args:
        app: The application.
        scope: Its ASGI scope.
        request: The request.
        client: Who made it.
        transport: Where the response goes.
        last_call: See `Exchange`.
    """

    __slots__ = ("_body_given", "_client", "_must_go_on", "_request", "_response", "_transport", "closes")

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        request: IncomingRequest,
        client: Client,
        transport: Transport,
        last_call: Callable[[], float],
    ) -> None:
        super().__init__(app, scope, last_call)
        self._request = request
        self._client = client
        self._transport = transport
        self._response: ResponseWriter | None = None
        self._body_given = False
        self._must_go_on = not request.complete and request.expects_continue
        self.closes: bool = True
        """Whether the connection ends with this exchange."""

    @property
    def ended(self) -> bool:
        """Whether nothing the application sends will arrive any more."""
        return self._finished or self._client.gone or self._request.refusal is not None

    async def receive(self) -> Message:
        """The application's ASGI `receive`: the body as it has come in, then the disconnect."""
        request, client = self._request, self._client
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
                await client.pull()

    def send(self, message: Message) -> Awaitable[None]:
        """The application's ASGI `send`. The head of a response waits for the first of its body, as ASGI allows."""
        kind = message["type"]
        if kind == "http.response.body":
            return self._send_body(message.get("body", b""), message.get("more_body", False))
        if kind == WHOLE_RESPONSE:
            self._start(message)
            return self._send_body(message["body"], False)
        return self._send_head(message)

    async def _send_head(self, message: Message) -> None:
        kind = message["type"]
        if kind != "http.response.start":
            raise RuntimeError(f"the application sent {kind!r}, out of turn")
        self._start(message)

    def _start(self, message: Message) -> None:
        if self._response is not None:
            raise RuntimeError("the application sent another response, out of turn")
        request = self._request
        headers = message.get("headers", ())
        self._response = ResponseWriter(  # by position: a class takes twice the time to be called by names
            message["status"], headers, request.method, request.version, request.keep_alive
        )

    async def _send_body(self, body: bytes, more: bool) -> None:
        response = self._response
        if response is None or (self._finished and not self._client.gone):
            raise RuntimeError("the application sent a response's body, out of turn")
        if self.ended:  # sends nothing any more, but must not keep others from running
            self._finished = not more
            await anyio.lowlevel.checkpoint()
            return
        if self._started:
            data = response.next(body, more=more)
        else:
            # The rest of a body that nobody read would stand in the way of the next request.
            must_close = self._client.draining or not self._request.complete
            data = response.first(body, more=more, must_close=must_close)
        self._started = True
        if not more:
            self._finished = True
            self.closes = response.closes
        rest = data and self._transport.write_now(data)
        if rest:
            await self._transport.write(rest)
        if not more:
            self._client.answered()

    def _hang_up(self) -> Awaitable[None] | None:
        """Answers a request whose body was none; a response that is unfinished is cut by the connection's end."""
        status = self._request.refusal
        if status is None or self._started or self._client.gone:
            return None
        return self._transport.write(self._last_words(status))

    def _last_words(self, status: int) -> bytes:
        problem = refusal(status)
        response = ResponseWriter(
            status, problem.response_headers(), method=self._request.method, version="1.1", keep_alive=False
        )
        return response.first(problem.body(), more=False)

    def _drop_head(self) -> None:
        self._response = None

    def _flush(self) -> Awaitable[None]:
        return self._transport.flush()
