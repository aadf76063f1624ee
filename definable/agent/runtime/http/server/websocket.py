"""A WebSocket over HTTP/1.1: hypercorn's `WSStream`, with refusals that end the exchange and messages that are bounded.

Made by `H1`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio.lowlevel
from hypercorn.protocol.events import Body, Data, EndBody, Event, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from definable.agent.runtime.http.problem import Problem

from .asgi import Message
from .websocket_deflate import BoundedDeflate
from .websocket_message import MemoryExhausted, MessageBuffer, MessageMemory, MessageTooLarge

log: logging.Logger = logging.getLogger("definable.http")

DETAILS = {
    400: "The WebSocket handshake is not valid, or data came before it was accepted.",
    403: "The WebSocket was not accepted.",
}

DEFLATED_PIECE = 4096
"""Bytes that are inflated at once: 4 MiB at most, before others get their turn."""


class WebSocketStream(WSStream):
    """One WebSocket, from its handshake to its close.

    Args:
        engine: What hypercorn's class takes.
        messages: Where the connection's messages are counted.
    """

    def __init__(self, *engine: Any, messages: MessageMemory) -> None:
        super().__init__(*engine)
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
        for event in self.connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                await self._take(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._closed_by(event)
            if self.closed:
                return

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
        problem = Problem(status_code, DETAILS.get(status_code, ""))
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
