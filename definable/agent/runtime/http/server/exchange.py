"""One call of the ASGI application: a request and its response, or a WebSocket from handshake to close.

Started by a `Connection` for each request that its protocol parses. Here an application's end is made good: 500 when it
raises or says nothing, an honest 503 when the server is cancelled first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import anyio
import anyio.lowlevel

from definable.agent.runtime.http.problem import Problem, send_problem

from .asgi import ASGIApp, Message, Scope, Send
from .host import AppSend
from .inbox import Inbox
from .transport import Transport

log = logging.getLogger("definable.http")

RETRY_AFTER = b"5"
"""Seconds after which a client may try again: another process has then taken over."""

SERVICE_RESTART = 1012
"""WebSocket close code (https://www.iana.org/assignments/websocket)."""


def unavailable() -> Problem:
    """The answer to a request that the server takes no more."""
    return Problem(503, "The server is shutting down.", headers=[(b"retry-after", RETRY_AFTER)])


class Exchange:
    """One request, from the application's side of it.

    Args:
        app: The application.
        scope: Its ASGI scope.
        protocol_send: Takes what the application sends.
        transport: Where the protocol writes, to join head and body.
        multiplexed: Whether other exchanges write there meanwhile.
        last_call: Gives the time, on the event loop's clock, until which a cancelled exchange may still say so.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        protocol_send: AppSend,
        transport: Transport,
        *,
        multiplexed: bool,
        last_call: Callable[[], float],
    ) -> None:
        self.inbox = Inbox()
        self._app = app
        self._scope = scope
        self._protocol_send = protocol_send
        self._transport = transport
        self._multiplexed = multiplexed
        self._last_call = last_call
        self._websocket = scope["type"] == "websocket"
        self._head: Message | None = None
        self._started = False
        self._finished = False

    async def run(self, *, refused: bool = False) -> None:
        """Calls the application and ends its response.

        Args:
            refused: Answers 503 instead, because the server drains.
        """
        try:
            if refused:
                await self._refuse()
            else:
                await self._call()
            await self._end()
        except BaseException as error:
            if _failure(error) is not None:
                raise
            await self._say_goodbye()
            raise

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

    async def _call(self) -> None:
        try:
            await self._app(self._scope, self.inbox.get, self.send)
        except BaseException as error:  # even SystemExit: one request must not stop the server
            failure = _failure(error)
            if failure is None or isinstance(failure, KeyboardInterrupt):
                raise
            log.error("error in the application, in %s", self._name(), exc_info=failure)
        else:
            if not self._finished and not self.inbox.ended and not self._websocket:
                log.error("the application did not finish its response to %s", self._name())

    async def _end(self) -> None:
        """Answers 500 if nothing was, and tells the protocol that no more comes: an unfinished response is cut."""
        self._head = None
        if not self._started and not self.inbox.ended and not self._websocket:
            await send_problem(self.send, Problem(500, "The server failed to answer this request."))
        await self._protocol_send(None)

    async def _say_goodbye(self) -> None:
        """The server is cancelled: says so if that is still possible."""
        # Shielded: the client is owed an answer. Bounded by the connection's last call.
        with anyio.CancelScope(shield=True, deadline=self._last_call()):
            try:
                await self._transport.flush()
                await self._refuse()
                await self._protocol_send(None)
            except Exception:
                log.debug("cannot say goodbye in %s", self._name(), exc_info=True)

    async def _refuse(self) -> None:
        self._head = None
        if self._finished or self.inbox.ended:
            return
        if not self._websocket:
            if not self._started:
                await send_problem(self.send, unavailable(), close=True)
        elif self._started:
            await self.send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "server restart"})
        else:
            await _reject_websocket(self.send, unavailable())

    def _name(self) -> str:
        return f"{self._scope.get('method', 'WebSocket')} {self._scope['path']!r}"


async def _reject_websocket(send: Send, problem: Problem) -> None:
    """Answers a WebSocket handshake with a problem (the `websocket.http.response` extension of ASGI)."""
    headers = problem.response_headers(close=True)
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.body()})


def _failure(error: BaseException) -> BaseException | None:
    """What is left of an exception without the cancellations in it; a group of one is that one."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        failures = [failure for inner in group.exceptions if (failure := _failure(inner)) is not None]
        return group.derive(failures) if len(failures) > 1 else failures[0] if failures else None
    return None if isinstance(error, cancelled) else error
