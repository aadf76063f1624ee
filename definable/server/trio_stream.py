"""Connected sockets as byte streams, on trio; loaded where trio runs only.

`trio.lowlevel.wait_readable` registers a socket with the system anew for each wait, and `trio.SocketStream` tries a
read before, which fails after each request: a system call and a good part of what a small request costs. Here each
connection is registered once, with an epoll of the server's own (edge-triggered, see epoll(7)) for which trio waits; it
reports disconnects too. Where there is no epoll (macOS, Windows), `wait_readable` it is.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import closing

import trio
from anyio import ClosedResourceError, EndOfStream

from definable.concurrency.event_loop import EventLoopHandle

from .transport import READ_SIZE, ClientStream, FullReads

HAS_EPOLL = hasattr(select, "epoll")


class TrioStreams:
    """The accepted sockets of one server; see `listener.Streams`."""

    def __init__(self) -> None:
        self._full_reads = FullReads(trio.lowlevel.current_trio_token().run_sync_soon)
        self._epoll: select.epoll | None = select.epoll() if HAS_EPOLL else None
        self._streams: dict[int, TrioStream] = {}

    async def run(self) -> None:
        """Hands the sockets' events to their streams until cancelled; then no stream may be left."""
        if self._epoll is None:
            return
        with closing(self._epoll) as epoll:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for fd, events in epoll.poll(0):
                    self._streams[fd].handle_events(events)

    async def open(self, sock: socket.socket) -> TrioStream:
        """The stream of a non-blocking socket, which it owns from here on."""
        if self._epoll is None:
            return TrioStream(sock, None, self._full_reads)
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        stream = self._streams[sock.fileno()] = TrioStream(sock, self._forget, self._full_reads)
        return stream

    def _forget(self, sock: socket.socket) -> None:
        assert self._epoll is not None
        del self._streams[sock.fileno()]
        self._epoll.unregister(sock)


class TrioStream(ClientStream):
    """One connection; one task receives and one sends at a time.

    Args:
        sock: Non-blocking; owned from here on.
        forget: Called before the socket is closed; None where no epoll reports its events.
        full_reads: Says when a connection of which more waits is read from again.
    """

    def __init__(
        self, sock: socket.socket, forget: Callable[[socket.socket], None] | None, full_reads: FullReads
    ) -> None:
        self._sock = sock
        self._forget = forget
        self._full_reads = full_reads
        self._pauses = False
        """Whether others are read from first."""
        self._readable = False
        """Whether a read may bring something."""
        self._ends = False
        """Whether the peer has closed its side, or is gone: what is left to read is there, and then the end."""
        self._reader: trio.lowlevel.Task | None = None
        self._disconnect_callback: Callable[[], object] | None = None

    def handle_events(self, events: int) -> None:
        """Takes what epoll reports of the socket."""
        self._readable = True
        if events & ~select.EPOLLIN:
            self._ends = True
            self._disconnected()
        if not self._pauses:
            self._wake()

    @property
    def detects_disconnects(self) -> bool:
        return self._forget is not None

    def on_disconnect(self, callback: Callable[[], object] | None) -> None:
        self._disconnect_callback = callback
        if self._ends and callback is not None:
            EventLoopHandle().call_soon(self._disconnected)

    def _disconnected(self) -> None:
        callback, self._disconnect_callback = self._disconnect_callback, None
        if callback is not None:
            callback()

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        """The next bytes; raises `EndOfStream` once the peer has closed its side."""
        while True:
            if self._sock.fileno() < 0:  # epoll reports nothing of it
                raise ClosedResourceError
            if self._pauses or not (self._readable or self._forget is None):
                self._reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._give_up)
            else:
                await self._wait_readable()
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                self._readable = False
                continue
            except OSError:
                if self._sock.fileno() < 0:
                    raise ClosedResourceError from None
                raise
            if not data:
                raise EndOfStream
            if len(data) == max_bytes:
                self._pauses = True
                self._full_reads.take(self._go_on)
            elif not self._ends:  # all there was (epoll(7), "Do I need to ... until EAGAIN")
                self._readable = False
            return data

    def _go_on(self) -> None:
        self._pauses = False
        self._wake()

    async def _wait_readable(self) -> None:
        if self._forget is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            raise ClosedResourceError from None

    def _give_up(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)

    async def send(self, item: bytes) -> None:
        """Sends bytes; returns when the system has taken the last of them."""
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await self._writable()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _writable(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except trio.ClosedResourceError:
            raise ClosedResourceError from None

    async def send_eof(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            if self._forget is not None:
                self._forget(self._sock)
            self._sock.close()
            self._wake()

    async def aclose(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()
