"""The gateway's side of one connection, and the sessions that outlive connections: strict, over wsproto.

It closes on a client that breaks the protocol, with the code that Discord would use, and notes it as a violation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError

from .discord_objects import ready, snowflake

if TYPE_CHECKING:
    from .discord_server import DiscordServer

MAX_PAYLOAD = 4096
"""Bytes of one payload of a client."""

ALLOWANCE = 5.0
"""Seconds for which a busy machine may hold up a heartbeat: Discord's intervals are 41 s, these are a tenth of one."""

ALL_INTENTS = (1 << 26) - 1


@dataclass
class Session:
    """Events are kept for whoever resumes."""

    id: str = field(default_factory=snowflake)
    events: list[tuple[str, Any]] = field(default_factory=list)
    connection: Connection | None = None

    def add(self, name: str, data: Any) -> int:
        """The new event's sequence number."""
        self.events.append((name, data))
        return len(self.events)


class Refuse(Exception):
    """The client broke the protocol."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Connection:
    """One WebSocket connection of a client."""

    def __init__(self, server: DiscordServer, stream: ByteStream) -> None:
        self.server = server
        self.session: Session | None = None
        self.is_zombie = False
        """Acknowledges nothing and delivers nothing, as a connection does whose other end is gone."""
        self.closed_by_client: int | None = None
        self._stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)
        self._sending = anyio.Lock()
        self._last_beat = anyio.current_time()
        self._closing = self._over = False

    async def run(self, head: bytes) -> None:
        self.server.connections.append(self)
        try:
            async with anyio.create_task_group() as tasks:
                await self._receive(head)
                tasks.start_soon(self._watch_heartbeats)
                while not self._over:
                    await self._receive(await self._stream.receive(65536))
                tasks.cancel_scope.cancel()
        except* (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, LocalProtocolError):
            pass
        finally:
            self._leave()

    async def payload(self, op: int, data: Any = None, sequence: int | None = None, event: str | None = None) -> None:
        if not self.is_zombie:
            await self.raw(json.dumps({"op": op, "d": data, "s": sequence, "t": event}))

    async def raw(self, text: str) -> None:
        await self._send(TextMessage(text))

    async def close(self, code: int, reason: str = "") -> None:
        self._closing = True
        await self._send(CloseConnection(code, reason))

    async def drop(self) -> None:
        self._over = True
        await self._stream.aclose()

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
                    await self._judge(text)
                case CloseConnection(code=code):
                    if not self._closing:
                        self.closed_by_client = code
                    self._over = True
                    await self._send(event.response())
                case Ping():
                    await self._send(event.response())
                case _:
                    self.server.violations.append(f"unexpected {event!r}")

    async def _greet(self, target: str) -> None:
        query = parse_qs(urlsplit(target).query)
        if query.get("v") != ["10"] or query.get("encoding") != ["json"] or self.server.rejects_sockets:
            await self._send(RejectConnection(status_code=503 if self.server.rejects_sockets else 400))
            self._over = True
            return
        await self._send(AcceptConnection())
        if not self.server.is_silent:
            await self.payload(10, {"heartbeat_interval": self.server.heartbeat_interval * 1000})

    async def _judge(self, text: str) -> None:
        try:
            await self._hear(text)
        except Refuse as refusal:
            self.server.violations.append(f"{refusal.code}: {refusal}")
            await self.close(refusal.code, str(refusal))

    async def _hear(self, text: str) -> None:
        if len(text.encode()) > MAX_PAYLOAD:
            raise Refuse(4002, "payload too long")
        try:
            payload = json.loads(text)
            op, data = payload["op"], payload["d"]
        except (ValueError, TypeError, KeyError):
            raise Refuse(4002, "error while decoding the payload") from None
        self.server.heard.append((op, data))
        match op:
            case 1:
                await self._on_heartbeat(data)
            case 2:
                await self._on_identify(data)
            case 6:
                await self._on_resume(data)
            case 3 | 4 | 8 if self.session is not None:
                pass
            case _:
                raise Refuse(4001 if self.session else 4003, f"opcode {op}")

    async def _on_heartbeat(self, sequence: Any) -> None:
        known = len(self.session.events) if self.session else sequence  # it may come while a session is being resumed
        if sequence is not None and not (isinstance(sequence, int) and sequence <= known):
            raise Refuse(4007, f"heartbeat with sequence {sequence!r}")
        self._last_beat = anyio.current_time()
        await self.payload(11)

    async def _on_identify(self, data: Any) -> None:
        server = self.server
        if self.session is not None:
            raise Refuse(4005, "identified twice")
        if data.get("token") != server.token:
            return await self.close(4004, "Authentication failed.")
        intents, properties = data.get("intents"), data.get("properties")
        if not isinstance(intents, int) or intents & ~ALL_INTENTS:
            raise Refuse(4013, "invalid intents")
        if not (isinstance(properties, dict) and all(isinstance(value, str) for value in properties.values())):
            raise Refuse(4002, "properties")
        if intents & server.forbidden_intents:
            return await self.close(4014, "Disallowed intent(s).")
        server.identified.append(anyio.current_time())
        server.session_starts_left -= 1
        session = Session()
        server.sessions[session.id] = session
        await self._attach(session, session.add("READY", ready(session.id, server.gateway_url)) - 1)

    async def _on_resume(self, data: Any) -> None:
        server = self.server
        if self.session is not None:
            raise Refuse(4005, "resumed after identify")
        if data.get("token") != server.token:
            return await self.close(4004, "Authentication failed.")
        session, sequence = server.sessions.get(data.get("session_id")), data.get("seq")
        if session is None:
            return await self.payload(9, False)
        if not isinstance(sequence, int) or not 0 < sequence <= len(session.events):
            raise Refuse(4007, f"resume with sequence {sequence!r}")
        server.resumed.append(sequence)
        session.add("RESUMED", {})
        await self._attach(session, max(1, sequence - server.replays_again))

    async def _attach(self, session: Session, after: int) -> None:
        """Send the session's events after a sequence number, and those to come."""
        self.session, server = session, self.server
        while after < len(session.events):  # more may come while these are sent
            name, data = session.events[after]
            after += 1
            await self.payload(0, data, after, name)
        session.connection = self
        server.came_on_line += 1

    async def _watch_heartbeats(self) -> None:
        while True:
            await anyio.sleep(self.server.heartbeat_interval)
            if anyio.current_time() - self._last_beat > 3 * self.server.heartbeat_interval + ALLOWANCE:
                self.server.violations.append("4009: no heartbeat")
                return await self.close(4009, "Session timed out.")

    def _leave(self) -> None:
        self.server.connections.remove(self)
        if self.session is None:
            return
        if self.session.connection is self:
            self.session.connection = None
        if self.closed_by_client is not None:
            self.server.client_closes.append(self.closed_by_client)
        if self.closed_by_client in (1000, 1001):
            self.server.sessions.pop(self.session.id, None)
