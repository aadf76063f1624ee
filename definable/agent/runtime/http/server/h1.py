"""The way into WebSockets: hypercorn's `H11Protocol`, made strict where a server meets hostile bytes.

A `Client` makes one when a request over HTTP/1.1 asks for another protocol. Only WebSocket is given to it: there is no
cleartext HTTP/2, neither by prior knowledge nor by `Upgrade: h2c`, which no browser and few proxies speak and which
doubles what can go wrong; such a request is answered here, in HTTP/1.1.
"""

from __future__ import annotations

from dataclasses import replace

import h11
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from wsproto.utilities import ProtocolError

from .host import Host
from .hypercorn_engine import engine_arguments
from .refusal import Refused, refusal
from .target import origin_form
from .websocket import WebSocketStream


class H1(H11Protocol):
    """One HTTP/1.1 connection.

    Args:
        config: hypercorn's settings.
        host: The connection.
        tls: Whether it is encrypted, for the scheme.
        client: The peer's address.
        server: Our address.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        *,
        tls: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        super().__init__(*engine_arguments(config, host, tls=tls, client=client, server=server))
        self._host = host

    async def open(self) -> None:
        """Nothing: the client speaks first."""

    async def data(self, data: bytes) -> None:
        """Takes bytes from the client; refuses what is no request of ours and ends the connection."""
        try:
            await self.handle(RawData(data))
        except Refused as refused:
            await self._send_error_response(refused.status)
            await self.send(Closed())
        except (ProtocolError, h11.ProtocolError):  # say, frames behind a WebSocket's close
            await self.send(Closed())

    async def disconnected(self) -> None:
        """Tells the application that the client is gone."""
        await self.handle(Closed())

    async def head_timed_out(self) -> None:
        """Answers 408 (RFC 9110, section 15.5.9) to a head that has begun, and nothing to silence."""
        if self.head_begun:
            await self._send_error_response(408)
            await self.send(Closed())

    @property
    def head_begun(self) -> bool:
        """Whether the first bytes of a request head wait for the rest."""
        return self.connection.their_state is h11.IDLE and bool(self.connection.trailing_data[0])

    async def stream_send(self, event: StreamEvent) -> None:
        """Sends one piece of a response; says so if it is the connection's last."""
        if isinstance(event, Response) and event.status_code >= 200 and self._last_response():
            headers = [(name, value) for name, value in event.headers if name.lower() != b"connection"]
            event = replace(event, headers=[*headers, (b"connection", b"close")])
        await super().stream_send(event)

    def _last_response(self) -> bool:
        """Whether the server drains, or the rest of the request would stand in the way of the next one."""
        return self._host.draining or self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def _check_protocol(self, event: h11.Request) -> None:
        names = {name for name, _ in event.headers}
        if event.http_version not in (b"1.0", b"1.1"):
            raise Refused(505)
        if b"transfer-encoding" in names and (b"content-length" in names or event.http_version == b"1.0"):
            raise Refused(400)  # two framings of one body are how requests are smuggled (RFC 9112, section 6.1)
        if event.method == b"CONNECT":
            raise Refused(501)

    async def _create_stream(self, request: h11.Request) -> None:
        target = origin_form(request.method, request.target)
        websocket = asks_for_websocket(request)
        stream = WebSocketStream if websocket else HTTPStream
        self.stream: HTTPStream | WSStream | None = stream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        if websocket and isinstance(self.connection, h11.Connection):
            self.connection: h11.Connection | H11WSConnection = H11WSConnection(self.connection)
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode().upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )

    async def _send_error_response(self, status_code: int) -> None:
        problem = refusal(status_code)
        headers = [*problem.response_headers(close=True), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=problem.body()))
        await self._send_h11_event(h11.EndOfMessage())


def asks_for_websocket(request: h11.Request) -> bool:
    """Whether a request asks to go on as a WebSocket (RFC 6455, section 4.1)."""
    tokens: dict[bytes, set[bytes]] = {}
    for name, value in request.headers:
        tokens.setdefault(name, set()).update(token.strip().lower() for token in value.split(b","))
    upgrade, connection = tokens.get(b"upgrade", set()), tokens.get(b"connection", set())
    return request.method == b"GET" and b"websocket" in upgrade and b"upgrade" in connection
