"""One call of the ASGI application on the way of plain HTTP/1.1: no queue, no task and no event of its own.

An `HTTP1Connection` makes one for each request, in its turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio.lowlevel

from .asgi import WHOLE_RESPONSE, ASGIApp, Message, Scope
from .exchange import Exchange
from .http1_request import IncomingRequest
from .http1_response import CONTINUE, ResponseWriter
from .refusal import refusal
from .transport import Transport


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
