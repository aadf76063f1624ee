"""The HTTP server: accepts connections on bound sockets, counts them, and ends them all.

Run in a task group of the caller's: `addresses = await tg.start(server.serve)`, later `server.drain()`, and a cancelled
scope around `serve` once the grace is over.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, cast
from weakref import WeakSet

import anyio
from anyio import ClosedResourceError, TaskHandle
from anyio.abc import TaskGroup, TaskStatus

from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.event_loop import loop_clock
from definable.concurrency.logs import logger_named

from .connection import ServerConnection
from .http1_parser import RequestParsers
from .limits import Evictions, ServerLimits, refuse_connection
from .listener import Address, Streams, streams
from .request_cycle import ASGIApp
from .transport import ClientStream, is_unix

log: logging.Logger = logger_named("definable.http")

ACCEPT_BACKOFF = 0.1
"""Seconds to wait when the system has no more file descriptors or memory for a connection."""

ACCEPT_BATCH = 64
"""Connections accepted at once, before the others get their turn."""

LATENESS = 1 / 20
"""So late, as a part of the shortest time limit, may the end of a connection be that exceeds one."""

EVICTED_WHEN_EXHAUSTED = 16
"""Connections that are ended at once when the system has no descriptor for a new one: 160 a second."""

MAX_REFUSED = 128
"""Connections beyond the limit that are answered 503 at once; more are just closed."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Failures of an accept for want of a resource; the others belong to one client."""

SERVING: WeakSet[HTTPServer] = WeakSet()
"""The servers of this process."""


class HTTPServer:
    """Serves an ASGI application over HTTP/1.1, WebSockets and, with TLS, HTTP/2; on trio and on asyncio.

    Args:
        app: The application. It receives `http.disconnect` when a client goes away, and is not cancelled then.
        sockets: Listening sockets (see `bind`); closed when `serve` ends or `drain` is called.
        ssl_context: Serves TLS (see `ssl_context`) instead of cleartext; a function is asked at each handshake (see
            `CertificateFiles`).
        limits: What clients may take.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        *,
        ssl_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self._app = app
        self._sockets = list(sockets)
        self._ssl_context = ssl_context
        self._limits = limits or ServerLimits()
        self._messages = ByteLimit(self._limits.max_websocket_bytes)
        self._parsers = RequestParsers(self._limits.max_header_bytes)
        self._connections: set[ServerConnection] = set()
        self._addresses: dict[Address, Address] = {}
        self._unowned: set[socket.socket] = set()
        """Accepted sockets whose task has not started: an asyncio task that is cancelled before never does, as all are
        when a `KeyboardInterrupt` ends the event loop."""
        self._accepted = 0
        self._refused = 0
        self._exhausted = False
        self._draining = False
        self._accepts = True
        self._streams: Streams | None = None
        self._clock: Callable[[], float] = anyio.current_time
        self._evictions: Evictions | None = None
        self._is_draining: Callable[[], bool] = lambda: self._draining
        self._connected = anyio.Event()
        self._drain_began = anyio.Event()

    @property
    def open_connections(self) -> int:
        """Connections that are being served."""
        return self._accepted

    async def serve(self, *, task_status: TaskStatus[list[Address]] = anyio.TASK_STATUS_IGNORED) -> None:
        """Accepts and serves connections until `drain` was called and the last one has ended.

        Reports the addresses that it listens on, as (host, port) or (path, None), once it accepts. Cancelled, it
        answers every request whose response has not started with 503, closes WebSockets with 1012 and cuts what has
        started, within a second; nothing of it is left then.
        """
        SERVING.add(self)
        try:
            async with self._watched(), anyio.create_task_group() as connections:
                async with anyio.create_task_group() as listeners:
                    addresses = [_address(sock.getsockname()) for sock in self._sockets if sock.fileno() >= 0]
                    for sock in self._sockets:
                        listeners.start_soon(self._accept, sock, connections)
                    task_status.started(addresses)
                if not self._accepts:
                    await self._drain_began.wait()
        finally:
            SERVING.discard(self)
            for sock in self._unowned:
                sock.close()

    def stop_accepting(self) -> None:
        """Closes the listening sockets; open connections are served on until `drain`."""
        self._accepts = False
        for sock in self._sockets:
            if sock.fileno() >= 0:
                anyio.notify_closing(sock)
        self.close_listeners()

    def close_listeners(self) -> None:
        """Closes the listening sockets alone: all that a forked process may do with its parent's."""
        for sock in self._sockets:
            sock.close()

    def drain(self) -> None:
        """Takes no more work: listeners close now, idle connections a moment later, the others after their cycle.

        A request that has come or is on its way gets a 503, one that is not whole 5 s of silence; see `ServerLimits`.

        To be called from the event loop that serves; a second call does nothing.
        """
        if self._draining:
            return
        self._draining = True
        self._drain_began.set()
        self.stop_accepting()
        for connection in list(self._connections):
            connection.drain()

    @asynccontextmanager
    async def _watched(self) -> AsyncGenerator[None]:
        """Ends the connections whose clients keep them waiting for too long, while the context is open."""
        self._streams = streams()
        self._clock = loop_clock()
        self._evictions = Evictions(self._connections, self._clock)
        # Shielded: connections that are cut off still wait for their clients to close. It ends right after them.
        with_connections = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as watch:
            watch.start_soon(self._run_streams, self._streams, with_connections)
            watch.start_soon(self._end_overdue)
            try:
                yield
            finally:
                with_connections.cancel()
            watch.cancel_scope.cancel()

    async def _run_streams(self, streams: Streams, scope: anyio.CancelScope) -> None:
        with scope:
            await streams.run()

    async def _end_overdue(self) -> None:
        """One look at all connections in place of a timer for each, which would be set and cleared at each request."""
        limits = self._limits
        while True:
            while not self._connections:
                self._connected = anyio.Event()
                await self._connected.wait()
            patience = min(limits.header_timeout, limits.keep_alive_timeout)
            if self._draining:
                patience = min(patience, limits.last_request_timeout)
            now = anyio.current_time()
            for connection in [connection for connection in self._connections if connection.due <= now]:
                if not connection.has_unread:  # a request may have come in this moment
                    connection.end()
            # A client that is not waited for now will have at least `patience` when it is.
            earliest = min(now + patience, min(connection.due for connection in self._connections))
            with anyio.move_on_after(max(earliest - now, patience * LATENESS)):
                await (anyio.sleep_forever() if self._draining else self._drain_began.wait())

    async def _accept(self, listener: socket.socket, connections: TaskGroup) -> None:
        with closing(listener):
            while not self._draining:
                try:
                    await anyio.wait_readable(listener)
                except ClosedResourceError:  # by `drain`
                    return
                if not self._accept_ready(listener, connections):
                    await anyio.sleep(ACCEPT_BACKOFF)

    def _accept_ready(self, listener: socket.socket, connections: TaskGroup) -> bool:
        """Accepts what waits; False if the system cannot give us more."""
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._report_exhausted(error)
                    return False
                continue
            self._exhausted = False
            self._admit(sock, _address(address), connections)
        return True

    def _report_exhausted(self, error: OSError) -> None:
        if not self._exhausted:
            log.error(
                "cannot accept connections: %s; closing idle ones and trying again every %g s",
                error.strerror,
                ACCEPT_BACKOFF,
            )
        self._exhausted = True
        for _ in range(EVICTED_WHEN_EXHAUSTED):
            if not self._evict():
                break

    def _evict(self) -> bool:
        return self._evictions is not None and self._evictions.evict()

    def _admit(self, sock: socket.socket, client: Address, connections: TaskGroup) -> None:
        # The evicted one goes while the new one comes; the reserve of descriptors covers both.
        if self._accepted < self._limits.max_connections or self._evict():
            self._accepted += 1
            self._unowned.add(sock)
            # Its own cancel scope ends the connection while it is idle: one more would weigh half a kilobyte.
            task: list[TaskHandle[None]] = []
            task.append(connections.create_task(self._serve_connection(sock, client, task), name="connection"))
        elif self._ssl_context is None and self._refused < MAX_REFUSED:
            self._refused += 1
            self._unowned.add(sock)
            connections.start_soon(self._refuse_connection, sock)
        else:
            sock.close()

    async def _serve_connection(self, sock: socket.socket, address: Address, task: list[TaskHandle[None]]) -> None:
        connection: ServerConnection | None = None
        try:
            stream = await self._opened(sock)
            if stream is None:
                return
            connection = ServerConnection(
                self._app,
                stream,
                sock,
                self._limits,
                self._is_draining,
                self._clock,
                messages=self._messages,
                parsers=self._parsers,
                client=address,
                server=self._own_address(sock),
            )
            self._connections.add(connection)
            self._connected.set()
            if self._draining:
                connection.drain()
            await connection.run(task.pop().cancel, self._tls())
        except anyio.get_cancelled_exc_class() as cancelled:
            # Its task keeps it in a cycle. With the traceback, all that the connection held would wait there for the
            # garbage collector, which takes a quarter of a millisecond for each, thousands at once at a forced stop.
            raise cancelled.with_traceback(None)  # noqa: B904
        except Exception:  # one connection must not stop the server
            log.exception("a connection failed")
        finally:
            self._accepted -= 1
            if connection is not None:
                self._connections.discard(connection)

    def _own_address(self, sock: socket.socket) -> Address:
        """The address that a client has reached, in the same object for all that have reached the same."""
        address = _address(sock.getsockname())
        return self._addresses.setdefault(address, address)

    def _tls(self) -> ssl.SSLContext | None:
        context = self._ssl_context
        return context if context is None or isinstance(context, ssl.SSLContext) else context()

    async def _opened(self, sock: socket.socket) -> ClientStream | None:
        """An accepted socket as a stream; None if its client has gone already."""
        assert self._streams is not None
        self._unowned.discard(sock)
        try:
            sock.setblocking(False)
            if not is_unix(sock):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return await self._streams.open(sock)
        except OSError:
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise

    async def _refuse_connection(self, sock: socket.socket) -> None:
        try:
            if (stream := await self._opened(sock)) is not None:
                await refuse_connection(stream)
        finally:
            self._refused -= 1


def _address(name: object) -> Address:
    """Host and port of a socket's name, without the scope of an IPv6 one; the path of a Unix socket's."""
    if isinstance(name, tuple):
        host, port = cast("tuple[str, int]", cast("tuple[Any, ...]", name)[:2])
        return host, port
    path = os.fsdecode(cast("str | bytes", name or b""))
    return (path, None) if path else None


def _forget_listeners() -> None:
    for server in list(SERVING):
        server.close_listeners()
    SERVING.clear()


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(after_in_child=_forget_listeners)
