"""A connection that speaks plain HTTP/1.1: one task, which reads requests and answers them in their order.

A `ServerConnection` makes one. What costs something for each request is left out: a task, a channel, a timer, a second
write. Nothing is read while an application works, unless it asks: its `receive` reads on, and so notices that the
client goes away. What the client sends meanwhile waits in the socket's buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from urllib.parse import unquote

import anyio
import anyio.lowlevel

from definable.concurrency.logs import logger_named

from .http1_parser import IncomingRequest, RequestParser, RequestParsers
from .http1_response import whole_response
from .limits import HeadWait, ServerLimits
from .listener import Address
from .problem import refusal
from .request_cycle import ON_DISCONNECT, WHOLE_BODY, WHOLE_RESPONSE, ASGIApp, HTTP1RequestCycle, Scope
from .transport import ClientStream, DisconnectWatch, LingeringClose, Transport

log: logging.Logger = logger_named("definable.http")

PIECE = 16_384
"""Bytes of heads that are parsed at once: so many pipelined requests are held at most, behind a body those that came in
one piece with its end. A body is taken as it comes, which a quarter of the turns does."""

ASGI_VERSION = {"spec_version": "2.3", "version": "3.0"}

NO_DETAILS: dict[str, object] = {}


class HTTP1Connection:
    """One connection, until it is closed or its client asks for another protocol.

    Args:
        app: The application that answers.
        transport: The connection's bytes.
        limits: The server's bounds.
        draining: Tells whether the server drains.
        clock: The event loop's, in seconds.
        parsers: The server's.
        cancel: Cancels the task that runs the connection.
        scheme: `"http"` or `"https"`.
        client: The peer's address.
        server: Our address.
        head_due: The time, on the event loop's clock, until which the first request head must have come.
        stream: Reports that the client has hung up; None where only a read does.
    """

    def __init__(
        self,
        app: ASGIApp,
        transport: Transport,
        limits: ServerLimits,
        draining: Callable[[], bool],
        clock: Callable[[], float],
        *,
        parsers: RequestParsers,
        cancel: Callable[[], None],
        scheme: str,
        client: Address,
        server: Address,
        head_due: float,
        stream: ClientStream | None = None,
    ) -> None:
        self._app = app
        self._transport = transport
        self._limits = limits
        self._draining = draining
        self._clock = clock
        self._scheme = scheme
        self._client = client
        self._server = server
        self._stream = stream
        self._parsers = parsers
        self._parser: RequestParser | None = None
        """None before the first byte of a request."""
        self._unparsed = b""
        self._requests: list[IncomingRequest] = []
        self._lingering_close = LingeringClose(transport)
        self._cancel = cancel
        self._idle = True
        """Whether no cycle is in progress."""
        self._ended = False
        """Whether the task was cancelled, while idle."""
        self._asked = False
        """Whether there has been a request."""
        self._awaits_head = False
        self.gone: bool = False
        """Whether nothing will arrive at the client any more."""
        self._pulling: anyio.CancelScope | None = None
        self._news: anyio.Event | None = None
        self.due: float = head_due
        """The time, on the event loop's clock, until which the client may keep us waiting."""

    async def run(self) -> bytes | None:
        """Serves the connection and closes it.

        Returns:
            What the client has sent so far, if it asks for another protocol; the connection is open then.
        """
        handover: bytes | None = None
        self._transport.flushed = self._flushed
        if self._draining():
            self.drain()
        try:
            handover = await self._answer_all()
        except Exception:
            log.exception("a connection failed")
        finally:
            is_overdue = self._ended and self._head_begun and self.due <= self._clock()
            if self._parser is not None:
                self._parser.close()
            if handover is None:
                # Silence is not answered, nor one that is evicted.
                await self._lingering_close.close(whole_response(refusal(408)) if is_overdue else b"")
        return handover

    def drain(self) -> None:
        """The server drains: what is in progress has to go on coming, and for a new request there is a moment left."""
        if self._idle:
            self.due = min(self.due, self._last_due())
        elif self._pulling is not None and self._parser is not None and self._parser.in_body:
            silence = self._clock() + self._limits.last_silence_timeout
            self._pulling.deadline = min(self._pulling.deadline, silence)

    def end(self) -> None:
        """Ends the connection now, unless a request is being answered."""
        if self._idle:
            self._ended = True
            self._cancel()

    @property
    def _head_begun(self) -> bool:
        """Whether some of a request's head waits for the rest."""
        return self._parser is not None and self._parser.head_begun

    def _last_due(self) -> float:
        limits = self._limits
        return self._clock() + (limits.last_silence_timeout if self._head_begun else limits.last_request_timeout)

    @property
    def head_wait(self) -> HeadWait | None:
        """See `ServerConnection`."""
        if not self._idle or self._ended:
            return None
        limits = self._limits
        patience = limits.keep_alive_timeout if self._awaits_head else limits.header_timeout
        return HeadWait(self._head_begun, self.due - patience, not self._asked)

    # `request_cycle.Connection`

    @property
    def draining(self) -> bool:
        return self._draining()

    async def pull(self) -> None:
        """Brings in more of the request in progress, or notices that the client has gone.

        Returns when something may have changed. One task reads at a time, and not past the next request.
        """
        parser = self._parser
        assert parser is not None  # of the request in progress
        if self._pulling is not None or self._requests or parser.handover is not None:
            if self._news is None:
                self._news = anyio.Event()
            await self._news.wait()
            return
        until = self._clock() + self._body_timeout() if parser.in_body else inf
        try:
            with anyio.CancelScope(deadline=until) as self._pulling:
                self._parse(self._unparsed or await self._transport.receive())
            if self._pulling.cancelled_caught and parser.in_body and self._clock() >= self._pulling.deadline:
                parser.refuse(408)
        finally:
            self._pulling = None
            self._notify()

    def _body_timeout(self) -> float:
        limits = self._limits
        return limits.last_silence_timeout if self._draining() else limits.body_timeout

    def answered(self) -> None:
        """The response is complete, or cannot be sent: ends the waits for the client."""
        if self._pulling is not None:
            self._pulling.cancel()
        self._notify()

    def _notify(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def _flushed(self) -> None:
        if self._transport.broken and not self.gone:
            self.gone = True
            self.answered()

    async def _answer_all(self) -> bytes | None:
        requests = self._requests
        while True:
            parser = self._parser
            if requests:
                if not await self._answer(requests.pop(0)):
                    return None
            elif parser is not None and parser.handover is not None:
                return parser.handover
            elif parser is not None and parser.refusal is not None:
                await self._refuse(parser.refusal)
                return None
            elif self.gone:
                return None
            else:
                self._parse(self._unparsed or await self._transport.receive())
                if self._ended:  # too late: it came in the moment of the end
                    await anyio.lowlevel.checkpoint()
                self._note_head()

    async def _answer(self, request: IncomingRequest) -> bool:
        """Answers one request; says whether the connection goes on."""
        close = self._lingering_close
        cycle = HTTP1RequestCycle(self._app, self._scope(request), request, self, self._transport, close.deadline)
        close.lingers = True
        await cycle.run(refused=self._draining())
        if cycle.closes:
            return self.gone and bool(self._requests)  # what it handed over before it left is done
        if self._requests:
            await anyio.lowlevel.checkpoint()  # for the others
        else:
            self._await_head()
        return True

    def _await_head(self) -> None:
        self._lingering_close.lingers = False
        self._idle = self._asked = True
        if self._parser is not None and self._parsers.give_back(self._parser):
            self._parser = None
        begun = self._head_begun
        self._awaits_head = not begun
        limits = self._limits
        self.due = self._clock() + (limits.header_timeout if begun else limits.keep_alive_timeout)
        if self._draining():
            self.drain()

    def _note_head(self) -> None:
        """Something has come in while no cycle was in progress."""
        if self._requests:
            self._idle = False
            self.due = inf
        elif self._head_begun:
            if self._awaits_head:
                self._awaits_head = False
                self.due = self._clock() + self._limits.header_timeout
            if self._draining():
                self.due = self._last_due()

    def _parse(self, data: bytes) -> None:
        """Takes the client's next bytes; none are its end."""
        if not data:
            self.gone = True
            return
        parser = self._parser
        if parser is None:
            parser = self._parser = self._parsers.take()
        if len(data) > PIECE and not parser.in_body:
            data, self._unparsed = data[:PIECE], data[PIECE:]
        else:
            self._unparsed = b""
        self._requests += parser.feed(data)
        if parser.handover is not None:
            parser.feed(self._unparsed)

    async def _refuse(self, status: int) -> None:
        await self._transport.write(whole_response(refusal(status)))
        self._lingering_close.lingers = True

    def _scope(self, request: IncomingRequest) -> Scope:
        path, _, query = request.target.partition(b"?")
        text = path.decode("ascii")
        return {
            "type": "http",
            "http_version": request.version,
            "asgi": ASGI_VERSION,
            "method": request.method,
            "scheme": self._scheme,
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": request.headers,
            "client": self._client,
            "server": self._server,
            "state": {},
            "extensions": self._extensions(request),
        }

    def _extensions(self, request: IncomingRequest) -> dict[str, object]:
        extensions: dict[str, object] = {WHOLE_RESPONSE: NO_DETAILS}
        if request.complete:
            extensions[WHOLE_BODY] = request.whole
            if self._stream is not None:
                extensions[ON_DISCONNECT] = self._watch_disconnect
        return extensions

    def _watch_disconnect(self, callback: Callable[[], object]) -> DisconnectWatch:
        """Calls `callback` if the client hangs up while the context is open."""
        assert self._stream is not None

        def disconnected() -> None:
            self.gone = True
            self.answered()
            callback()

        return DisconnectWatch(self._stream, disconnected)
