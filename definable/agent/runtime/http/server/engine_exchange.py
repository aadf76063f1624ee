"""One call of the ASGI application behind one of hypercorn's protocols: an HTTP/2 stream, a WebSocket, an upgrade.

Started by an `EngineConnection` in a task of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from definable.agent.runtime.http.problem import send_problem

from .asgi import ASGIApp, Message, Scope
from .exchange import Exchange
from .host import AppSend
from .inbox import Inbox
from .refusal import refusal
from .transport import Transport


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
