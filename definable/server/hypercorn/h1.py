"""A WebSocket over HTTP/1.1: hypercorn's `H11Protocol`, given a handshake that the `RequestParser` has read.

A `Client` makes one after its `HTTP1Connection` has handed over. The head comes as the strict parser wrote it again,
and nothing but frames follows it: h11, which takes more than that parser does, reads no byte of a client's HTTP.
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

from .engine import engine_arguments
from .request_cycle import Host
from .websocket import WebSocketStream


class H1(H11Protocol):
    """One connection, from the head of its WebSocket handshake on.

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
        """Takes bytes from the client; frames that break the protocol end the connection."""
        try:
            await self.handle(RawData(data))
        except (ProtocolError, h11.ProtocolError):  # say, frames behind a WebSocket's close
            await self.send(Closed())

    async def disconnected(self) -> None:
        """Tells the application that the client is gone."""
        await self.handle(Closed())

    async def head_timed_out(self) -> None:
        """Nothing: the head is here from the beginning."""

    @property
    def head_begun(self) -> bool:
        """False: the head is here from the beginning."""
        return False

    async def stream_send(self, event: StreamEvent) -> None:
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
            messages=self._host.messages,
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
