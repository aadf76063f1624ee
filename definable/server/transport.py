"""One connection's bytes: an anyio stream with bounded, joined and ordered writes, and an end that lets them arrive.

Owned by a connection, which decides when to read, write and close; no HTTP here.

The end of a connection: bounded, and so that what was said last arrives. Both kinds of connection hold one.

Who hangs up while an application works: told by the event loop, to whom it matters, and nobody has to read for it.

A run's client is watched as long as its run goes on. A task for each, which reads until there is no more to read, costs
as much time as the run itself and a third of its memory.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import inf
from types import TracebackType

import anyio
import anyio.lowlevel
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from .tls import beneath, notify_close


class ClientStream(ByteStream):
    """A client's connection, which knows without being read from that the client sends no more."""

    @property
    def tells_hangups(self) -> bool:
        """Whether it does, on this system."""
        return True

    @property
    def has_received(self) -> bool:
        """Whether it holds bytes that nobody has taken yet; what waits in the system's buffer is not among them."""
        return False

    @abstractmethod
    def on_hangup(self, tell: Callable[[], object] | None) -> None:
        """Has the event loop call `tell` once the client hangs up, soon if it has already; None: nobody any more."""

    @abstractmethod
    def abort(self) -> None:
        """Closes the connection, whatever waits to be written; whoever waits for it is told."""


class UntilHangup:
    """A context that calls a function if the client hangs up while it is open; one a connection at a time.

    Args:
        connection: The client's.
        tell: What to call.
    """

    __slots__ = ("_connection", "_tell")

    def __init__(self, connection: ClientStream, tell: Callable[[], object]) -> None:
        self._connection = connection
        self._tell = tell

    def __enter__(self) -> None:
        self._connection.on_hangup(self._tell)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.on_hangup(None)


GONE = (EndOfStream, BrokenResourceError, ClosedResourceError, OSError)
"""What a stream raises once the peer is not there (TLS failures are `OSError`s)."""

WRITE_SIZE = 65_536
"""Bytes handed to the stream at once: the unit in which a slow client's progress is judged."""

MAX_LINGER = 32 * 1024 * 1024
"""Bytes that a client which was answered already may still send before its connection is closed on it."""


def _nothing() -> None:
    pass


class Transport:
    """Reads, writes and closes one connection.

    Args:
        stream: The connection; the transport owns it from here on.
        write_timeout: Seconds that the peer may take for `WRITE_SIZE` bytes.
        sock: The stream's socket, where bytes may go into it as they are.
    """

    __slots__ = ("_corks", "_direct", "_lock", "_pending", "_stream", "_write_timeout", "broken", "flushed")

    def __init__(
        self, stream: ClientStream | TLSStream, write_timeout: float, sock: socket.socket | None = None
    ) -> None:
        self._stream = stream
        self._write_timeout = write_timeout
        self._direct = sock
        """Takes what its buffer has room for, at a tenth of a stream's cost; None once a stream may hold bytes back."""
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
            stream = self._stream
            if isinstance(stream, TLSStream):
                await notify_close(stream)
                self.broken = True  # nothing can follow
                stream = beneath(stream)
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
                await notify_close(self._stream)
        except GONE:
            pass
        finally:
            await anyio.aclose_forcefully(self._stream)


LAST_CALL = 1.0
"""Seconds that a connection which must end may take to say so, and to let what it said arrive."""


class Farewell:
    """Closes one connection.

    Args:
        transport: Its bytes.
    """

    __slots__ = ("_last_call", "_transport", "lingers")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._last_call = inf
        self.lingers: bool = False
        """Whether something was said that the client should get to read before the connection is gone."""

    def must_end_by(self) -> float:
        """The time until which a cancelled connection may still speak: the first caller starts the clock."""
        self._last_call = min(self._last_call, anyio.current_time() + LAST_CALL)
        return self._last_call

    async def close(self) -> None:
        """Closes the connection, also when it is cancelled."""
        # Shielded, so that what was said arrives. Bounded by the last call.
        with anyio.CancelScope(shield=True, deadline=self.must_end_by()):
            try:
                if self.lingers:
                    await self._transport.linger()
            finally:
                await self._transport.aclose()
