"""A connection that speaks one of hypercorn's protocols: an `HTTPProtocol`, its request cycles, and its end.

A `ServerConnection` makes one for HTTP/2, and for WebSockets after their handshake. The task that calls `run` reads,
and each request cycle has a task of its own, so a client that goes away is noticed while the application works.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf

import anyio
from anyio import BrokenResourceError

from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.logs import logger_named
from definable.server.limits import HeadWait, ServerLimits
from definable.server.request_cycle import ASGIApp, Message, Scope
from definable.server.transport import CLOSE_TIMEOUT, LingeringClose, Transport

from .adapter import ConnectionCallbacks, HTTPProtocol
from .h2 import H2
from .request_cycle import AppSend, HypercornRequestCycle, ReceiveBuffer

log: logging.Logger = logger_named("definable.http")


class HypercornConnection:
    """One connection, until it is closed.

    Args:
        app: The application that answers.
        transport: The connection's bytes.
        limits: The server's bounds.
        draining: Tells whether the server drains.
        messages: What the messages of all WebSockets take.
        protocol: Makes the protocol.
        head_due: The time, on the event loop's clock, until which the first request head must have come.
    """

    def __init__(
        self,
        app: ASGIApp,
        transport: Transport,
        limits: ServerLimits,
        draining: Callable[[], bool],
        *,
        messages: ByteLimit,
        protocol: Callable[[ConnectionCallbacks], HTTPProtocol],
        head_due: float,
    ) -> None:
        self._app = app
        self._limits = limits
        self._draining = draining
        self._transport = transport
        self.messages: ByteLimit = messages
        self._protocol = protocol(self)
        self._lingering_close = LingeringClose(transport)
        self._cycles = anyio.create_task_group()
        self._background = anyio.create_task_group()
        self._background_scopes: set[anyio.CancelScope] = set()
        self._reading = anyio.CancelScope(deadline=head_due)
        self._running: set[HypercornRequestCycle] = set()
        self._idle = True
        self._asked = False
        """Whether there has been a request."""
        self._idle_since = head_due - limits.header_timeout
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
                    async with self._cycles:
                        await self._serve(data)
                finally:
                    for scope in self._background_scopes:
                        scope.cancel()
        finally:
            await self._lingering_close.close()

    def drain(self) -> None:
        """Ends the connection: now if nothing is in progress, else with the cycle that is."""
        for cycle in self._running:
            cycle.drain(self._limits.last_silence_timeout)
        self.end()

    def end(self) -> None:
        """Ends the connection, unless something is in progress."""
        if self._idle and not self._transport.writing:
            self._stop_reading()

    @property
    def head_wait(self) -> HeadWait | None:
        """See `ServerConnection`."""
        if not self._idle or self._closing or self._transport.writing:
            return None
        return HeadWait(False, self._idle_since, not self._asked)

    # `adapter.ConnectionCallbacks`

    @property
    def draining(self) -> bool:
        return self._draining()

    async def write(self, data: bytes) -> None:
        await self._transport.write(data)

    async def ended(self) -> None:
        self._lingering_close.lingers = True
        await self._transport.flush()
        self._stop_reading()

    async def idled(self, idle: bool) -> None:
        if self._closing and self._idle and not idle:  # else one of several has ended
            raise BrokenResourceError
        self._idle = idle
        self._asked = True
        self._idle_since = anyio.current_time()
        self._reading.deadline = self._idle_since + self._limits.keep_alive_timeout if idle else inf
        if idle:
            await self._transport.flush()

    def start_cycle(self, scope: Scope, send: AppSend) -> Callable[[Message], Awaitable[None]]:
        if self._closing:
            raise BrokenResourceError
        if len(self._running) >= 2 * self._limits.max_streams:  # begun and reset faster than the application ends
            self._stop_reading()
            return ReceiveBuffer().put
        cycle = HypercornRequestCycle(
            self._app,
            scope,
            send,
            self._transport,
            multiplexed=isinstance(self._protocol, H2),
            body_timeout=self._limits.body_timeout,
            close_deadline=self._lingering_close.deadline,
        )
        self._running.add(cycle)
        self._cycles.start_soon(self._run_cycle, cycle, self._draining())
        return cycle.receive_buffer.put

    def start_background(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        # Shielded, because a cancelled cycle may need it to say so; cancelled by `run`, right after the cycles.
        scope = anyio.CancelScope(shield=True)
        self._background_scopes.add(scope)
        self._background.start_soon(self._run_background, scope, func, args)

    async def _serve(self, data: bytes) -> None:
        protocol = self._protocol
        with self._reading:
            await protocol.open()
            await self._read(protocol, data)
        self._closing = True
        with anyio.move_on_after(CLOSE_TIMEOUT):  # the client may not read
            await protocol.disconnected()
        if self._idle and isinstance(protocol, H2):
            with anyio.move_on_after(self._limits.last_request_timeout):
                await self._transport.linger()  # a request may be on its way: the client reads that it was not answered
        if (
            self._idle or self._lingering_close.lingers
        ):  # no response is due any more, whatever an application still does
            await self._lingering_close.close()

    async def _read(self, protocol: HTTPProtocol, data: bytes) -> None:
        while data := data or await self._transport.receive():
            try:
                await protocol.data(data)
            except BrokenResourceError:
                return
            except Exception:
                log.exception("a connection failed")
                return
            data = b""

    async def _run_cycle(self, cycle: HypercornRequestCycle, refused: bool) -> None:
        try:
            await cycle.run(refused=refused)
        except Exception:
            log.exception("a request failed in the server")
            self._stop_reading()
        finally:
            self._running.discard(cycle)

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
