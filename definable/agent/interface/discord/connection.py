"""One gateway connection: the protocol and its session, put on a socket and a clock."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from definable.agent.interface.errors import InterfaceConnectionError
from definable.agent.interface.websocket import SocketClosed, WebSocket
from definable.concurrency.logs import logger_named

from .protocol import (
    Action,
    Deliver,
    Established,
    GatewayProtocol,
    GatewaySession,
    HangUp,
    Payload,
    PayloadError,
    ResumeAction,
    Send,
    StartHeart,
    decode,
    explain,
    resume_action,
)

logger: logging.Logger = logger_named(__name__)

HandleEvent: TypeAlias = Callable[[Payload], Awaitable[None]]
"""Deals with one event; when it returns, the event need not be replayed."""

EVENT_BUFFER = 1000
"""Events that wait to be dealt with; the socket is not read from beyond."""

SEND_TIMEOUT = 10.0
"""Seconds: our payloads are small, a peer that does not take one in this time is gone."""


@dataclass(frozen=True, slots=True)
class CloseResult:
    """How a connection ended."""

    action: ResumeAction
    why: str
    established: bool = False
    """Whether the bot had been on line."""
    reached: bool = True
    """Whether there was a gateway at all."""


class GatewayConnection:
    """Drives one socket until it ends.

    Args:
        connect: Opens the socket.
        protocol: The protocol.
        session: Notes which events were handled.
        handle: Deals with events, one after the other.
        alive: Called for every payload while the session is established.
        timeout: Seconds until the bot must be on line.
    """

    def __init__(
        self,
        connect: AbstractAsyncContextManager[WebSocket],
        protocol: GatewayProtocol,
        session: GatewaySession,
        handle: HandleEvent,
        alive: Callable[[], None],
        timeout: float,
    ) -> None:
        self._connect = connect
        self._protocol = protocol
        self._session = session
        self._handle = handle
        self._alive = alive
        self._timeout = timeout
        self._reading = anyio.CancelScope()
        self._reached = False
        self._established = False
        self._close_result: tuple[ResumeAction, str] | None = None

    async def run(self) -> CloseResult:
        """Talk until either side hangs up, and deal with all events that came before.

        The socket is closed first: one without reads and heartbeats would cost the session.
        """
        send, receive = anyio.create_memory_object_stream[Payload](EVENT_BUFFER)
        async with anyio.create_task_group() as tasks:
            with send, receive:
                tasks.start_soon(self._converse, send)
                await self._work_off(receive)
        action, why = self._close_result or (ResumeAction.RESUME, f"not on line within {self._timeout:g} s")
        return CloseResult(action, why, self._established, self._reached)

    async def _work_off(self, events: MemoryObjectReceiveStream[Payload]) -> None:
        async for event in events:
            if not self._session.has_handled(event.sequence):
                await self._handle(event)
                self._session.handled(event.sequence)

    async def _converse(self, events: MemoryObjectSendStream[Payload]) -> None:
        with events:
            try:
                async with self._connect as socket, anyio.create_task_group() as tasks:
                    self._reached = True
                    await self._read_until_hung_up(socket, events, tasks)
                    tasks.cancel_scope.cancel()
            except InterfaceConnectionError as error:
                self._hang_up(ResumeAction.RESUME, str(error))

    async def _read_until_hung_up(
        self, socket: WebSocket, events: MemoryObjectSendStream[Payload], tasks: TaskGroup
    ) -> None:
        self._reading.deadline = anyio.current_time() + self._timeout
        with self._reading:
            try:
                while True:
                    payload = decode(await socket.receive())
                    await self._act(self._protocol.receive(payload), socket, events, tasks)
                    if self._established:  # a gateway that says hello and never starts a session is not alive
                        self._alive()
            except SocketClosed as closed:
                self._hang_up(resume_action(closed.code), explain(closed.code, closed.reason))
            except PayloadError as error:
                self._hang_up(ResumeAction.RESUME, f"the gateway sent something else than a payload: {error}")

    async def _act(
        self,
        actions: Iterable[Action],
        socket: WebSocket,
        events: MemoryObjectSendStream[Payload],
        tasks: TaskGroup,
    ) -> None:
        for action in actions:
            match action:
                case Send(text):
                    await self._send(socket, text)
                case Deliver(event):
                    await events.send(event)
                case StartHeart(interval):
                    tasks.start_soon(self._beat, socket, interval)
                case Established(resumed):
                    self._go_on_line(resumed)
                case HangUp(action, why):
                    self._hang_up(action, why)

    async def _beat(self, socket: WebSocket, interval: float) -> None:
        await anyio.sleep(interval * random.random())
        while True:
            for action in self._protocol.beat():
                if isinstance(action, Send):
                    await self._send(socket, action.text)
                elif isinstance(action, HangUp):
                    self._hang_up(action.action, action.why)
            await anyio.sleep(interval)

    async def _send(self, socket: WebSocket, text: str) -> None:
        try:
            with anyio.fail_after(SEND_TIMEOUT):
                await socket.send(text)
        except TimeoutError:
            self._hang_up(ResumeAction.RESUME, f"the gateway read nothing for {SEND_TIMEOUT:g} s")
        except SocketClosed:
            pass  # the reader learns of it too, with the code

    def _go_on_line(self, resumed: bool) -> None:
        self._established = True
        self._reading.deadline = float("inf")
        logger.info("discord: the gateway session was %s", "resumed" if resumed else "started")

    def _hang_up(self, action: ResumeAction, why: str) -> None:
        if self._close_result is None:
            self._close_result = action, why
        self._reading.cancel()
