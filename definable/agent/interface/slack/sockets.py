"""Socket Mode: WebSockets one after the other, and one session over all of them.

Slack replaces a socket every few hours, and says so ahead of it: the next one is open before the last one is gone.
After `PATIENCE` sockets in a row that were not greeted the supervisor takes over, with its backoff and a state in
`/health`. Source: https://docs.slack.dev/apis/events-api/using-socket-mode
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import anyio
from anyio.abc import TaskStatus

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
)
from definable.agent.interface.websocket import SocketClosed, WebSocket, open_websocket
from definable.concurrency.backoff import Backoff
from definable.concurrency.isolation import error_text
from definable.concurrency.logs import logger_named

from .config import SlackConfig

logger: logging.Logger = logger_named(__name__)

PATIENCE = 3
"""Sockets in a row that were not greeted until Socket Mode counts as unreachable."""

PING_INTERVAL = 30.0
"""Seconds. Slack pings too, but a connection of which one end is gone brings no pings."""

PONG_TIMEOUT = 20.0
"""Seconds."""

SEND_TIMEOUT = 10.0
"""Seconds: an acknowledgement is small, a peer that does not take one in this time is gone."""

OLD_SOCKET_TIMEOUT = 30.0
"""Seconds for which a socket that is replaced is listened to: Slack closes it after about ten."""

Take: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Takes in a payload of a kind; when it returns, Slack need not send it again."""


class SlackRefusedError(InterfaceAuthenticationError):
    """Slack will not have the app as it is set up, say with Socket Mode turned off."""

    status: int | None = 403


@dataclass(frozen=True, slots=True)
class SocketPolicy:
    """How fast to go on."""

    stable_after: float = 10.0
    """Seconds: after a socket that lasted so long the next is opened at once."""
    backoff: Backoff = field(default_factory=Backoff)
    """From the second socket in a row that did not last."""


class Sockets:
    """Keeps the app connected.

    Args:
        config: Says in which time a socket must be greeted, and what it goes through.
        discover: Asks `apps.connections.open` for a URL, which is good for one socket.
        take: Takes in payloads, one after the other of each socket.
        alive: Called whenever Slack is heard of.
        policy: When to connect again.
    """

    def __init__(
        self,
        config: SlackConfig,
        discover: Callable[[], Awaitable[str]],
        take: Take,
        alive: Callable[[], None],
        policy: SocketPolicy,
    ) -> None:
        self._timeout, self._proxy = config.connect_timeout, config.proxy
        self._discover = discover
        self._take = take
        self._alive = alive
        self._policy = policy

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            InterfaceAuthenticationError: A token is refused, or the app as it is set up (`SlackRefusedError`).
            InterfaceConnectionError: Slack cannot be reached, or has too many sockets of the app.
        """
        short_lived = fruitless = 0
        async with anyio.create_task_group() as tasks:
            while True:
                began, socket = anyio.current_time(), _Socket(self._take, self._alive)
                failure = await tasks.start(self._converse, socket)
                if failure is None:
                    await socket.is_leaving.wait()
                    failure = socket.refusal
                lasted = anyio.current_time() - began >= self._policy.stable_after
                short_lived = 0 if lasted else short_lived + 1
                fruitless = 0 if socket.is_greeted else fruitless + 1
                if failure is not None and (isinstance(failure, InterfaceAuthenticationError) or fruitless >= PATIENCE):
                    raise failure
                delay = self._policy.backoff.delay(short_lived - 1)
                why = socket.why if failure is None else error_text(failure)
                logger.info("slack: a socket ended (%s), the next one is opened in %.1f s", why, delay)
                await anyio.sleep(delay)

    async def _converse(self, socket: _Socket, *, task_status: TaskStatus[InterfaceError | None]) -> None:
        """Open a socket and listen until it ends; reports what kept it from being greeted."""
        try:
            url = await self._discover()
            async with open_websocket(url, self._timeout, proxy=self._proxy) as connection:
                await socket.greet(connection, self._timeout)
                task_status.started(None)
                await socket.listen(connection)
        except InterfaceError as error:
            task_status.started(error)  # once it was greeted, nothing raises these
        finally:
            socket.is_leaving.set()


class _Socket:
    """One socket, from its greeting to its end."""

    def __init__(self, take: Take, alive: Callable[[], None]) -> None:
        self.is_leaving = anyio.Event()
        """Set when it is over, or will be soon: the next one is to be opened."""
        self.is_greeted = False
        self.refusal: InterfaceError | None = None
        """Why no other one needs to be opened."""
        self.why = ""
        self._take = take
        self._alive = alive
        self._reading = anyio.CancelScope()

    async def greet(self, connection: WebSocket, timeout: float) -> None:
        """Wait for the greeting.

        Raises:
            InterfaceError: Something else comes, or nothing in time.
        """
        try:
            with anyio.fail_after(timeout):
                document = _document(await connection.receive())
        except TimeoutError:
            raise InterfaceConnectionError(f"Slack did not greet a socket within {timeout:g} s") from None
        except SocketClosed as closed:
            raise InterfaceConnectionError(f"Slack ended a socket in place of greeting it: {closed}") from None
        if document.get("type") == "disconnect":
            raise refusal_of(str(document.get("reason")))
        if document.get("type") != "hello":
            raise InterfaceConnectionError(f"Slack greeted a socket with {str(document)[:100]}")
        self.is_greeted = True
        self._alive()
        logger.info("slack: a socket is open, %s of this app", document.get("num_connections"))

    async def listen(self, connection: WebSocket) -> None:
        """Take in what comes until the socket is over."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ping, connection)
            with self._reading:
                try:
                    while True:
                        document = _document(await connection.receive())
                        self._alive()
                        await self._hear(document, connection)
                except SocketClosed as closed:
                    self._leave(f"{closed} {closed.reason}".rstrip())
            tasks.cancel_scope.cancel()

    async def _hear(self, document: dict[str, Any], connection: WebSocket) -> None:
        kind, id = str(document.get("type")), document.get("envelope_id")
        if kind == "disconnect":
            reason = str(document.get("reason"))
            self._leave(f"Slack says {reason}")
            if reason == "link_disabled":
                self.refusal = refusal_of(reason)
            self._reading.deadline = anyio.current_time() + OLD_SOCKET_TIMEOUT
        elif isinstance(id, str):
            payload: object = document.get("payload")
            try:
                await self._take(kind, cast("dict[str, Any]", payload) if isinstance(payload, dict) else {})
            except Exception:  # not acknowledged: it comes again
                logger.exception("slack: %s could not be taken in, Slack will send it again", kind)
            else:
                await self._send(json.dumps({"envelope_id": id}), connection)

    async def _send(self, text: str, connection: WebSocket) -> None:
        try:
            with anyio.fail_after(SEND_TIMEOUT):
                await connection.send(text)
        except TimeoutError:
            self._hang_up(f"Slack read nothing for {SEND_TIMEOUT:g} s")
        except SocketClosed:
            pass  # the reader learns of it too, with the code

    async def _ping(self, connection: WebSocket) -> None:
        while True:
            await anyio.sleep(PING_INTERVAL)
            try:
                with anyio.fail_after(PONG_TIMEOUT):
                    await connection.ping()
            except TimeoutError:
                return self._hang_up(f"no answer to a ping within {PONG_TIMEOUT:g} s")
            except SocketClosed:
                return
            self._alive()

    def _leave(self, why: str) -> None:
        self.why = self.why or why
        self.is_leaving.set()

    def _hang_up(self, why: str) -> None:
        self._leave(why)
        self._reading.cancel()


def refusal_of(reason: str) -> InterfaceError:
    """What it means that Slack disconnects a socket in place of greeting it."""
    if reason == "link_disabled":
        return SlackRefusedError(
            "Slack refuses sockets (link_disabled): Socket Mode is turned off in the app's settings"
        )
    if reason == "too_many_websockets":
        words = "more than 10 sockets of this app are open (too_many_websockets): stop some of its processes"
        return InterfaceConnectionError(f"Slack refuses another socket, {words}", status=429)
    return InterfaceConnectionError(f"Slack disconnected a socket in place of greeting it ({reason})")


def _document(text: str | bytes) -> dict[str, Any]:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
