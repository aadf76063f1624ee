"""A strict loopback Discord: gateway and HTTP API on one port, on asyncio and on trio. It can fail as Discord does.

It knows nothing of definable's classes; discord.py, an independent client, accepts it too.

```
async with DiscordServer().running() as server:
    await server.say("10", "hello")
    await server.until(lambda: server.posted)
```
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskStatus

from .discord_gateway import Connection, Session
from .discord_interactions import Interactions
from .discord_objects import TOKEN, message, snowflake, user
from .discord_rest import PREFIX, Answer, Call, Posted, Rest, limited


@dataclass(frozen=True)
class Fault:
    """What happens to a request in place of its answer."""

    kind: Literal["answer", "slow", "vanish", "vanish after"]
    """An answer is sent; the answer is late; the connection closes before or after the request was carried out."""
    answer: Answer | None = None
    seconds: float = 0.0
    path: str = ""
    """Requests whose path ends so."""


class DiscordServer:
    """The server; see the module."""

    def __init__(self, *, heartbeat_interval: float = 0.2, channels: tuple[str, ...] = ("10", "20", "30")) -> None:
        self.token = TOKEN
        self.url = self.gateway_url = ""
        self.heartbeat_interval = heartbeat_interval
        """Seconds."""
        self.channels = set(channels)
        self.forbidden_channels: set[str] = set()
        self.unread_channels: set[str] = set()
        """Where the bot may write, and may not read the message history."""
        self.files: dict[str, bytes] = {}
        """What the CDN has, by path."""
        self.largest_upload = 10 * 1024 * 1024
        """Bytes of one file."""
        self.forbidden_intents = 0
        self.session_starts_left = 1000
        self.start_limit_resets = 0.0
        """Seconds."""
        self.per_window, self.window = 5, 0.05
        """Messages of one channel in so many seconds."""
        self.per_second = 50
        """Requests over all routes."""
        self.rejects_sockets = False
        self.is_silent = False
        """Whether there is no hello."""
        self.replays_again = 0
        """Events before the asked for sequence that a resume brings once more."""
        self.faults: deque[Fault] = deque()
        self.sessions: dict[str, Session] = {}
        self.connections: list[Connection] = []
        self.heard: list[tuple[int, Any]] = []
        """Opcodes and data of all payloads."""
        self.identified: list[float] = []
        self.resumed: list[int] = []
        self.came_on_line = 0
        """How often a bot did."""
        self.client_closes: list[int] = []
        self.said: list[dict[str, Any]] = []
        self.posted: list[Posted] = []
        self.messages: dict[str, dict[str, Any]] = {}
        """The bot's messages as they are now, by id."""
        self.edits: list[tuple[str, str, str, float]] = []
        """Channel, message, text and time of each."""
        self.typings: list[tuple[str, float]] = []
        self.repeated = 0
        """Posts that a nonce made harmless."""
        self.busiest_second = 0
        """Requests in any one second, as they arrived; what is beyond `per_second` is answered with a 429."""
        self.violations: list[str] = []
        """What a well-behaved client never does."""
        self.threads: dict[str, str] = {}
        """Channels of threads and forum posts."""
        self.roles: list[dict[str, Any]] = []
        self.asked: list[str] = []
        """Channels that the bot has asked for."""
        self.commands: dict[str | None, dict[str, Any]] = {}
        """Registered slash commands by name, by server; None for everywhere."""
        self.interactions = Interactions(self)
        self._rest = Rest(self)
        self._changed = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DiscordServer]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.serve)
            yield self
            tasks.cancel_scope.cancel()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            self.url, self.gateway_url = f"http://127.0.0.1:{port}{PREFIX}", f"ws://127.0.0.1:{port}/gateway"
            task_status.started()
            await listener.serve(self._meet)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds; bounded by the caller."""
        while not condition():
            self._changed = anyio.Event()
            with anyio.move_on_after(0.01):
                await self._changed.wait()

    async def until_back(self, do: Callable[[], Any]) -> None:
        """Do what throws the bot off line, and wait until it is back."""
        before = self.came_on_line
        await do()
        await self.until(lambda: self.came_on_line > before and self.on_line)

    # --- what happens on the platform

    async def say(self, channel: str, content: str, author: str = "7", **changes: Any) -> str:
        """Somebody writes a message; returns its id."""
        said = message(channel, user(author, f"user{author}"), content, **changes)
        self.said.append(said)
        await self.dispatch("MESSAGE_CREATE", said)
        return str(said["id"])

    async def edit(self, id: str, content: str, **changes: Any) -> None:
        """Somebody edits a message."""
        said = next(each for each in self.said if each["id"] == id)
        now = datetime.now(UTC).isoformat()
        await self.dispatch("MESSAGE_UPDATE", said | {"content": content, "edited_timestamp": now} | changes)

    def attach(self, filename: str, content: bytes, media_type: str) -> dict[str, Any]:
        """Upload a file; returns the attachment object of the message that comes with it."""
        id = snowflake()
        path = f"/attachments/10/{id}/{filename}"
        self.files[path] = content
        url = self.url.removesuffix(PREFIX) + path
        return {"id": id, "filename": filename, "size": len(content), "url": url, "content_type": media_type}

    async def dispatch(self, name: str, data: Any) -> None:
        """An event, for everybody who is on line and for those who come back."""
        for session in list(self.sessions.values()):
            number = session.add(name, data)
            if session.connection is not None:
                await session.connection.payload(0, data, number, name)
        self._changed.set()

    @property
    def on_line(self) -> bool:
        """Whether a bot is connected and hears."""
        return any(session.connection and not session.connection.is_zombie for session in self.sessions.values())

    def shown(self, channel: str) -> list[str]:
        """What the bot's messages in a channel say now."""
        return [each["content"] for each in self.messages.values() if each["channel_id"] == channel]

    # --- faults

    async def every_connection(self, do: Callable[[Connection], Any]) -> None:
        """Do something to all connections that are open now."""
        for connection in list(self.connections):
            await do(connection)

    async def drop(self) -> None:
        await self.every_connection(Connection.drop)

    async def close(self, code: int) -> None:
        await self.every_connection(lambda connection: connection.close(code))

    async def ask_to_reconnect(self) -> None:
        await self.every_connection(lambda connection: connection.payload(7))

    async def invalidate(self, *, resumable: bool) -> None:
        """Op 9; a session that cannot be resumed is gone."""
        await self.every_connection(lambda connection: connection.payload(9, resumable))
        if not resumable:
            self.sessions.clear()

    def turn_into_zombies(self) -> None:
        for connection in self.connections:
            connection.is_zombie = True

    def fail_next(self, path: str, *statuses: int) -> None:
        """The next requests whose path ends so are answered with these statuses."""
        for status in statuses:
            self.faults.append(Fault("answer", Answer(status, {"message": "fault", "code": 0}), path=path))

    def limit_next(self, path: str, retry_after: float, *, is_global: bool = False) -> None:
        """The next request whose path ends so is answered with a 429."""
        self.faults.append(Fault("answer", limited(retry_after, is_global=is_global), path=path))

    # --- the port

    async def _meet(self, stream: SocketStream) -> None:
        try:
            async with stream:
                await self._converse(stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, h11.RemoteProtocolError):
            pass

    async def _converse(self, stream: ByteStream) -> None:
        http = h11.Connection(h11.SERVER)
        while (call := await _next_call(stream, http)) is not None:
            if call.headers.get("upgrade", "").lower() == "websocket":  # also on a connection that served requests
                return await Connection(self, stream).run(call.head)
            fault = self._fault_for(call)
            if fault is not None and fault.kind == "vanish":
                return
            if fault is not None and fault.kind == "slow":
                await anyio.sleep(fault.seconds)
            answer = fault.answer if fault is not None and fault.answer else await self._rest.answer(call)
            self._changed.set()
            if fault is not None and fault.kind == "vanish after":
                return
            await _send(stream, http, answer)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    def _fault_for(self, call: Call) -> Fault | None:
        if self.faults and call.path.endswith(self.faults[0].path):
            return self.faults.popleft()
        return None


async def _next_call(stream: ByteStream, http: h11.Connection) -> Call | None:
    request, body = await _next_event(stream, http), b""
    if not isinstance(request, h11.Request):
        return None
    while isinstance(data := await _next_event(stream, http), h11.Data):
        body += data.data
    headers = {name.decode(): value.decode() for name, value in request.headers}
    return Call(request.method.decode(), request.target.decode(), headers, body)


async def _send(stream: ByteStream, http: h11.Connection, answer: Answer) -> None:
    content = answer.content
    if content is None:
        content = b"" if answer.document is None else json.dumps(answer.document).encode()
    headers = dict(answer.headers)
    if answer.status != 204:
        headers |= {"content-type": answer.content_type, "content-length": str(len(content))}
    data = b""
    response = h11.Response(status_code=answer.status, headers=list(headers.items()))
    for event in (response, h11.Data(content), h11.EndOfMessage()):
        data += http.send(event) or b""
    await stream.send(data)


async def _next_event(stream: ByteStream, http: h11.Connection) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        try:
            http.receive_data(await stream.receive())
        except anyio.EndOfStream:
            http.receive_data(b"")
    return event
