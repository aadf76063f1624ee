"""A WebSocket over HTTP/1.1: hypercorn's `WSStream`, with refusals that end the exchange. Made by `H1`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from hypercorn.protocol.events import Body, Data, EndBody, Event, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import ConnectionState
from wsproto.frame_protocol import CloseReason

from definable.agent.runtime.http.problem import Problem

from .asgi import Message

DETAILS = {
    400: "The WebSocket handshake is not valid, or data came before it was accepted.",
    403: "The WebSocket was not accepted.",
}


class WebSocketStream(WSStream):
    """One WebSocket, from its handshake to its close."""

    async def handle(self, event: Event) -> None:
        """Takes what the client sends; a message that is too large ends the stream, also if the client stays."""
        await super().handle(event)
        if not isinstance(event, Data) or self.closed or self.state is not ASGIWebsocketState.CONNECTED:
            return
        if self.connection.state is ConnectionState.LOCAL_CLOSING:
            await self.send(StreamClosed(stream_id=self.stream_id))

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
        put = cast("Callable[[Message], Awaitable[None]] | None", self.app_put)  # pyright: ignore[reportUnknownMemberType]
        if put is not None:
            await put({"type": "websocket.disconnect", "code": CloseReason.ABNORMAL_CLOSURE.value})
