"""hypercorn's network-free protocols on a connection of ours: what they are given, and what they call.

`h2.H2` and `websocket.WebSocketProtocol` extend hypercorn's classes and are `HTTPProtocol`s here; a
`HypercornConnection` serves them as `ConnectionCallbacks`. What hypercorn leaves untyped stays in this file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Protocol, TypeAlias, cast

import anyio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState, TaskGroup, WorkerContext

from definable.concurrency.byte_limit import ByteLimit
from definable.server.limits import ServerLimits
from definable.server.listener import Address
from definable.server.request_cycle import Message, Scope

from .request_cycle import AppSend

NEVER = 2**62
"""Requests after which hypercorn would end a connection; ended in mid-use, an HTTP/2 one loses its other streams."""


class ConnectionCallbacks(Protocol):
    """A connection, as its protocol sees it."""

    @property
    def draining(self) -> bool:
        """Whether this connection must end with the request in progress."""
        ...

    @property
    def messages(self) -> ByteLimit:
        """What the messages of all WebSockets take."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes to the client."""
        ...

    async def ended(self) -> None:
        """The protocol is done with this connection, once what was written has arrived."""
        ...

    async def idled(self, idle: bool) -> None:
        """A request has begun (`idle` is false) or the last one has ended."""
        ...

    def start_cycle(self, scope: Scope, send: AppSend) -> Callable[[Message], Awaitable[None]]:
        """Calls the application; returns where its incoming messages go."""
        ...

    def start_background(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Runs a task of the protocol until the connection's requests have ended."""
        ...


class HTTPProtocol(Protocol):
    """Bytes in, calls of the application out: one per connection."""

    async def open(self) -> None:
        """Begins; HTTP/2 sends its settings."""
        ...

    async def data(self, data: bytes) -> None:
        """Takes bytes from the client; waits while an application is slower than they come."""
        ...

    async def disconnected(self) -> None:
        """The client is gone: passes that on to the applications that still run."""
        ...


ProtocolFactory: TypeAlias = Callable[[ConnectionCallbacks, ServerLimits, str, Address, Address], HTTPProtocol]
"""A connection, its limits, its scheme, the peer's address and ours."""


class HypercornEvent:
    """hypercorn's idea of an event: it can be cleared, and setting it is awaited."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    async def set(self) -> None:
        self._event.set()

    async def clear(self) -> None:
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def is_set(self) -> bool:
        return self._event.is_set()


class HypercornContext:
    """hypercorn's `WorkerContext`. Never terminated: connections end by their own server's drain."""

    event_class = HypercornEvent

    def __init__(self) -> None:
        self.terminate: HypercornEvent = HypercornEvent()
        self.terminated: HypercornEvent = HypercornEvent()

    @staticmethod
    async def sleep(wait: float) -> None:
        """As hypercorn has it: on the loop's clock."""
        await anyio.sleep(wait)

    @staticmethod
    def time() -> float:
        """Seconds of the loop's clock."""
        return anyio.current_time()

    async def mark_request(self) -> None:
        """hypercorn restarts a worker after so many requests; we do not."""


class HypercornTasks:
    """hypercorn's `TaskGroup`, on the tasks of a connection."""

    def __init__(self, callbacks: ConnectionCallbacks) -> None:
        self._callbacks = callbacks

    async def spawn_app(
        self, app: object, config: Config, scope: Scope, send: AppSend
    ) -> Callable[[Message], Awaitable[None]]:
        return self._callbacks.start_cycle(scope, send)

    def spawn(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        self._callbacks.start_background(func, *args)


@cache
def hypercorn_config(limits: ServerLimits) -> Config:
    """hypercorn's settings for our limits: no logs of its own, no limit that a connection enforces itself."""
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.max_header_bytes
    config.h2_max_header_list_size = limits.max_header_bytes
    config.h2_max_concurrent_streams = limits.max_streams
    config.keep_alive_max_requests = NEVER
    config.websocket_max_message_size = limits.max_message_bytes
    config.websocket_ping_interval = limits.ping_interval
    return config


def protocol_arguments(
    callbacks: ConnectionCallbacks, limits: ServerLimits, scheme: str, client: Address, server: Address
) -> tuple[Any, ...]:
    """The arguments of hypercorn's protocol classes."""

    async def send(event: Event) -> None:
        if isinstance(event, RawData):
            await callbacks.write(event.data)
        elif isinstance(event, Updated):
            await callbacks.idled(event.idle)
        elif isinstance(event, Closed):
            await callbacks.ended()

    context = cast(WorkerContext, HypercornContext())
    tasks = cast(TaskGroup, HypercornTasks(callbacks))
    config, tls = hypercorn_config(limits), scheme == "https"
    return ASGIWrapper(_unused), config, context, tasks, ConnectionState({}), tls, client, server, send


async def _unused(scope: Any, receive: Any, send: Any) -> None:
    """hypercorn passes the application to its task group; ours is the connection's."""
