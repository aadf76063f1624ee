"""One call of the ASGI application behind one of hypercorn's protocols: an HTTP/2 stream, a WebSocket, an upgrade.

Started by an `EngineConnection` in a task of its own.

What a client sends while the application is busy: between the protocol that parses and the `receive` of one app.

What a protocol asks of the connection it serves: the seam between parsing and everything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import anyio
import anyio.lowlevel

from definable.server.problem import refusal, send_problem
from definable.server.request_cycle import ASGIApp, Exchange, Message, Scope
from definable.server.transport import Transport

from .websocket import MessageMemory

AppSend = Callable[[Message | None], Awaitable[None]]
"""Takes one application's messages into the protocol; None says that the application has ended."""


class Wait(NamedTuple):
    """A connection's wait for the head of a request; the lesser of two is the more futile one."""

    has_begun: bool
    """Whether some of the head has come."""
    since: float
    """On the event loop's clock."""
    is_first: bool
    """Whether there was no request on this connection before."""


class Host(Protocol):
    """A connection, as its protocol sees it."""

    @property
    def draining(self) -> bool:
        """Whether this connection must end with the exchange in progress."""
        ...

    @property
    def messages(self) -> MessageMemory:
        """What the messages of all WebSockets take."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes to the client."""
        ...

    async def ended(self) -> None:
        """The protocol is done with this connection, once what was written has arrived."""
        ...

    async def idled(self, idle: bool) -> None:
        """An exchange has begun (`idle` is false) or the last one has ended."""
        ...

    def start_exchange(self, scope: Scope, send: AppSend) -> Callable[[Message], Awaitable[None]]:
        """Calls the application; returns where its incoming messages go."""
        ...

    def start_background(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Runs a task of the protocol until the connection's exchanges have ended."""
        ...


class HTTPProtocol(Protocol):
    """Bytes in, exchanges out: one per connection."""

    async def open(self) -> None:
        """Begins; HTTP/2 sends its settings."""
        ...

    async def data(self, data: bytes) -> None:
        """Takes bytes from the client; waits while an application is slower than they come."""
        ...

    async def disconnected(self) -> None:
        """The client is gone: the applications that still run are told so."""
        ...

    async def head_timed_out(self) -> None:
        """A request head came too slowly; answers 408 if it had begun."""
        ...

    @property
    def head_begun(self) -> bool:
        """Whether the first bytes of a request head wait for the rest."""
        ...


CAPACITY = 65_536
"""Bytes that wait for the application before the connection stops reading."""

MESSAGE_COST = 64
"""Bytes that a message counts for beyond its payload, so that empty ones are bounded too."""

DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Inbox:
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


class EngineExchange(Exchange):
    """One request, from the application's side of it.

    Args:
        app: The application.
        scope: Its ASGI scope.
        protocol_send: Takes what the application sends.
        transport: Where the protocol writes, to join head and body.
        multiplexed: Whether other exchanges write there meanwhile.
        body_timeout: Seconds of silence within the request's body.
        last_call: See `Exchange`.
    """

    __slots__ = (
        "_awaiting_body",
        "_body_is_whole",
        "_body_timeout",
        "_head",
        "_multiplexed",
        "_protocol_send",
        "_transport",
        "inbox",
    )

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        protocol_send: AppSend,
        transport: Transport,
        *,
        multiplexed: bool,
        body_timeout: float,
        last_call: Callable[[], float],
    ) -> None:
        super().__init__(app, scope, last_call)
        self.inbox: Inbox = Inbox()
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
        """Whether the client is gone, or its request has been answered."""
        return self.inbox.ended

    async def receive(self) -> Message:
        """The application's ASGI `receive`."""
        if self._body_is_whole:
            return await self.inbox.get()
        with anyio.move_on_after(self._body_timeout) as self._awaiting_body:
            message = await self.inbox.get()
            self._body_is_whole = not message.get("more_body", False)
            return message
        await self._give_up_body()
        return await self.inbox.get()

    def drain(self, silence: float) -> None:
        """The server drains: a body that is not whole has to go on coming.

        Args:
            silence: Seconds of silence within it from now on.
        """
        self._body_timeout = min(self._body_timeout, silence)
        if self._awaiting_body is not None:
            self._awaiting_body.deadline = min(self._awaiting_body.deadline, anyio.current_time() + silence)

    async def _give_up_body(self) -> None:
        """Answers 408, if nothing was answered yet, and tells the application that its client is gone."""
        if not self._started:
            self._drop_head()
            await send_problem(self._emit, refusal(408))
        await self.inbox.put({"type": "http.disconnect"})

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
        if self.inbox.ended:  # sends nothing any more, but must not keep others from running
            await anyio.lowlevel.checkpoint()
        await self._protocol_send(message)
        self._started = True
        kind = message["type"]
        if kind == "websocket.close" or (kind.endswith("response.body") and not message.get("more_body", False)):
            self._finished = True

    def _hang_up(self) -> Awaitable[None]:
        return self._protocol_send(None)

    def _drop_head(self) -> None:
        self._head = None

    def _flush(self) -> Awaitable[None]:
        return self._transport.flush()
