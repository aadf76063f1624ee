"""One call of the ASGI application: a request and its response, or a WebSocket from handshake to close.

Made by a connection for each request. Here an application's end is made good: 500 when it raises or says nothing, an
honest 503 when the server is cancelled first. `HTTP1Exchange` and `EngineExchange` bring what an application receives
and sends to and from the wire.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import cast

import anyio

from definable.agent.runtime.http.problem import Problem, send_problem

from .asgi import ASGIApp, Message, Scope, Send

log: logging.Logger = logging.getLogger("definable.http")

RETRY_AFTER = b"5"
"""Seconds after which a client may try again: another process has then taken over."""

SERVICE_RESTART = 1012
"""WebSocket close code (https://www.iana.org/assignments/websocket)."""


def unavailable() -> Problem:
    """The answer to a request that the server takes no more."""
    return Problem(503, "The server is shutting down.", headers=[(b"retry-after", RETRY_AFTER)])


class Exchange(ABC):
    """One request, from the application's side of it.

    Args:
        app: The application.
        scope: Its ASGI scope.
        last_call: Gives the time, on the event loop's clock, until which a cancelled exchange may still say so.
    """

    __slots__ = ("_app", "_finished", "_last_call", "_scope", "_started")

    def __init__(self, app: ASGIApp, scope: Scope, last_call: Callable[[], float]) -> None:
        self._app = app
        self._scope = scope
        self._last_call = last_call
        self._started = False
        """Whether some of the response is on its way."""
        self._finished = False
        """Whether all of it is."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing the application sends will arrive any more."""

    @abstractmethod
    async def receive(self) -> Message:
        """The application's ASGI `receive`."""

    @abstractmethod
    def send(self, message: Message) -> Awaitable[None]:
        """The application's ASGI `send`."""

    @abstractmethod
    def _hang_up(self) -> Awaitable[None] | None:
        """What is left to do when the application sends no more, as an unfinished response is cut; None: nothing."""

    @abstractmethod
    def _drop_head(self) -> None:
        """Forgets the head of a response that has not gone out: another one follows."""

    @abstractmethod
    def _flush(self) -> Awaitable[None]:
        """Sends what waits to be written."""

    async def run(self, *, refused: bool = False) -> None:
        """Calls the application and ends its response.

        Args:
            refused: Answers 503 instead, because the server drains.
        """
        try:
            if refused:
                await self._refuse()
            else:
                try:
                    await self._app(self._scope, self.receive, self.send)
                except BaseException as error:  # even SystemExit: one request must not stop the server
                    self._log_failure(error)
                else:
                    self._log_unfinished()
            if not self._finished:
                await self._answer_for_application()
            if (hang_up := self._hang_up()) is not None:
                await hang_up
        except BaseException as error:
            if _failure(error) is not None:
                raise
            await self._say_goodbye()
            raise

    @property
    def _is_websocket(self) -> bool:
        return self._scope["type"] == "websocket"

    def _log_failure(self, error: BaseException) -> None:
        """Log what the application raised; raises what is not its failure."""
        failure = _failure(error)
        if failure is None or isinstance(failure, KeyboardInterrupt):
            raise error
        log.error("error in the application, in %s", self._name(), exc_info=failure)

    def _log_unfinished(self) -> None:
        if not self._finished and not self.ended and not self._is_websocket:
            log.error("the application did not finish its response to %s", self._name())

    async def _answer_for_application(self) -> None:
        """Answers 500 if nothing was."""
        self._drop_head()
        if not self._started and not self.ended and not self._is_websocket:
            await send_problem(self.send, Problem(500, "The server failed to answer this request."))

    async def _say_goodbye(self) -> None:
        """The server is cancelled: says so if that is still possible."""
        # Shielded: the client is owed an answer. Bounded by the connection's last call.
        with anyio.CancelScope(shield=True, deadline=self._last_call()):
            try:
                await self._flush()
                await self._refuse()
                if (hang_up := self._hang_up()) is not None:
                    await hang_up
            except Exception:
                log.debug("cannot say goodbye in %s", self._name(), exc_info=True)

    async def _refuse(self) -> None:
        if self._finished or self.ended:
            return
        if not self._started:
            self._drop_head()
        if not self._is_websocket:
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
