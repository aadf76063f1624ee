"""A connected socket as a byte stream, on asyncio; loaded where asyncio runs only.

anyio's own stream pauses and resumes reading around each read: on most event loops two system calls a request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from .transport import READ_SIZE, ClientStream, FullReads, is_unix


class AsyncioStreams:
    """The accepted sockets of one server; see `listener.Streams`."""

    def __init__(self) -> None:
        self._full_reads = FullReads(asyncio.get_running_loop().call_soon)
        self._read_buffer = memoryview(bytearray(READ_SIZE))
        """All connections read into it, one after the other: the event loop would make 256 KiB for each read."""

    async def run(self) -> None:
        """Nothing: the event loop calls each connection's protocol."""

    async def open(self, sock: socket.socket) -> AsyncioStream:
        """The stream of a connected socket, which it owns from here on."""
        loop = asyncio.get_running_loop()
        connect = loop.create_unix_connection if is_unix(sock) else loop.create_connection
        _, stream = await connect(partial(AsyncioStream, self._read_buffer, self._full_reads), sock=sock)
        return stream


class AsyncioStream(asyncio.BufferedProtocol, ClientStream):
    """One connection; one task receives and one sends at a time.

    Args:
        read_buffer: What is read goes through it; it may be shared by the connections of an event loop.
        full_reads: Says when a connection of which more waits is read from again.
    """

    def __init__(self, read_buffer: memoryview, full_reads: FullReads) -> None:
        self._read_buffer = read_buffer
        self._full_reads = full_reads
        self._transport: asyncio.Transport | None = None
        self._received: bytes | bytearray = b""
        """What waits to be received: bytes if they came in one read, as they mostly do."""
        self._paused = False
        """Whether the system's buffer, and then the peer, has to wait: as much waits here as one read takes."""
        self._eof = False
        self._lost: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False
        """Whether bytes wait to be written."""
        self._disconnect_callback: Callable[[], object] | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)  # what is sent has been taken by the system

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._received:
            self._received = bytes(self._read_buffer[:nbytes])
        elif isinstance(self._received, bytes):
            self._received = bytearray(self._received) + self._read_buffer[:nbytes]
        else:
            self._received += self._read_buffer[:nbytes]
        if len(self._received) >= READ_SIZE and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._eof = True
        _wake(self._reader)
        self._disconnected()
        return True  # our side stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = BrokenResourceError() if self._lost is None else self._lost
        _wake(self._reader)
        _wake(self._writer)
        self._disconnected()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    # Called by the connection.

    @property
    def has_received(self) -> bool:
        return bool(self._received)

    def on_disconnect(self, callback: Callable[[], object] | None) -> None:
        """See `ClientStream`. A peer that sends ahead more than `READ_SIZE` may hang up unnoticed."""
        self._disconnect_callback = callback
        if callback is not None and (self._eof or self._lost is not None):
            asyncio.get_running_loop().call_soon(self._disconnected)

    def _disconnected(self) -> None:
        callback, self._disconnect_callback = self._disconnect_callback, None
        if callback is not None:
            callback()

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        """The next bytes; raises `EndOfStream` once the peer has closed its side."""
        while not self._received:
            if self._eof:
                raise EndOfStream
            if self._lost is not None:
                raise self._lost
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data, self._received = bytes(self._received[:max_bytes]), self._received[max_bytes:]
        if self._paused and len(self._received) < READ_SIZE:
            self._full_reads.take(self._go_on)
        return data

    def _go_on(self) -> None:
        if self._paused and self._transport is not None and self._lost is None:
            self._paused = False
            self._transport.resume_reading()

    async def send(self, item: bytes) -> None:
        """Sends bytes; returns when the system has taken the last of them. Cancelled, it has sent them all the same."""
        if self._lost is not None or self._transport is None:
            raise self._lost or ClosedResourceError
        self._transport.write(item)
        while self._full and self._lost is None:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self._lost is not None:
            raise self._lost

    async def send_eof(self) -> None:
        if self._transport is not None and self._lost is None:
            self._transport.write_eof()

    def abort(self) -> None:
        self._lost = ClosedResourceError()
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        try:
            if self._transport is not None:
                self._transport.close()
            await asyncio.sleep(0)
        finally:
            self.abort()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
