"""A WebSocket over HTTP/1.1: hypercorn's `H11Protocol` and `WSStream`, with messages that are bounded.

A `ServerConnection` makes a `WebSocketProtocol` after its `HTTP1Connection` has handed over. The head comes as the
strict parser wrote it again, and nothing but frames follows it: h11, which takes more than that parser does, reads no
byte of a client's HTTP. Its `WebSocketStream` inflates with `BoundedDeflate` (RFC 7692), as one compressed byte can
stand for a thousand: wsproto's own inflates whatever comes before its size can be seen, and takes 256 KiB for the
compressor of each connection.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import anyio.lowlevel
import h11
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import ProtocolError

from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.logs import logger_named
from definable.server.limits import ServerLimits
from definable.server.listener import Address
from definable.server.problem import Problem
from definable.server.request_cycle import Message

from .adapter import ConnectionCallbacks, protocol_arguments
from .request_cycle import MemoryExhausted, MessageBuffer, MessageTooLarge

log: logging.Logger = logger_named("definable.http")

COMPRESSOR_WINDOW_BITS = 12
"""Window of what we send: smaller than agreed is always allowed, and with `COMPRESSOR_MEMORY_LEVEL` a compressor takes
32 KiB (zlib, `zconf.h`). The same figures as in `websockets`, whose authors measured them."""

COMPRESSOR_MEMORY_LEVEL = 5

HANDSHAKE_REFUSALS = {
    400: "The WebSocket handshake is not valid, or data came before it was accepted.",
    403: "The WebSocket was not accepted.",
}

DEFLATED_PIECE = 4096
"""Bytes that are inflated at once: 4 MiB at most, before others get their turn."""


class WebSocketProtocol(H11Protocol):
    """One connection, from the head of its WebSocket handshake on.

    Args:
        callbacks: The connection.
        limits: Its bounds.
        scheme: `"http"` or `"https"`.
        client: The peer's address.
        server: Our address.
    """

    def __init__(
        self, callbacks: ConnectionCallbacks, limits: ServerLimits, scheme: str, client: Address, server: Address
    ) -> None:
        super().__init__(*protocol_arguments(callbacks, limits, scheme, client, server))
        self._callbacks = callbacks

    async def open(self) -> None:
        """Nothing: the client speaks first."""

    async def data(self, data: bytes) -> None:
        """Takes bytes from the client; frames that break the protocol end the connection."""
        try:
            await self.handle(RawData(data))
        except (ProtocolError, h11.ProtocolError):  # say, frames behind a WebSocket's close
            await self.send(Closed())

    async def disconnected(self) -> None:
        """Passes on that the client is gone."""
        await self.handle(Closed())

    async def stream_send(self, event: Event) -> None:
        """Sends one piece of a response; whatever refuses the handshake ends the connection, and says so."""
        if isinstance(event, Response) and event.status_code >= 200:
            headers = [(name, value) for name, value in event.headers if name.lower() != b"connection"]
            event = replace(event, headers=[*headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Nothing: hypercorn looks for cleartext HTTP/2 here, which is not served."""

    async def _create_stream(self, request: h11.Request) -> None:
        stream = WebSocketStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
            messages=self._callbacks.messages,
        )
        self.stream: HTTPStream | WSStream | None = stream
        assert isinstance(self.connection, h11.Connection)
        self.connection: h11.Connection | H11WSConnection = H11WSConnection(self.connection)
        await stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )


class WebSocketStream(WSStream):
    """One WebSocket, from its handshake to its close.

    Args:
        arguments: What hypercorn's class takes.
        messages: Where the connection's messages are counted.
    """

    def __init__(self, *arguments: Any, messages: ByteLimit) -> None:
        super().__init__(*arguments)
        self._messages = MessageBuffer(self.config.websocket_max_message_size, messages)
        self._deflate: BoundedDeflate | None = None

    async def handle(self, event: Event) -> None:
        """Takes what the client sends."""
        if isinstance(event, Data) and self.handshake.accepted:
            await self._receive(event.data)
            return
        await super().handle(event)
        if isinstance(event, StreamClosed):
            self._messages.release()

    async def _receive(self, data: bytes) -> None:
        if self._deflate is None:
            await self._parse(data)
            return
        for start in range(0, len(data), DEFLATED_PIECE):
            await self._parse(data[start : start + DEFLATED_PIECE])
            await anyio.lowlevel.checkpoint()  # one byte may stand for a thousand

    async def _parse(self, data: bytes) -> None:
        if self.closed:
            return
        self.connection.receive_data(data)
        await self._handle_events()

    async def _handle_events(self) -> None:
        try:
            for event in self.connection.events():
                if isinstance(event, TextMessage | BytesMessage):
                    await self._take(event)
                elif isinstance(event, Ping):
                    await self._send_wsproto_event(event.response())
                elif isinstance(event, CloseConnection):
                    await self._closed_by(event)
                if self.closed:
                    return
        finally:
            # wsproto's parser is a generator that refers to itself and keeps the last frame, 4 MiB of it, until it has
            # looked for another: without that they stay when the connection has failed, until garbage is collected.
            for _ in self.connection.events():
                pass

    async def _take(self, event: TextMessage | BytesMessage) -> None:
        if self.connection.state is not ConnectionState.OPEN:
            return
        try:
            message = self._messages.add(event)
        except MessageTooLarge:
            reason = f"messages have at most {self.config.websocket_max_message_size} bytes"
            await self._fail(CloseReason.MESSAGE_TOO_BIG, reason)
        except MemoryExhausted:
            log.warning(
                "closed the WebSocket %r with 1013: unread messages of all WebSockets take all the memory they may",
                self.scope["path"],
            )
            await self._fail(CloseReason.TRY_AGAIN_LATER, "the server is out of memory for messages")
        else:
            if message is not None:
                await self._put(message)  # returns once it was read, if it is not a small one
                self._messages.release()

    async def _closed_by(self, event: CloseConnection) -> None:
        """The client closes, or has broken the protocol."""
        if self.connection.state is ConnectionState.OPEN:
            too_big = event.code == CloseReason.MESSAGE_TOO_BIG
            limit = self.config.websocket_max_message_size
            await self._fail(event.code, f"messages have at most {limit} bytes" if too_big else event.reason)
            return
        if self.connection.state is ConnectionState.REMOTE_CLOSING:
            await self._send_wsproto_event(event.response())
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _fail(self, code: int, reason: str | None) -> None:
        """Fails the connection (RFC 6455, section 7.1.7): says why, and does not wait for the client to answer."""
        self._messages.release()
        # A close frame has 125 bytes, two of which are the code.
        await self._send_wsproto_event(CloseConnection(code=code, reason=None if reason is None else reason[:60]))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        """Accepts the handshake; hypercorn's own would inflate messages without a limit, and ping at once."""
        self.state = ASGIWebsocketState.CONNECTED
        status_code, headers, connection = self.handshake.accept(message.get("subprotocol"), message.get("headers", []))
        accepted = dict(headers).get(b"sec-websocket-extensions")
        if accepted is not None:
            self._deflate = BoundedDeflate(accepted.decode(), self.config.websocket_max_message_size)
            connection = Connection(ConnectionType.SERVER, [self._deflate])
        self.connection = connection
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        self.task_group.spawn(self._send_pings)  # pyright: ignore[reportUnknownMemberType]

    async def _send_pings(self) -> None:
        interval = cast(float, self.config.websocket_ping_interval)
        await self.context.sleep(interval)
        while not self.closed:
            await self._send_wsproto_event(Ping())
            await self.context.sleep(interval)

    async def _send_error_response(self, status_code: int) -> None:
        """Answers a handshake that fails, and ends the stream.

        hypercorn leaves both the connection and an application that waits for messages open here, for as long as the
        client likes.
        """
        self.closed = True  # an application that accepts in this moment is not heard any more
        problem = Problem(status_code, HANDSHAKE_REFUSALS.get(status_code, ""))
        headers = problem.response_headers(close=True)
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self.send(Body(stream_id=self.stream_id, data=problem.body()))
        await self.send(EndBody(stream_id=self.stream_id))
        await self.send(StreamClosed(stream_id=self.stream_id))
        await self._put({"type": "websocket.disconnect", "code": CloseReason.ABNORMAL_CLOSURE.value})

    async def _put(self, message: Message) -> None:
        """Hands a message to the application, if one was called."""
        put = cast("Callable[[Message], Awaitable[None]] | None", self.app_put)  # pyright: ignore[reportUnknownMemberType]
        if put is not None:
            await put(message)


class BoundedDeflate(PerMessageDeflate):
    """`permessage-deflate` as it was agreed on, for messages of a limited size.

    Args:
        accepted: The `Sec-WebSocket-Extensions` header of the handshake's response.
        max_message_bytes: Bytes of one message, inflated; beyond them the connection fails with 1009.
    """

    def __init__(self, accepted: str, max_message_bytes: int) -> None:
        super().__init__()
        self.finalize(accepted)
        self._max_message_bytes = max_message_bytes
        self.inflated: int = 0
        """Bytes of the message in progress."""

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Begins a frame. One that controls (say, a ping) may come between the fragments of a message.

        wsproto's takes what follows for uncompressed then (https://github.com/python-hyper/wsproto/pull/205).
        """
        if not opcode.iscontrol():
            return super().frame_inbound_header(proto, opcode, rsv, payload_length)
        self._inbound_is_compressible = False
        return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Inflates a piece of a frame, as far as the message may grow."""
        if not self._inbound_compressed or not self._inbound_is_compressible:
            return data
        assert self._decompressor is not None
        left = self._max_message_bytes - self.inflated
        try:
            piece = self._decompressor.decompress(bytes(data), left + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(piece) > left or self._decompressor.unconsumed_tail:
            return CloseReason.MESSAGE_TOO_BIG
        self.inflated += len(piece)
        return piece

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """Ends a frame, and with the last one its message."""
        if not self._inbound_is_compressible:
            return None
        rest = super().frame_inbound_complete(proto, fin)  # all input was consumed: what is left in zlib is small
        if fin:
            self.inflated = 0
        return rest

    def frame_outbound(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """Compresses a frame, with little memory."""
        if self._compressor is None and self._compressible_opcode(opcode):
            bits = min(int(self.server_max_window_bits), COMPRESSOR_WINDOW_BITS)
            self._compressor = zlib.compressobj(
                zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -bits, COMPRESSOR_MEMORY_LEVEL
            )
        return super().frame_outbound(proto, opcode, rsv, data, fin)
