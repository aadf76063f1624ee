"""One connection's bytes: the socket's stream, TLS, bounded and ordered writes, and a close that lets them arrive.

No HTTP here. A `Transport` belongs to a connection, which decides when to read, write and close. The streams beneath
are `asyncio_stream` and `trio_stream`.
"""

from __future__ import annotations

import socket
import ssl
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import inf
from types import TracebackType
from typing import Any

import anyio
import anyio.lowlevel
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

GONE = (EndOfStream, BrokenResourceError, ClosedResourceError, OSError)
"""What a stream raises once the peer is not there (TLS failures are `OSError`s)."""

WRITE_SIZE = 65_536
"""Bytes handed to the stream at once: the unit in which a slow client's progress is judged."""

MAX_LINGER = 32 * 1024 * 1024
"""Bytes that a client which was answered already may still send before its connection is closed on it."""

CLOSE_TIMEOUT = 1.0
"""Seconds for the last response of a connection that must end, and for its delivery."""


def is_unix(sock: socket.socket) -> bool:
    """Whether a socket is a Unix one: it has neither addresses nor TCP's options."""
    return hasattr(socket, "AF_UNIX") and sock.family == socket.AF_UNIX


READ_SIZE = 65_536
"""Bytes that are read from one connection before the others have their turn."""

FULL_READS_A_TURN = 4
"""Reads of `READ_SIZE` that all connections together get before everybody else has a turn: a millisecond's work."""


class FullReads:
    """Lets the connections of which more waits than one read takes go on, `FULL_READS_A_TURN` in a turn of the loop.

    Hundreds of clients that upload at once would otherwise all be read from in each turn, and whoever sends a small
    request would wait for all of them.

    Args:
        call_soon: Has the event loop call a function in its next turn.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._left = FULL_READS_A_TURN
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on` in this turn, or in a later one."""
        if self._left == FULL_READS_A_TURN:
            self._call_soon(self._begin_turn)
        if self._left:
            self._left -= 1
            go_on()
        else:
            self._waiting.append(go_on)

    def _begin_turn(self) -> None:
        waiting, self._left = self._waiting, FULL_READS_A_TURN
        for _ in range(min(FULL_READS_A_TURN, len(waiting))):
            self.take(waiting.popleft())


class ClientStream(ByteStream):
    """A client's connection, which notices without a read that the client sends no more."""

    @property
    def detects_disconnects(self) -> bool:
        """Whether it does, on this system."""
        return True

    @property
    def has_received(self) -> bool:
        """Whether it holds bytes that were not received yet; what waits in the system's buffer is not among them."""
        return False

    @abstractmethod
    def on_disconnect(self, callback: Callable[[], object] | None) -> None:
        """Sets what the event loop calls once the client hangs up, soon if it has already; None: nothing."""

    @abstractmethod
    def abort(self) -> None:
        """Closes the connection, whatever waits to be written; pending calls raise."""


class DisconnectWatch:
    """A context that calls a function if the client hangs up while it is open; one a connection at a time."""

    def __init__(self, stream: ClientStream, callback: Callable[[], object]) -> None:
        self._stream = stream
        self._callback = callback

    def __enter__(self) -> None:
        self._stream.on_disconnect(self._callback)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.on_disconnect(None)


class _TLSSocket(ByteStream):
    """The socket beneath a TLS stream: one writer at a time, and a close that does not wait for the peer.

    `TLSStream` writes from the reading task too (say, to answer a key update), and its closing handshake waits for the
    peer's half, which an idle client does not send until it reads again. RFC 8446, section 6.1, lets either side close
    once its own `close_notify` is out.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._writing = anyio.Lock(fast_acquire=True)
        self.closing = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.closing:
            raise EndOfStream
        return await self.stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        async with self._writing:
            await self.stream.send(item)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self.stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def handshake(stream: ByteStream, context: ssl.SSLContext) -> TLSStream:
    """Makes the server's side of the TLS handshake; the caller bounds it and owns `stream` if it fails."""
    return await TLSStream.wrap(_TLSSocket(stream), server_side=True, ssl_context=context, standard_compatible=False)


def negotiated(stream: TLSStream) -> str | None:
    """The protocol that ALPN chose, if it chose one."""
    return stream.extra(TLSAttribute.alpn_protocol, None)


async def _notify_close(stream: TLSStream) -> ByteStream:
    """Sends `close_notify`, so that the peer can tell the end from a cut; returns the connection beneath."""
    beneath = stream.transport_stream
    assert isinstance(beneath, _TLSSocket)
    beneath.closing = True
    await stream.unwrap()
    return beneath.stream


def _nothing() -> None:
    pass


class Transport:
    """Reads, writes and closes one connection.

    Args:
        stream: The connection; the transport owns it from here on.
        write_timeout: Seconds that the peer may take for `WRITE_SIZE` bytes.
        sock: The stream's socket, where bytes may go into it as they are.
    """

    def __init__(
        self, stream: ClientStream | TLSStream, write_timeout: float, sock: socket.socket | None = None
    ) -> None:
        self._stream = stream
        self._write_timeout = write_timeout
        self._direct = sock
        """Takes what its buffer has room for, without a task switch; None once the stream may hold bytes back."""
        self.flushed: Callable[[], None] = _nothing
        """Called after each write: there may be nothing left to write, or nobody to write to."""
        self._lock: anyio.Lock | None = None
        self._pending = bytearray()
        self._corks = 0
        self.broken: bool = False
        """The peer is gone or stopped reading: nothing will arrive any more."""

    @property
    def writing(self) -> bool:
        """Whether bytes wait to be written."""
        return bool(self._pending) or (self._lock is not None and self._lock.locked())

    async def receive(self) -> bytes:
        """The next bytes, or nothing once the peer has closed its side."""
        try:
            return await self._stream.receive()
        except GONE:
            return b""

    @contextmanager
    def corked(self) -> Generator[None]:
        """Joins the writes within into one, sent by the next `flush`: a packet costs more than its bytes."""
        self._corks += 1
        try:
            yield
        finally:
            self._corks -= 1

    async def write(self, data: bytes) -> None:
        """Sends bytes after all earlier ones, unless corked; without effect once the transport is `broken`."""
        data = self.write_now(data)
        if not data:
            self.flushed()
            return
        self._pending += data
        if not self._corks:
            await self.flush()

    def write_now(self, data: bytes) -> bytes:
        """Sends what the socket takes at once, if nothing comes before it; returns the rest, which is to be written."""
        sock = self._direct
        if sock is None or self._corks or self._pending or self.broken:
            return data
        try:
            sent = sock.send(data)
        except BlockingIOError:
            return data
        except OSError:
            self.broken = True
            return data
        return data[sent:]

    async def flush(self) -> None:
        """Sends what is pending; a peer that is gone, or makes no progress in time, leaves the transport `broken`."""
        if not self.writing:
            await anyio.lowlevel.checkpoint_if_cancelled()
            self.flushed()
            return
        self._direct = None
        if self._lock is None:
            self._lock = anyio.Lock(fast_acquire=True)
        async with self._lock:
            await anyio.lowlevel.checkpoint_if_cancelled()  # with all of it still pending, for a flush under a shield
            data, self._pending = memoryview(self._pending), bytearray()
            if self.broken:
                await anyio.lowlevel.checkpoint()  # an application may write on without end
            else:
                await self._send(data)
        self.flushed()

    async def _send(self, data: memoryview) -> None:
        try:
            for start in range(0, len(data), WRITE_SIZE):
                with anyio.fail_after(self._write_timeout):
                    await self._stream.send(bytes(data[start : start + WRITE_SIZE]))
        except (*GONE, TimeoutError):
            self.broken = True
        except BaseException:  # cancelled between two bytes: whatever followed would be garbage
            self.broken = True
            raise

    async def linger(self) -> None:
        """Closes our side and waits for the peer's, so that unread bytes cause no reset (RFC 9112, section 9.6)."""
        if self.broken:
            return
        try:
            stream: ByteStream = self._stream
            if isinstance(stream, TLSStream):
                stream = await _notify_close(stream)
                self.broken = True  # nothing can follow
            await stream.send_eof()
            unread = MAX_LINGER
            while unread > 0:
                unread -= len(await stream.receive())
        except GONE:
            pass

    async def aclose(self) -> None:
        """Closes the connection; the caller bounds it, and in a cancelled scope it closes at once."""
        alive, self.broken = not self.broken, True
        if not isinstance(self._stream, TLSStream):
            self._stream.abort()
            return
        try:
            if alive:
                await _notify_close(self._stream)
        except GONE:
            pass
        finally:
            await anyio.aclose_forcefully(self._stream)


class LingeringClose:
    """Closes a connection within `CLOSE_TIMEOUT`, so that the last response is delivered (RFC 9112, section 9.6)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._deadline = inf
        self.lingers: bool = False
        """Whether the client may still have to read a response."""

    def deadline(self) -> float:
        """The event loop's time until which a cancelled connection may still send: the first call starts the clock."""
        self._deadline = min(self._deadline, anyio.current_time() + CLOSE_TIMEOUT)
        return self._deadline

    async def close(self, last: bytes = b"") -> None:
        """Closes the connection, also when it is cancelled, after sending `last`."""
        # Shielded, so that the last response arrives; the deadline bounds it.
        with anyio.CancelScope(shield=True, deadline=self.deadline()):
            try:
                if last:
                    await self._transport.write(last)
                    self.lingers = True
                if self.lingers:
                    await self._transport.linger()
            finally:
                await self._transport.aclose()
