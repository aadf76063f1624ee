"""One accepted connection: its TLS handshake, and the protocol that its client speaks.

The `HTTPServer` runs each in a task of its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from math import inf
from socket import MSG_PEEK, socket

import anyio
from anyio.streams.tls import TLSStream

from definable.concurrency.byte_limit import ByteLimit

from .http1_connection import HTTP1Connection
from .http1_parser import RequestParsers
from .hypercorn.adapter import ProtocolFactory
from .hypercorn.connection import HypercornConnection
from .hypercorn.h2 import H2
from .hypercorn.websocket import WebSocketProtocol
from .limits import HeadWait, ServerLimits
from .listener import Address
from .request_cycle import ASGIApp
from .transport import GONE, ClientStream, LingeringClose, Transport, handshake, negotiated


class ServerConnection:
    """One client's connection, until it is closed.

    Args:
        app: The application that answers.
        stream: The connection; owned from here on.
        sock: Its socket.
        limits: The server's bounds.
        draining: Tells whether the server drains.
        clock: The event loop's, in seconds.
        messages: What the messages of all WebSockets take.
        parsers: Those of the server.
        client: The peer's address.
        server: Our address.
    """

    def __init__(
        self,
        app: ASGIApp,
        stream: ClientStream,
        sock: socket,
        limits: ServerLimits,
        draining: Callable[[], bool],
        clock: Callable[[], float],
        *,
        messages: ByteLimit,
        parsers: RequestParsers,
        client: Address,
        server: Address,
    ) -> None:
        self._app = app
        self._stream = stream
        self._sock = sock
        self._limits = limits
        self._draining = draining
        self._clock = clock
        self._messages = messages
        self._parsers = parsers
        self._client = client
        self._server = server
        self._head_due = clock() + limits.header_timeout
        self._handshaking: anyio.CancelScope | None = None
        self._connection: HTTP1Connection | HypercornConnection | None = None

    async def run(self, cancel: Callable[[], None], tls: ssl.SSLContext | None = None) -> None:
        """Serves the client, and closes its connection however that ends.

        Args:
            cancel: Cancels the task that runs it.
            tls: Serves TLS instead of cleartext.
        """
        transport, scheme = Transport(self._stream, self._limits.write_timeout, self._sock), "http"
        if tls is not None:
            secured = await self._secured(tls)
            if secured is None:
                return
            transport, scheme = Transport(secured, self._limits.write_timeout), "https"
            if negotiated(secured) == "h2":
                await self._speak(transport, H2)
                return
        handover = await self._http1(transport, scheme, cancel).run()
        if handover is not None:  # the client asks for a WebSocket
            self._head_due = self._clock() + self._limits.header_timeout
            await self._speak(transport, WebSocketProtocol, scheme, handover)

    def drain(self) -> None:
        """The server drains: ends the connection with the request in progress, or after a last wait for one."""
        if self._handshaking is not None:
            self._handshaking.cancel()
        if self._connection is not None:
            self._connection.drain()

    def end(self) -> None:
        """Ends the connection now, unless there is something to answer."""
        if self._handshaking is not None:
            self._handshaking.cancel()
        if self._connection is not None:
            self._connection.end()

    @property
    def due(self) -> float:
        """The event loop's time until which the client may keep us waiting; `inf` while it does not.

        A `HypercornConnection` and the TLS handshake have deadlines of their own.
        """
        return self._connection.due if isinstance(self._connection, HTTP1Connection) else inf

    @property
    def head_wait(self) -> HeadWait | None:
        """The wait for a request's head or the TLS handshake; None while there is something to answer."""
        if self._connection is not None:
            return self._connection.head_wait
        if self._handshaking is not None and self._handshaking.cancel_called:
            return None
        return HeadWait(False, self._head_due - self._limits.header_timeout, True)

    @property
    def has_unread(self) -> bool:
        """Whether something has come in that the connection has not seen yet."""
        if self._stream.has_received:
            return True
        try:
            return bool(self._sock.recv(1, MSG_PEEK))
        except OSError:  # nothing, or nobody
            return False

    async def _secured(self, tls: ssl.SSLContext) -> TLSStream | None:
        """Makes the TLS handshake; None, and all closed, if the client fails at it."""
        secured: TLSStream | None = None
        try:
            with anyio.CancelScope(deadline=self._head_due) as self._handshaking:
                if self._draining():
                    self._handshaking.cancel()
                secured = await handshake(self._stream, tls)
        except GONE:
            pass
        finally:
            if secured is None:
                await LingeringClose(Transport(self._stream, self._limits.write_timeout)).close()
        return secured

    def _http1(self, transport: Transport, scheme: str, cancel: Callable[[], None]) -> HTTP1Connection:
        """The connection, for as long as it speaks HTTP/1.1."""
        # Over TLS an end is a message (`close_notify`), after which a client may keep its connection open until it gets
        # ours: somebody has to read it.
        detects_disconnects = scheme == "http" and self._stream.detects_disconnects
        self._connection = connection = HTTP1Connection(
            self._app,
            transport,
            self._limits,
            self._draining,
            self._clock,
            parsers=self._parsers,
            cancel=cancel,
            scheme=scheme,
            client=self._client,
            server=self._server,
            head_due=self._head_due,
            stream=self._stream if detects_disconnects else None,
        )
        return connection

    async def _speak(
        self, transport: Transport, protocol: ProtocolFactory, scheme: str = "https", data: bytes = b""
    ) -> None:
        """One of hypercorn's protocols."""
        connection = self._connection = HypercornConnection(
            self._app,
            transport,
            self._limits,
            self._draining,
            messages=self._messages,
            protocol=lambda callbacks: protocol(callbacks, self._limits, scheme, self._client, self._server),
            head_due=self._head_due,
        )
        await connection.run(data)
