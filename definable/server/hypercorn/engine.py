"""Where hypercorn's network-free protocols meet a connection of ours: its `Config`, context, events and task group.

Used by `h1` and `h2`, whose classes extend hypercorn's. What hypercorn leaves untyped stays in here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, cast

import anyio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState, TaskGroup, WorkerContext

from definable.server.limits import ServerLimits
from definable.server.request_cycle import Message, Scope

from .request_cycle import AppSend, Host

NEVER = 2**62
"""Requests after which hypercorn would end a connection; ended in mid-use, an HTTP/2 one loses its other streams."""


class EngineEvent:
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


class EngineContext:
    """hypercorn's `WorkerContext`. Never terminated: connections end by their own server's drain."""

    event_class = EngineEvent

    def __init__(self) -> None:
        self.terminate: EngineEvent = EngineEvent()
        self.terminated: EngineEvent = EngineEvent()

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


class EngineTasks:
    """hypercorn's `TaskGroup`, on the tasks of a connection."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def spawn_app(
        self, app: object, config: Config, scope: Scope, send: AppSend
    ) -> Callable[[Message], Awaitable[None]]:
        return self._host.start_exchange(scope, send)

    def spawn(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        self._host.start_background(func, *args)


@cache
def engine_config(limits: ServerLimits) -> Config:
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


def engine_arguments(
    config: Config, host: Host, *, tls: bool, client: tuple[str, int] | None, server: tuple[str, int] | None
) -> tuple[Any, ...]:
    """The arguments of hypercorn's protocol classes."""

    async def send(event: Event) -> None:
        if isinstance(event, RawData):
            await host.write(event.data)
        elif isinstance(event, Updated):
            await host.idled(event.idle)
        elif isinstance(event, Closed):
            await host.ended()

    context = cast(WorkerContext, EngineContext())
    tasks = cast(TaskGroup, EngineTasks(host))
    return ASGIWrapper(_unused), config, context, tasks, ConnectionState({}), tls, client, server, send


async def _unused(scope: Any, receive: Any, send: Any) -> None:
    """hypercorn passes the application to its task group; ours is the connection's."""
