"""One client: a `Transport` and an `HTTPProtocol`, the exchanges between them, and when it all ends.

Run by the `HTTPServer` in a task of its own. That task reads, and each exchange has a task, so a client that goes away
is noticed while the application works.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from math import inf

import anyio
from anyio import BrokenResourceError
from anyio.abc import ByteStream

from .asgi import ASGIApp, Message, Scope
from .exchange import Exchange
from .h1 import H1
from .h2 import H2
from .host import AppSend, HTTPProtocol
from .hypercorn_engine import engine_config
from .inbox import Inbox
from .limits import ServerLimits
from .tls import handshake, negotiated
from .transport import GONE, Transport

log = logging.getLogger("definable.http")

LAST_CALL = 1.0
"""Seconds that a connection which must end may take to say so, and to let what it said arrive."""

Address = tuple[str, int] | None
"""A host and port; None where the system does not tell."""


class Connection:
    """One accepted connection, until it is closed.

    Args:
        app: The application that answers.
        stream: The connection; owned from here on.
        limits: The server's bounds.
        draining: Tells whether the server drains.
        client: The peer's address.
        server: Our address.
    """

    def __init__(
        self,
        app: ASGIApp,
        stream: ByteStream,
        limits: ServerLimits,
        draining: Callable[[], bool],
        *,
        client: Address,
        server: Address,
    ) -> None:
        self._app = app
        self._limits = limits
        self._draining = draining
        self._addresses: dict[str, Address] = {"client": client, "server": server}
        self._stream = stream
        self._transport = Transport(stream, limits.write_timeout, self._flushed)
        self._protocol: HTTPProtocol | None = None
        self._exchanges = anyio.create_task_group()
        self._background = anyio.create_task_group()
        self._background_scopes: set[anyio.CancelScope] = set()
        self._reading = anyio.CancelScope(deadline=anyio.current_time() + limits.header_timeout)
        self._open_exchanges = 0
        self._idle = True
        self._awaits_head = False
        self._closing = False
        self._lingers = False
        self._last_call = inf

    async def run(self, tls: ssl.SSLContext | None = None) -> None:
        """Serves the connection, and closes it however that ends."""
        try:
            async with self._background:
                try:
                    async with self._exchanges:
                        await self._serve(tls)
                finally:
                    for scope in self._background_scopes:
                        scope.cancel()
        finally:
            await self._close()

    def drain(self) -> None:
        """Ends the connection: now if nothing is in progress, else with the exchange that is."""
        if self._idle and not self._transport.writing:
            self._stop_reading()

    # What the protocol asks for: see `host.Host`.

    @property
    def draining(self) -> bool:
        """Whether this connection must end with the exchange in progress."""
        return self._draining()

    async def write(self, data: bytes) -> None:
        """Sends bytes to the client."""
        await self._transport.write(data)

    async def ended(self) -> None:
        """The protocol is done with this connection, once what was written has arrived."""
        self._lingers = True
        await self._transport.flush()
        self._stop_reading()

    async def idled(self, idle: bool) -> None:
        """An exchange has begun, or the last one has ended."""
        if self._closing and not idle:
            raise BrokenResourceError
        self._idle = idle
        self._awaits_head = idle
        self._reading.deadline = anyio.current_time() + self._limits.keep_alive_timeout if idle else inf
        if idle:
            await self._transport.flush()

    def start_exchange(self, scope: Scope, send: AppSend) -> Callable[[Message], Awaitable[None]]:
        """Calls the application; returns where its incoming messages go."""
        if self._open_exchanges >= 2 * self._limits.max_streams:  # begun and reset faster than the application ends
            self._stop_reading()
            return Inbox().put
        exchange = Exchange(
            self._app,
            scope,
            send,
            self._transport,
            multiplexed=isinstance(self._protocol, H2),
            last_call=self._must_end_by,
        )
        self._open_exchanges += 1
        self._exchanges.start_soon(self._run_exchange, exchange, self._draining())
        return exchange.inbox.put

    def start_background(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Runs a task of the protocol until the connection's exchanges have ended."""
        # Shielded, because a cancelled exchange may need it to say so; cancelled by `run`, right after the exchanges.
        scope = anyio.CancelScope(shield=True)
        self._background_scopes.add(scope)
        self._background.start_soon(self._run_background, scope, func, args)

    async def _serve(self, tls: ssl.SSLContext | None) -> None:
        with self._reading:
            self._protocol = await self._open(tls)
            if self._protocol is not None:
                await self._protocol.open()
                await self._read(self._protocol)
        timed_out = self._reading.cancelled_caught and not self._closing
        self._closing = True
        with anyio.move_on_after(LAST_CALL):  # the client may not read
            if self._protocol is not None and timed_out:
                await self._protocol.head_timed_out()
            if self._protocol is not None:
                await self._protocol.disconnected()
        if self._idle or self._lingers:  # no response is due any more, whatever an application still does
            await self._close()

    async def _open(self, tls: ssl.SSLContext | None) -> HTTPProtocol | None:
        """Makes the TLS handshake if there is one, and chooses the protocol; None if the client fails at it."""
        config = engine_config(self._limits)
        if tls is None:
            return H1(config, self, tls=False, **self._addresses)
        try:
            secured = await handshake(self._stream, tls)
        except GONE:
            return None
        self._transport = Transport(secured, self._limits.write_timeout, self._flushed)
        if negotiated(secured) == "h2":
            return H2(config, self, write_timeout=self._limits.write_timeout, **self._addresses)
        return H1(config, self, tls=True, **self._addresses)

    async def _read(self, protocol: HTTPProtocol) -> None:
        while data := await self._transport.receive():
            try:
                await protocol.data(data)
            except BrokenResourceError:
                return
            except Exception:
                log.exception("a connection failed")
                return
            if self._awaits_head and protocol.head_begun:
                self._awaits_head = False
                self._reading.deadline = anyio.current_time() + self._limits.header_timeout

    async def _run_exchange(self, exchange: Exchange, refused: bool) -> None:
        try:
            await exchange.run(refused=refused)
        except Exception:
            log.exception("an exchange failed")
            self._stop_reading()
        finally:
            self._open_exchanges -= 1

    async def _run_background(
        self, scope: anyio.CancelScope, func: Callable[..., Awaitable[object]], args: tuple[object, ...]
    ) -> None:
        with scope:
            try:
                await func(*args)
            except Exception:
                log.exception("a connection failed")
                self._stop_reading()

    def _stop_reading(self) -> None:
        self._closing = True
        self._reading.cancel()

    def _flushed(self) -> None:
        if self._transport.broken:
            self._stop_reading()
        elif self._draining():
            self.drain()

    def _must_end_by(self) -> float:
        """The time until which a cancelled connection may still speak: the first caller starts the clock."""
        self._last_call = min(self._last_call, anyio.current_time() + LAST_CALL)
        return self._last_call

    async def _close(self) -> None:
        # Shielded, so that what was said arrives. Bounded by the last call.
        with anyio.CancelScope(shield=True, deadline=self._must_end_by()):
            try:
                if self._lingers:
                    await self._transport.linger()
            finally:
                await self._transport.aclose()
