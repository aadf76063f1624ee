"""The ways into the runtime: `Agent.serve`, `aserve`, `running` and `asgi` come here."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

import anyio
from anyio.abc import TaskStatus

from definable.agent.agent import Agent
from definable.agent.blocking import run_blocking
from definable.agent.interface.base import BaseInterface
from definable.agent.serve_options import ServeOptions
from definable.errors import ConfigurationError

from .logs import ensure_visible
from .plain_errors import plain_errors
from .report import ShutdownReport
from .runtime import AgentRuntime
from .settings import ServeSettings
from .signals import STUCK_MARGIN, SignalWatcher

if TYPE_CHECKING:
    from .http.server.asgi import ASGIApp

logger = logging.getLogger("definable")


def serve(
    agent: Agent, interfaces: Sequence[BaseInterface], backend: Literal["asyncio", "trio"], options: ServeOptions
) -> ShutdownReport:
    """Serve in an event loop of our own; see `Agent.serve`."""
    if backend not in ("asyncio", "trio"):
        raise ConfigurationError(f"backend={backend!r}: 'asyncio' or 'trio'")
    ensure_visible()
    runtime = AgentRuntime(agent, interfaces, ServeSettings(**options))
    watcher = SignalWatcher(runtime.stop, exit_after=runtime.settings.shutdown_timeout + STUCK_MARGIN)
    report = run_blocking(partial(_serve, runtime, watcher), instead="await agent.aserve(...)", backend=backend)
    if report.stuck_threads:
        logger.warning("the process may not end by itself: %s still runs in a thread", ", ".join(report.stuck_threads))
    else:
        watcher.disarm()
    if watcher.exit_status:
        raise SystemExit(watcher.exit_status)
    return report


async def aserve(
    agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions, task_status: TaskStatus[str | None]
) -> ShutdownReport:
    """Serve in the caller's event loop; see `Agent.aserve`."""
    runtime = AgentRuntime(agent, interfaces, ServeSettings(**options))
    return await _serve(runtime, SignalWatcher(runtime.stop, exit_after=None), task_status=task_status)


def running(
    agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions
) -> AbstractAsyncContextManager[AgentRuntime]:
    """Serve while a context is open; see `Agent.running`."""
    options.setdefault("handle_signals", False)
    return _running(AgentRuntime(agent, interfaces, ServeSettings(**options)))


@asynccontextmanager
async def _running(runtime: AgentRuntime) -> AsyncGenerator[AgentRuntime, None]:
    watcher = SignalWatcher(runtime.stop, exit_after=None)
    with plain_errors():
        async with anyio.create_task_group() as group:
            await group.start(_serve, runtime, watcher)
            try:
                yield runtime
            except BaseException:  # the body failed or was cancelled: nothing to wait for
                group.cancel_scope.cancel()
                raise
            runtime.stop()


def asgi(agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions) -> ASGIApp:
    """The agent as an ASGI application; see `Agent.asgi`."""
    from .http.lifespan import LifespanApp  # an agent without HTTP never needs it

    options["handle_signals"] = False  # they are the server's
    settings = ServeSettings(**options)
    return LifespanApp(lambda: _running(AgentRuntime(agent, interfaces, settings, foreign_server=True)))


async def _serve(
    runtime: AgentRuntime,
    watcher: SignalWatcher,
    *,
    task_status: TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED,
) -> ShutdownReport:
    with watcher if runtime.settings.handle_signals else nullcontext():
        return await runtime.run(task_status=task_status)
