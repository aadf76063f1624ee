"""One client that speaks one of hypercorn's protocols: the `HTTPProtocol`, its exchanges, and when it all ends.

Made by a `Client`, for HTTP/2 and for what came out of HTTP/1.1 by an upgrade. The task that calls `run` reads, and
each exchange has a task, so a client that goes away is noticed while the application works.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf

import anyio
from anyio import BrokenResourceError

from definable.server.limits import ServerLimits
from definable.server.request_cycle import ASGIApp, Message, Scope
from definable.server.transport import LAST_CALL, Farewell, Transport

from .h2 import H2
from .request_cycle import AppSend, EngineExchange, Host, HTTPProtocol, Inbox, Wait
from .websocket import MessageMemory

log: logging.Logger = logging.getLogger("definable.http")


class EngineConnection:
    """One connection, until it is closed.

    Args:
        app: The application that answers.
        transport: The connection's bytes.
        limits: The server's bounds.
        draining: Tells whether the server drains.
        messages: What the messages of all WebSockets take.
        speak: Makes the protocol.
        head_due: The time, on the event loop's clock, until which the first request head must have come.
    """

    def __init__(
        self,
        app: ASGIApp,
        transport: Transport,
        limits: ServerLimits,
        draining: Callable[[], bool],
        *,
        messages: MessageMemory,
        speak: Callable[[Host], HTTPProtocol],
        head_due: float,
    ) -> None:
        self._app = app
        self._limits = limits
        self._draining = draining
        self._transport = transport
        self.messages: MessageMemory = messages
        """What the messages of all WebSockets take."""
        self._protocol = speak(self)
        self._farewell = Farewell(transport)
        self._exchanges = anyio.create_task_group()
        self._background = anyio.create_task_group()
        self._background_scopes: set[anyio.CancelScope] = set()
        self._reading = anyio.CancelScope(deadline=head_due)
        self._running: set[EngineExchange] = set()
        self._idle = True
        self._asked = False
        """Whether there has been a request."""
        self._idle_since = head_due - limits.header_timeout
        self._awaits_head = False
        self._closing = False

    async def run(self, data: bytes = b"") -> None:
        """Serves the connection, and closes it however that ends.

        Args:
            data: What the client has sent already.
        """
        self._transport.flushed = self._flushed
        try:
            async with self._background:
                try:
                    async with self._exchanges:
                        await self._serve(data)
                finally:
                    for scope in self._background_scopes:
                        scope.cancel()
        finally:
            await self._farewell.close()

    def drain(self) -> None:
        """Ends the connection: now if nothing is in progress, else with the exchange that is."""
        for exchange in self._running:
            exchange.drain(self._limits.last_silence_timeout)
        self.end()

    def end(self) -> None:
        """Ends the connection, unless something is in progress."""
        if self._idle and not self._transport.writing:
            self._stop_reading()

    @property
    def wait(self) -> Wait | None:
        """See `client.Client`."""
        if not self._idle or self._closing or self._transport.writing:
            return None
        return Wait(False, self._idle_since, not self._asked)

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
        self._farewell.lingers = True
        await self._transport.flush()
        self._stop_reading()

    async def idled(self, idle: bool) -> None:
        """An exchange has begun, or the last one has ended."""
        if self._closing and not idle:
            raise BrokenResourceError
        self._idle = idle
        self._awaits_head = idle
        self._asked = True
        self._idle_since = anyio.current_time()
        self._reading.deadline = self._idle_since + self._limits.keep_alive_timeout if idle else inf
        if idle:
            await self._transport.flush()

    def start_exchange(self, scope: Scope, send: AppSend) -> Callable[[Message], Awaitable[None]]:
        """Calls the application; returns where its incoming messages go."""
        if len(self._running) >= 2 * self._limits.max_streams:  # begun and reset faster than the application ends
            self._stop_reading()
            return Inbox().put
        exchange = EngineExchange(
            self._app,
            scope,
            send,
            self._transport,
            multiplexed=isinstance(self._protocol, H2),
            body_timeout=self._limits.body_timeout,
            last_call=self._farewell.must_end_by,
        )
        self._running.add(exchange)
        self._exchanges.start_soon(self._run_exchange, exchange, self._draining())
        return exchange.inbox.put

    def start_background(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Runs a task of the protocol until the connection's exchanges have ended."""
        # Shielded, because a cancelled exchange may need it to say so; cancelled by `run`, right after the exchanges.
        scope = anyio.CancelScope(shield=True)
        self._background_scopes.add(scope)
        self._background.start_soon(self._run_background, scope, func, args)

    async def _serve(self, data: bytes) -> None:
        protocol = self._protocol
        with self._reading:
            await protocol.open()
            await self._read(protocol, data)
        timed_out = self._reading.cancelled_caught and not self._closing
        self._closing = True
        with anyio.move_on_after(LAST_CALL):  # the client may not read
            if timed_out:
                await protocol.head_timed_out()
            await protocol.disconnected()
        if self._idle and isinstance(protocol, H2):
            with anyio.move_on_after(self._limits.last_request_timeout):
                await self._transport.linger()  # a request may be on its way: the client reads that it was not answered
        if self._idle or self._farewell.lingers:  # no response is due any more, whatever an application still does
            await self._farewell.close()

    async def _read(self, protocol: HTTPProtocol, data: bytes) -> None:
        while data := data or await self._transport.receive():
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
            data = b""

    async def _run_exchange(self, exchange: EngineExchange, refused: bool) -> None:
        try:
            await exchange.run(refused=refused)
        except Exception:
            log.exception("an exchange failed")
            self._stop_reading()
        finally:
            self._running.discard(exchange)

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
