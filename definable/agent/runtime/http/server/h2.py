"""HTTP/2 over TLS: hypercorn's `H2Protocol`, with the ends that it leaves open closed.

A `Client` makes one when ALPN chose `h2`. Each stream is one exchange; WebSockets over HTTP/2 (RFC 8441) are not
offered, so browsers open an HTTP/1.1 connection for them.
"""

from __future__ import annotations

import logging
from typing import cast

import anyio
import anyio.lowlevel
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, EndBody, Event, StreamClosed
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import Event as IOEvent
from priority.priority import PriorityError

from .h2_frames import FrameMeter, FrameRefused
from .host import Host
from .hypercorn_engine import engine_arguments

log: logging.Logger = logging.getLogger("definable.http")

BODY_SIZE = 65_536
"""Bytes of a response body handed to flow control at once: the unit in which a slow client's progress is judged."""


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
    an exchange end before the end of its stream was sent.
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
        config: hypercorn's settings.
        host: The connection.
        write_timeout: Seconds that a client may take to open its window for the next `BODY_SIZE` bytes.
        client: The peer's address.
        server: Our address.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        *,
        write_timeout: float,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        super().__init__(*engine_arguments(config, host, tls=True, client=client, server=server))
        self.streams: dict[int, HTTPStream | WSStream] = _Streams()
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
            },
        )
        self._write_timeout = write_timeout
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
            self._say_goodbye(refused.code)
            await self._flush()
            await self.send(Closed())
        except (H2Error, PriorityError, LookupError, ValueError):  # hypercorn lets malformed frames through as these
            await self.send(Closed())

    async def disconnected(self) -> None:
        """Tells the applications that the client is gone, frees those that wait for its window, and says goodbye."""
        await self.handle(Closed())
        for buffer in list(self.stream_buffers.values()):
            await buffer.close()
        self._say_goodbye(ErrorCodes.NO_ERROR)
        await self._flush()

    def _say_goodbye(self, code: ErrorCodes) -> None:
        """Says which requests were answered, once.

        Not before the last one has been, though RFC 9113 (section 6.8) lets a server say so when a drain begins:
        clients on h2, httpx among them, read nothing more then (https://github.com/python-hyper/h2/issues/1181).
        """
        if self.connection.state_machine.state is not ConnectionState.CLOSED:
            self.connection.close_connection(code)

    async def head_timed_out(self) -> None:
        """Nothing: a head is a frame, and a connection without requests is just closed."""

    @property
    def head_begun(self) -> bool:
        """False: heads are not read piecemeal here."""
        return False

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
        await super()._create_stream(request)
        self.stream_buffers[request.stream_id] = _ResponseBuffer(self.context.event_class)
