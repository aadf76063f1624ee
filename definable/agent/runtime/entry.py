"""The ways into the runtime: `Agent.serve`, `aserve`, `running` and `asgi` come here."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import anyio
from anyio.abc import TaskStatus

from definable.agent.agent import Agent
from definable.agent.interface.base import BaseInterface
from definable.agent.options import ServeOptions
from definable.concurrency.event_loop import current_backend, plain_errors, run_blocking
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError

from .dev.child import DevChild
from .lifespan import gc_tuning
from .logging import ensure_visible
from .runtime import AgentRuntime
from .settings import settings_of
from .shutdown import ShutdownReport
from .signals import STUCK_MARGIN, ExitGuard, SignalWatcher

if TYPE_CHECKING:
    from .http.asgi import LifespanApp

Backend: TypeAlias = Literal["asyncio", "trio"]

logger: logging.Logger = logger_named("definable")

loading: ContextVar[bool] = ContextVar("definable_loading", default=False)
"""Whether a program is being loaded by somebody who serves its agent himself, such as `definable serve`."""


class ServeReached(BaseException):
    """A program that is being loaded came to its `serve`: raised in place of serving, with what it was called with.

    No `Exception`, so that the program's own handlers let it through.
    """

    def __init__(
        self, agent: Agent, interfaces: Sequence[BaseInterface], backend: Backend, options: ServeOptions
    ) -> None:
        super().__init__("serve() was reached while loading")
        self.agent = agent
        self.interfaces = interfaces
        self.backend: Backend = backend
        self.options = options


def serve(agent: Agent, interfaces: Sequence[BaseInterface], backend: Backend, options: ServeOptions) -> ShutdownReport:
    """Serve in an event loop of our own; see `Agent.serve`."""
    if backend not in ("asyncio", "trio"):
        raise ConfigurationError(f"backend={backend!r}: 'asyncio' or 'trio'")
    settings = settings_of(options)
    if loading.get():
        raise ServeReached(agent, interfaces, backend, options)
    ensure_visible()
    if settings.dev and os.name != "posix":
        logger.warning("reloading needs POSIX: changes show after a restart by hand")
    child = DevChild.claim() if os.name == "posix" else None
    if child is not None:
        with closing(child):
            serve_child(AgentRuntime(agent, interfaces, settings), backend, child)
        raise SystemExit(0)  # what follows `serve` in the program is the parent's to do
    if settings.dev and os.name == "posix":
        from .dev.reload import serve_and_reload  # loads watchfiles

        return serve_and_reload(settings)
    return serve_process(AgentRuntime(agent, interfaces, settings), backend)


def serve_process(
    runtime: AgentRuntime, backend: Backend, serving: Callable[[], Awaitable[ShutdownReport]] | None = None
) -> ShutdownReport:
    """Serve in this process, until a signal."""
    watcher = SignalWatcher(runtime.stop, exit_after=runtime.settings.shutdown_timeout + STUCK_MARGIN)
    exit_guard = ExitGuard()

    async def serve_and_end() -> ShutdownReport:
        try:
            return await (serving or runtime.run)()
        finally:
            watcher.expect_end(STUCK_MARGIN)  # the event loop waits for its executor's threads

    # Around the start of the event loop too: Python drops a KeyboardInterrupt that falls into a weakref's callback, and
    # each import has one (https://github.com/python/cpython/issues/95959). The signal would be lost.
    try:
        with watcher if runtime.settings.handle_signals else nullcontext(), gc_tuning():
            report = run_blocking(serve_and_end, instead="await agent.aserve(...)", backend=backend)
    finally:  # the process is the program's again, unless threads of user code hold it up
        watcher.disarm()
        exit_guard.watch(STUCK_MARGIN, watcher.hard_exit_status)
    if report.stuck_threads:
        logger.warning("user code still runs in threads: %s", ", ".join(report.stuck_threads))
    if watcher.exit_status:
        raise SystemExit(watcher.exit_status)
    return report


def serve_child(runtime: AgentRuntime, backend: Backend, child: DevChild) -> None:
    """Serve as the child of a watching parent."""
    sockets = child.begin(runtime.settings, serves_http=runtime.serves_http)
    runtime.settings = replace(runtime.settings, sockets=sockets)

    async def serve_and_obey() -> ShutdownReport:
        with plain_errors():
            async with anyio.create_task_group() as group:
                group.start_soon(child.obey, runtime)
                child.ended(await runtime.run(task_status=child))
                group.cancel_scope.cancel()
        assert runtime.report is not None
        return runtime.report

    serve_process(runtime, backend, serve_and_obey)


async def aserve(
    agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions, task_status: TaskStatus[str | None]
) -> ShutdownReport:
    """Serve in the caller's event loop; see `Agent.aserve`."""
    if loading.get():
        raise ServeReached(agent, interfaces, current_backend(), options)
    runtime = AgentRuntime(agent, interfaces, settings_of(options))
    return await _serve(runtime, SignalWatcher(runtime.stop, exit_after=None), task_status=task_status)


def running(
    agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions
) -> AbstractAsyncContextManager[AgentRuntime]:
    """Serve while a context is open; see `Agent.running`."""
    if loading.get():
        return _reached(agent, interfaces, options)
    options.setdefault("handle_signals", False)
    return _running(AgentRuntime(agent, interfaces, settings_of(options)))


@asynccontextmanager
async def _reached(
    agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions
) -> AsyncGenerator[AgentRuntime, None]:
    if loading.get():
        raise ServeReached(agent, interfaces, current_backend(), options)
    async with running(agent, interfaces, options) as runtime:  # the program was loaded by then
        yield runtime


@asynccontextmanager
async def _running(runtime: AgentRuntime) -> AsyncGenerator[AgentRuntime, None]:
    runtime.outlives_its_work = True
    watcher = SignalWatcher(runtime.stop, exit_after=None)
    failure: Exception | None = None
    try:
        with plain_errors():
            async with anyio.create_task_group() as group:
                await group.start(_serve, runtime, watcher)
                try:
                    yield runtime
                except BaseException as error:  # the body failed or was cancelled: nothing to wait for
                    group.cancel_scope.cancel()
                    failure = cast("Exception", error) if isinstance(error, ExceptionGroup) else None
                    raise
                runtime.stop()
    finally:
        if failure is not None:  # as the user raised it, and not as its only member
            raise failure


def asgi(agent: Agent, interfaces: Sequence[BaseInterface], options: ServeOptions) -> LifespanApp:
    """The agent as an ASGI application; see `Agent.asgi`."""
    from .http.asgi import LifespanApp  # an agent without HTTP never needs it

    options["handle_signals"] = False  # they are the server's
    settings = settings_of(options)
    return LifespanApp(lambda: _running(AgentRuntime(agent, interfaces, settings, foreign_server=True)))


async def _serve(
    runtime: AgentRuntime,
    watcher: SignalWatcher,
    *,
    task_status: TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED,
) -> ShutdownReport:
    with watcher if runtime.settings.handle_signals else nullcontext():
        return await runtime.run(task_status=task_status)
