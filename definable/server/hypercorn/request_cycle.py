"""One call of the ASGI application behind one of hypercorn's protocols, and the messages that it has not read yet.

A `HypercornConnection` runs a `HypercornRequestCycle` for each HTTP/2 stream or WebSocket in a task of its own.
Messages wait in its `ReceiveBuffer`; a WebSocket's are put together in a `MessageBuffer` before, within the
`ByteLimit` that all connections of a server share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from sys import getsizeof
from typing import TypeAlias

import anyio
import anyio.lowlevel
from wsproto.events import BytesMessage, TextMessage

from definable.concurrency.byte_limit import ByteLimit
from definable.server.problem import refusal, send_problem
from definable.server.request_cycle import ASGIApp, Message, RequestCycle, Scope
from definable.server.transport import Transport

AppSend: TypeAlias = Callable[[Message | None], Awaitable[None]]
"""Takes one application's messages into the protocol; None says that the application has ended."""

CAPACITY = 65_536
"""Bytes that wait for the application before the connection stops reading."""

MESSAGE_COST = 64
"""Bytes that a message counts for beyond its payload, so that empty ones are bounded too."""

DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})

SMALL_MESSAGE = 65_536
"""Bytes that a connection may always hold: clients that fill the shared memory do not close those that just chat."""


class ReceiveBuffer:
    """A bounded queue of ASGI messages whose end never waits: a disconnect takes effect at once on both sides.

    Hypercorn's own queue puts the disconnect behind the body: an application that answers without reading a large
    body then waits for itself.
    """

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._size = 0
        self._read = 0
        """Bytes of the WebSocket message that was read last: the application has it until it asks for another."""
        self._end: Message | None = None
        self._changed = anyio.Event()

    @property
    def ended(self) -> bool:
        """Whether the client is gone, or its request has been answered."""
        return self._end is not None

    async def put(self, message: Message) -> None:
        """Adds a message, and waits while too much is unread; without effect after a disconnect."""
        if self._end is not None:
            return
        if message["type"] in DISCONNECTS:
            self._end = message
            self._notify()
            return
        self._messages.append(message)
        self._size += _cost(message)
        self._notify()
        while self._size > CAPACITY and self._end is None:
            await self._changed.wait()

    async def get(self) -> Message:
        """The next message, in order; after the last one the disconnect, each time it is asked for.

        A WebSocket message counts as unread until the next one is asked for.
        """
        if self._read:
            self._size -= self._read
            self._read = 0
            self._notify()
        while not self._messages:
            if self._end is not None:
                await anyio.lowlevel.checkpoint()
                return self._end
            await self._changed.wait()
        message = self._messages.popleft()
        if message["type"] == "websocket.receive":
            self._read = _cost(message)
        else:
            self._size -= _cost(message)
        self._notify()
        return message

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _cost(message: Message) -> int:
    payload = message.get("body") or message.get("bytes") or message.get("text") or b""
    return len(payload) + MESSAGE_COST


class MessageTooLarge(Exception):
    """A message is larger than one may be."""


class MemoryExhausted(Exception):
    """Other connections hold all that messages may take."""


class MessageBuffer:
    """The message in progress of one connection.

    Args:
        limit: Bytes of one message; a text counts as UTF-8.
        memory: Bytes beyond `SMALL_MESSAGE` of each connection, shared with the others.
    """

    def __init__(self, limit: int, memory: ByteLimit) -> None:
        self._limit = limit
        self._memory = memory
        self._pieces = bytearray()
        self._held = 0

    def add(self, event: TextMessage | BytesMessage) -> Message | None:
        """Adds what has come of a message; returns it once it is whole.

        Raises:
            MessageTooLarge: It has more bytes than a message may have.
            MemoryExhausted: There is no memory left for it.
        """
        data = event.data if isinstance(event, TextMessage) else bytes(event.data)
        piece = data.encode() if isinstance(data, str) else data
        size = len(self._pieces) + len(piece)
        if size > self._limit:
            raise MessageTooLarge
        if not event.message_finished:
            self._hold(size)
            self._pieces += piece
            return None
        if self._pieces:
            piece, self._pieces = bytes(self._pieces + piece), bytearray()
            data = piece.decode() if isinstance(data, str) else piece
        self._hold(getsizeof(data))  # one emoji makes each letter of a text take four bytes
        if isinstance(data, str):
            return {"type": "websocket.receive", "bytes": None, "text": data}
        return {"type": "websocket.receive", "bytes": data, "text": None}

    def release(self) -> None:
        """The message was read, or nobody will read it."""
        self._hold(0)
        self._pieces = bytearray()

    def _hold(self, size: int) -> None:
        counted = max(0, size - SMALL_MESSAGE)
        if counted > self._held and not self._memory.take(counted - self._held):
            raise MemoryExhausted
        if counted < self._held:
            self._memory.release(self._held - counted)
        self._held = counted


class HypercornRequestCycle(RequestCycle):
    """One call of the application.

    Args:
        app: The application.
        scope: Its ASGI scope.
        protocol_send: Takes what the application sends.
        transport: Where the protocol writes, to join head and body.
        multiplexed: Whether other cycles write there meanwhile.
        body_timeout: Seconds of silence within the request's body.
        close_deadline: See `RequestCycle`.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        protocol_send: AppSend,
        transport: Transport,
        *,
        multiplexed: bool,
        body_timeout: float,
        close_deadline: Callable[[], float],
    ) -> None:
        super().__init__(app, scope, close_deadline)
        self.receive_buffer: ReceiveBuffer = ReceiveBuffer()
        """What the client sends."""
        self._protocol_send = protocol_send
        self._transport = transport
        self._multiplexed = multiplexed
        self._body_timeout = body_timeout
        self._body_is_whole = self._is_websocket
        self._awaiting_body: anyio.CancelScope | None = None
        self._head: Message | None = None

    @property
    def ended(self) -> bool:
        return self.receive_buffer.ended

    async def receive(self) -> Message:
        if self._body_is_whole:
            return await self.receive_buffer.get()
        with anyio.move_on_after(self._body_timeout) as self._awaiting_body:
            message = await self.receive_buffer.get()
            self._body_is_whole = not message.get("more_body", False)
            return message
        await self._give_up_body()
        return await self.receive_buffer.get()

    def drain(self, silence: float) -> None:
        """The server drains: a body that is not whole has to go on coming.

        Args:
            silence: Seconds of silence within it from now on.
        """
        self._body_timeout = min(self._body_timeout, silence)
        if self._awaiting_body is not None:
            self._awaiting_body.deadline = min(self._awaiting_body.deadline, anyio.current_time() + silence)

    async def _give_up_body(self) -> None:
        """Answers 408, if nothing was answered yet, and disconnects the application."""
        if not self._started:
            self._drop_head()
            await send_problem(self._emit, refusal(408))
        await self.receive_buffer.put({"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        """The application's ASGI `send`. The head of a response waits for the first of its body, as ASGI allows."""
        if message["type"] == "http.response.start" and self._head is None and not self._started:
            self._head = message
        elif self._head is not None:
            head, self._head = self._head, None
            await self._emit_head(head, message)
        else:
            await self._emit(message)

    async def _emit_head(self, head: Message, body: Message) -> None:
        if self._multiplexed:
            await self._emit(head)
            await self._emit(body)
            return
        with self._transport.corked():
            await self._emit(head)
            await self._emit(body)
        await self._transport.flush()

    async def _emit(self, message: Message) -> None:
        if self.receive_buffer.ended:  # sends nothing any more, but must not keep others from running
            await anyio.lowlevel.checkpoint()
        await self._protocol_send(message)
        self._started = True
        kind = message["type"]
        if kind == "websocket.close" or (kind.endswith("response.body") and not message.get("more_body", False)):
            self._finished = True
        else:
            await self._give_way()

    async def _end(self) -> None:
        await self._protocol_send(None)

    def _drop_head(self) -> None:
        self._head = None

    async def _flush(self) -> None:
        await self._transport.flush()
