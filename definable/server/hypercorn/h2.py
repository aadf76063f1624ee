"""HTTP/2 over TLS: hypercorn's `H2Protocol`, with bounds on what a client may send and on how long it may take.

A `ServerConnection` makes one when ALPN chose `h2`. Each stream is one request cycle; WebSockets over HTTP/2 (RFC 8441)
are not offered, so browsers open an HTTP/1.1 connection for them.

A client's bytes pass a `FrameMeter` (pure) before they are parsed: h2 itself waits for a frame as long as its length
says, 16 MiB of it, and takes any number of frames that cost a client nothing (CVE-2019-9511 to 9518; RFC 9113, section
10.5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import cast

import anyio
import anyio.lowlevel
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, EndBody, Event, StreamClosed
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import Event as IOEvent
from priority.priority import PriorityError

from definable.concurrency.logs import logger_named
from definable.server.limits import ServerLimits
from definable.server.listener import Address

from .adapter import ConnectionCallbacks, protocol_arguments

log: logging.Logger = logger_named("definable.http")

BODY_SIZE = 65_536
"""Bytes of a response body handed to flow control at once: the unit in which a slow client's progress is judged."""

PREFACE_SIZE = 24
"""Bytes with which a client begins a connection."""

HEAD_SIZE = 9
"""Bytes before each frame's payload."""

BATCH = 32
"""Frames that are handled before other connections get their turn: about a millisecond's work."""

HEADERS_WEIGHT = 8
"""Frames that a request counts for in a `BATCH`."""

ALLOWANCE = 1000
"""Frames that bring nothing (settings, pings, priorities, window updates, resets, empty data) and may come at once.
nghttp2 allows a burst of 1,000 resets (`nghttp2_option_set_stream_reset_rate_limit`)."""

REFILL = 50.0
"""Such frames that may come in a second, on and on."""

REQUEST_CREDIT = 3
"""Such frames that a request may bring along: priorities and window updates of its own."""

DATA_CREDIT = 4
"""Such frames that each frame of ours with data may be answered with. Envoy allows ten window updates."""

RESET_COST = REQUEST_CREDIT + 1
"""Of a request that is reset at once nothing remains to allow for another."""

DATA, HEADERS, RST_STREAM = 0x0, 0x1, 0x3
END_STREAM, PADDED = 0x1, 0x8


class FrameRefused(Exception):
    """A client's frames end its connection.

    Args:
        code: What the client is told.
        why: The same in words, for a log.
    """

    def __init__(self, code: ErrorCodes, why: str) -> None:
        super().__init__(why)
        self.code = code


class FrameMeter:
    """Reads the heads of one connection's incoming frames.

    Args:
        clock: The time, in seconds.
        max_frame_size: Bytes of a frame's payload (`SETTINGS_MAX_FRAME_SIZE`).
    """

    def __init__(self, clock: Callable[[], float], max_frame_size: int) -> None:
        self._clock = clock
        self._max_frame_size = max_frame_size
        self._skip = PREFACE_SIZE
        """Bytes until the next frame begins."""
        self._head = bytearray()
        """A frame's head of which not all has come."""
        self._weight = 0
        """Frames since others got their turn."""
        self._allowance = float(ALLOWANCE)
        self._counted_at = clock()

    def pieces(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The bytes in pieces; with each, whether others are to get their turn after it.

        Raises:
            FrameRefused: A frame is larger than ours may be, or too many have brought nothing.
        """
        start = position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            if self._weight >= BATCH:
                self._weight = 0
                yield data[start:position], True
                start = position
            head = data[position : position + HEAD_SIZE - len(self._head)]
            self._head += head
            position += len(head)
            if len(self._head) == HEAD_SIZE:
                self._meter(self._head)
                self._head.clear()
        yield data[start:], False

    def sent_data(self) -> None:
        """A frame of ours with data has gone out: its receiver may open its windows again."""
        self._allowance = min(ALLOWANCE, self._allowance + DATA_CREDIT)

    def _meter(self, head: bytearray) -> None:
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if size > self._max_frame_size:
            raise FrameRefused(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of {size:,} bytes")
        self._skip = size
        self._weight += HEADERS_WEIGHT if kind == HEADERS else 1
        if kind == HEADERS:
            self._allowance = min(ALLOWANCE, self._allowance + REQUEST_CREDIT)
        elif kind != DATA:
            self._charge(RESET_COST if kind == RST_STREAM else 1)
        elif not flags & END_STREAM and (size == 0 or (flags & PADDED and size <= 256)):  # nothing but padding fits
            self._charge(1)

    def _charge(self, cost: int) -> None:
        now = self._clock()
        refilled = self._allowance + (now - self._counted_at) * REFILL
        self._counted_at = now
        self._allowance = min(ALLOWANCE, refilled) - cost
        if self._allowance < 0:
            raise FrameRefused(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that bring no request and no data")


class _Discard:
    """Takes what still comes for a stream that has been answered."""

    async def handle(self, event: Event) -> None:
        pass


class _Streams(dict[int, HTTPStream | WSStream]):
    """The open streams; data for any other is dropped, where hypercorn fails with a `KeyError`."""

    def __missing__(self, stream_id: int) -> HTTPStream:
        return cast(HTTPStream, _Discard())


class _ResponseBuffer(StreamBuffer):
    """Bytes of a response that wait for the client's window, and the end of the stream behind them.

    hypercorn's own counts a shut window as progress, so an application goes on filling it without bound; and it lets
    a request end before the end of its stream was sent.
    """

    def __init__(self, event_class: type[IOEvent]) -> None:
        super().__init__(event_class)
        self.ended = anyio.Event()

    @property
    def finished(self) -> bool:
        """Whether the application has sent all of it."""
        return self._complete

    async def pop(self, max_length: int) -> bytes:
        """Takes what fits into the window."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data

    async def close(self) -> None:
        """Drops the rest and frees whoever waits."""
        await super().close()
        self.ended.set()


class H2(H2Protocol):
    """One HTTP/2 connection.

    Args:
        callbacks: The connection.
        limits: Its bounds; `write_timeout` is how long a client may take to open its window for `BODY_SIZE` bytes.
        scheme: `"https"`.
        client: The peer's address.
        server: Our address.
    """

    def __init__(
        self, callbacks: ConnectionCallbacks, limits: ServerLimits, scheme: str, client: Address, server: Address
    ) -> None:
        super().__init__(*protocol_arguments(callbacks, limits, scheme, client, server))
        self.streams: dict[int, HTTPStream | WSStream] = _Streams()
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
            },
        )
        self._write_timeout = limits.write_timeout
        self._meter = FrameMeter(anyio.current_time, self.connection.max_inbound_frame_size)

    async def open(self) -> None:
        """Sends our settings."""
        await self.initiate()

    async def data(self, data: bytes) -> None:
        """Takes bytes from the client; whatever is no HTTP/2 ends the connection."""
        try:
            for piece, pause in self._meter.pieces(data):
                await self.handle(RawData(piece))
                if pause:
                    await anyio.lowlevel.checkpoint()
        except FrameRefused as refused:
            log.info("ended the HTTP/2 connection of %s: %s", self.client and self.client[0], refused)
            self._send_goaway(refused.code)
            await self._flush()
            await self.send(Closed())
        except (H2Error, PriorityError, LookupError, ValueError):  # hypercorn lets malformed frames through as these
            await self.send(Closed())

    async def disconnected(self) -> None:
        """Passes on that the client is gone, frees what waits for its window, and sends a GOAWAY."""
        await self.handle(Closed())
        for buffer in list(self.stream_buffers.values()):
            await buffer.close()
        self._send_goaway(ErrorCodes.NO_ERROR)
        await self._flush()

    def _send_goaway(self, code: ErrorCodes) -> None:
        """Sends a GOAWAY frame, once.

        Not before the last request was answered, though RFC 9113 (section 6.8) lets a server when a drain begins:
        clients on h2, httpx among them, read nothing more then (https://github.com/python-hyper/h2/issues/1181).
        """
        if self.connection.state_machine.state is not ConnectionState.CLOSED:
            self.connection.close_connection(code)

    async def stream_send(self, event: Event) -> None:
        """Sends one piece of a response, and bounds how long the client may keep its window shut."""
        if isinstance(event, StreamClosed):
            await self._reset_unfinished(event.stream_id)
            await super().stream_send(event)
        elif isinstance(event, Body):
            for start in range(0, len(event.data), BODY_SIZE):
                await self._send_in_time(Body(event.stream_id, event.data[start : start + BODY_SIZE]))
        elif isinstance(event, EndBody):
            buffer = self._buffer(event.stream_id)
            await self._send_in_time(event)
            if buffer is not None:
                await buffer.ended.wait()
        else:
            await super().stream_send(event)

    async def _send_data(self, stream_id: int) -> None:
        buffer = self._buffer(stream_id)
        if buffer is not None and buffer.buffer:
            self._meter.sent_data()
        await super()._send_data(stream_id)
        if buffer is not None and stream_id not in self.stream_buffers:
            buffer.ended.set()

    def _buffer(self, stream_id: int) -> _ResponseBuffer | None:
        return cast("_ResponseBuffer | None", self.stream_buffers.get(stream_id))

    async def _send_in_time(self, event: Event) -> None:
        try:
            with anyio.fail_after(self._write_timeout):
                await super().stream_send(event)
        except TimeoutError:
            await self.send(Closed())
            await self.disconnected()

    async def _reset_unfinished(self, stream_id: int) -> None:
        """A response that was cut must not leave its client waiting for the rest."""
        buffer = self._buffer(stream_id)
        if buffer is None or buffer.finished:
            return
        try:
            self.connection.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
        except H2Error:
            pass  # the client, or the end of the connection, was faster
        await buffer.close()
        await self._flush()

    async def _create_stream(self, request: RequestReceived) -> None:
        headers = dict(request.headers or [])
        method, path = headers.get(b":method", b""), headers.get(b":path", b"")
        if method == b"CONNECT" or not path.startswith(b"/") or not (method + path).isascii():
            raise ProtocolError("not a request that this server can serve")
        try:
            await super()._create_stream(request)
        except BaseException:  # the connection takes no more: hypercorn cannot close what it has not begun
            self.streams.pop(request.stream_id, None)
            raise
        self.stream_buffers[request.stream_id] = _ResponseBuffer(self.context.event_class)
