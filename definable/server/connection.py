"""One accepted client: its TLS handshake, and the kind of connection that speaks its protocol.

Run by the `HTTPServer` in a task of its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from math import inf
from socket import MSG_PEEK, socket

import anyio
from anyio.streams.tls import TLSStream

from .http1_connection import HTTP1Connection
from .hypercorn.connection import EngineConnection
from .hypercorn.engine import engine_config
from .hypercorn.h1 import H1
from .hypercorn.h2 import H2
from .hypercorn.request_cycle import Host, HTTPProtocol, Wait
from .hypercorn.websocket import MessageMemory
from .limits import ServerLimits
from .listener import Address
from .request_cycle import ASGIApp
from .tls import handshake, negotiated
from .transport import GONE, ClientStream, Farewell, Transport


class Client:
    """One client, until its connection is closed.

    Args:
        app: The application that answers.
        stream: The connection; owned from here on.
        sock: Its socket.
        limits: The server's bounds.
        draining: Tells whether the server drains.
        clock: The event loop's, in seconds.
        messages: What the messages of all WebSockets take.
        client: The peer's address.
        server: Our address.
    """

    __slots__ = (
        "_app",
        "_client",
        "_clock",
        "_connection",
        "_draining",
        "_head_due",
        "_limits",
        "_messages",
        "_opening",
        "_server",
        "_sock",
        "_stream",
    )

    def __init__(
        self,
        app: ASGIApp,
        stream: ClientStream,
        sock: socket,
        limits: ServerLimits,
        draining: Callable[[], bool],
        clock: Callable[[], float],
        *,
        messages: MessageMemory,
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
        self._client = client
        self._server = server
        self._head_due = clock() + limits.header_timeout
        self._opening: anyio.CancelScope | None = None
        self._connection: HTTP1Connection | EngineConnection | None = None

    def run(self, tls: ssl.SSLContext | None = None) -> Awaitable[None]:
        """Serves the client, and closes its connection however that ends."""
        if tls is None:
            return self._speak_http1(Transport(self._stream, self._limits.write_timeout, self._sock), "http")
        return self._run_secured(tls)

    async def _run_secured(self, tls: ssl.SSLContext) -> None:
        secured = await self._secured(tls)
        if secured is None:
            return
        transport = Transport(secured, self._limits.write_timeout)
        if negotiated(secured) == "h2":
            await self._speak(transport, self._h2)
        else:
            await self._speak_http1(transport, "https")

    def drain(self) -> None:
        """The server drains: ends the connection with the exchange in progress, or after a last wait for a request."""
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.drain()

    def end(self) -> None:
        """Ends the connection now, unless there is something to answer."""
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.end()

    @property
    def due(self) -> float:
        """The time, on the event loop's clock, until which the client may keep us waiting; `inf` while it does not.

        An `EngineConnection` and the TLS handshake see to their own.
        """
        return self._connection.due if isinstance(self._connection, HTTP1Connection) else inf

    @property
    def wait(self) -> Wait | None:
        """The wait for a request's head or the TLS handshake; None while there is something to answer."""
        if self._connection is not None:
            return self._connection.wait
        if self._opening is not None and self._opening.cancel_called:
            return None
        return Wait(False, self._head_due - self._limits.header_timeout, True)

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
            with anyio.CancelScope(deadline=self._head_due) as self._opening:
                if self._draining():
                    self._opening.cancel()
                secured = await handshake(self._stream, tls)
        except GONE:
            pass
        finally:
            if secured is None:
                await Farewell(Transport(self._stream, self._limits.write_timeout)).close()
        return secured

    async def _speak_http1(self, transport: Transport, scheme: str) -> None:
        """HTTP/1.1, until the client asks for another protocol."""
        # Over TLS an end is a message (`close_notify`), after which a client may keep its connection open until it gets
        # ours: somebody has to read it.
        tells_hangups = scheme == "http" and self._stream.tells_hangups
        connection = self._connection = HTTP1Connection(
            self._app,
            transport,
            self._limits,
            self._draining,
            self._clock,
            scheme=scheme,
            client=self._client,
            server=self._server,
            head_due=self._head_due,
            stream=self._stream if tells_hangups else None,
        )
        handover = await connection.run()
        if handover is not None:
            self._head_due = self._clock() + self._limits.header_timeout
            await self._speak(transport, lambda host: self._h1(host, scheme), handover)

    async def _speak(self, transport: Transport, speak: Callable[[Host], HTTPProtocol], data: bytes = b"") -> None:
        """One of hypercorn's protocols."""
        connection = self._connection = EngineConnection(
            self._app,
            transport,
            self._limits,
            self._draining,
            messages=self._messages,
            speak=speak,
            head_due=self._head_due,
        )
        await connection.run(data)

    def _h1(self, host: Host, scheme: str) -> HTTPProtocol:
        return H1(engine_config(self._limits), host, tls=scheme == "https", client=self._client, server=self._server)

    def _h2(self, host: Host) -> HTTPProtocol:
        return H2(
            engine_config(self._limits),
            host,
            write_timeout=self._limits.write_timeout,
            client=self._client,
            server=self._server,
        )
