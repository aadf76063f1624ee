"""Socket Mode's side of one connection: strict, over wsproto.

Source: https://docs.slack.dev/apis/events-api/using-socket-mode
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Pong, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError

if TYPE_CHECKING:
    from .slack import SlackServer

MAX_SOCKETS = 10
"""Of one app."""


class SocketConnection:
    """One WebSocket connection of a client."""

    def __init__(self, server: SlackServer, stream: ByteStream) -> None:
        self.server = server
        self.is_zombie = False
        """Acknowledges no ping and delivers nothing, as a connection does whose other end is gone."""
        self.is_ready = False
        """Whether it was greeted and gets envelopes."""
        self.unacknowledged: dict[str, anyio.Event] = {}
        """Envelopes that were sent over it, each with what is set once it is acknowledged, or never will be."""
        self.acknowledged: dict[str, Any] = {}
        self._stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)
        self._sending = anyio.Lock()
        self._over = False

    async def run(self, head: bytes) -> None:
        self.server.connections.append(self)
        try:
            await self._receive(head)
            while not self._over:
                await self._receive(await self._stream.receive(65536))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, LocalProtocolError):
            pass
        finally:
            self.is_ready = False
            self.server.connections.remove(self)
            for waiting in self.unacknowledged.values():
                waiting.set()
            self.server.note_change()

    async def send(self, document: Any) -> None:
        if not self.is_zombie:
            await self.raw(json.dumps(document))

    async def raw(self, text: str) -> None:
        await self._send(TextMessage(text))

    async def disconnect(self, reason: str) -> None:
        """Announce the end, as Slack does some seconds ahead of it."""
        self.is_ready = reason == "warning"  # a warned one is used still
        await self.send({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-1"}})

    async def close(self, code: int = 1000) -> None:
        await self._send(CloseConnection(code))

    async def drop(self) -> None:
        self._over = True
        await self._stream.aclose()

    async def deliver(self, envelope: dict[str, Any], within: float) -> bool:
        """Send an envelope; whether it is acknowledged in time."""
        id, waiting = envelope["envelope_id"], anyio.Event()
        self.unacknowledged[id] = waiting
        await self.send(envelope)
        with anyio.move_on_after(within):
            await waiting.wait()
        self.unacknowledged.pop(id, None)
        return id in self.acknowledged

    async def _send(self, event: Any) -> None:
        async with self._sending:
            try:
                await self._stream.send(self._ws.send(event))
            except (LocalProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._over = True

    async def _receive(self, data: bytes) -> None:
        self._ws.receive_data(data)
        for event in self._ws.events():
            match event:
                case Request(target=target):
                    await self._greet(target)
                case TextMessage(data=text):
                    self._acknowledge(text)
                case CloseConnection(code=code):
                    self.server.client_closes.append(code)
                    self._over = True
                    await self._send(event.response())
                case Ping():
                    if not self.is_zombie:
                        await self._send(event.response())
                case Pong():
                    pass
                case _:
                    self.server.violations.append(f"unexpected {event!r}")

    async def _greet(self, target: str) -> None:
        server = self.server
        ticket = parse_qs(urlsplit(target).query).get("ticket", [""])[0]
        if ticket not in server.tickets or server.rejects_sockets:
            if not server.rejects_sockets:
                server.violations.append("a socket's URL was used again")
            await self._send(RejectConnection(status_code=503 if server.rejects_sockets else 404))
            self._over = True
            return
        server.tickets.remove(ticket)
        await self._send(AcceptConnection())
        if server.is_silent:
            return
        if server.refuses_sockets or len(server.connections) > MAX_SOCKETS:
            await self.disconnect(server.refuses_sockets or "too_many_websockets")
            await self.close()
            return
        number = sum(each.is_ready for each in server.connections) + 1
        await self.send(
            {
                "type": "hello",
                "num_connections": number,
                "debug_info": {"host": "applink-1", "build_number": 1, "approximate_connection_time": 3600},
                "connection_info": {"app_id": server.app_id},
            }
        )
        self.is_ready = True
        server.greeted += 1
        server.note_change()

    def _acknowledge(self, text: str) -> None:
        try:
            answer = json.loads(text)
            id = answer["envelope_id"]
        except (ValueError, TypeError, KeyError):
            self.server.violations.append(f"no acknowledgement: {text[:100]}")
            return
        if id not in self.unacknowledged and id not in self.server.late:
            self.server.violations.append(f"an unknown envelope was acknowledged: {id}")
        self.acknowledged[id] = answer.get("payload")
        if (waiting := self.unacknowledged.get(id)) is not None:
            waiting.set()
