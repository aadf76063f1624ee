"""`AgentRuntime`: everything that serves an agent, as children of one task group.

`run` reads in the order in which things start, `_drain` in the order in which they stop: sources stop taking work, what
was accepted is finished within the grace, what is left is cancelled, stores and clients close last.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Unpack

import anyio
from anyio.abc import TaskGroup, TaskStatus

from definable.agent.agent import Agent
from definable.agent.auth.base import opened
from definable.agent.interface.base import BaseInterface
from definable.agent.options import ServeOptions
from definable.agent.trigger.base import BaseTrigger
from definable.agent.trigger.webhook import Webhook
from definable.agent.work import is_in_work_of
from definable.concurrency.call import open_scopes
from definable.concurrency.clock import current_clock
from definable.concurrency.event_loop import EventLoopHandle, plain_errors
from definable.concurrency.logs import OF_EVENT_LOOPS, logger_named
from definable.errors import ConfigurationError, EventBusClosed, ServeError
from definable.server.systemd import notify, send_signs_of_life

from .banner import banner, warnings
from .lifespan import agent_lifespan, model_lifetime, run_child
from .served import ServedAgent
from .settings import ServeSettings, settings_of
from .shutdown import ShutdownReport, stuck_threads
from .signals import Watchdog
from .supervisor import InterfaceState
from .workers import source_kind

logger: logging.Logger = logger_named("definable")

FOLLOWERS_SHARE = 0.5
"""Of the time that a stop has: the part in which who follows a run that is queued on a durable bus may hold it up."""


class AgentRuntime(ServedAgent):
    """One serving of one agent, from its start to its report.

    Args:
        agent: The agent to serve.
        interfaces: Messaging interfaces, beside the agent's own.
        settings: How to serve.
        foreign_server: Another ASGI server listens for us (`agent.asgi()`).
        options: The options of `serve`, in place of settings.
    """

    def __init__(
        self,
        agent: Agent,
        interfaces: Sequence[BaseInterface] | None = None,
        settings: ServeSettings | None = None,
        *,
        foreign_server: bool = False,
        **options: Unpack[ServeOptions],
    ) -> None:
        if options and settings is not None:
            raise ConfigurationError("AgentRuntime(...) takes settings, or the options of serve, and not both")
        settings = settings_of(options) if settings is None else settings
        super().__init__(agent, interfaces or (), settings, foreign_server=foreign_server)
        self.report: ShutdownReport | None = None
        """What became of everything that was accepted, once the runtime has ended."""
        self._loop: EventLoopHandle | None = None
        self._stopping: anyio.Event | None = None
        self._children: TaskGroup | None = None
        self._cron_scope: anyio.CancelScope | None = None
        self._cron_ended = anyio.Event()
        self._stop_began: float | None = None
        """Seconds of the event loop's clock."""
        self._start_scope: anyio.CancelScope | None = None
        """What a stop cancels until there are children to stop."""
        self._stop_requested = False
        """`stop` was called, maybe before the event loop was known."""
        self._forced = False
        """So it was with `force`: cut off what is under way."""
        self._has_started = False
        """Whoever starts it was told so."""
        self.outlives_its_work: bool = False
        """Whether it goes on when nothing is left to serve: somebody else says when it ends."""
        self._nothing_left = False
        """It has stopped since all that it served has ended."""

    # --- verbs

    def stop(self, force: bool = False) -> None:
        """Begin to stop, from whatever thread or signal handler; returns at once.

        Args:
            force: Cut off what is under way rather than finish it.
        """
        self._forced = self._forced or force  # both first, for a `run` that begins in its own thread
        self._stop_requested = True
        if self._loop is not None:
            self._loop.call_soon(self._stop_now)

    async def fire(self, trigger: BaseTrigger) -> None:
        """Fire one of the agent's triggers by hand, all but webhooks; it goes through the bus as if its time had come.

        Raises:
            ConfigurationError: The trigger is not one of the agent's, or is a webhook.
            EventBusClosed: The agent is stopping.
        """
        key = self.triggers.key_of(trigger)
        if isinstance(trigger, Webhook):
            raise ConfigurationError(f"{trigger!r} cannot be fired by hand: send it a request")
        if self.draining and not is_in_work_of(self.tracker):
            raise EventBusClosed("the agent is stopping: the trigger was not fired")
        data = {"body": None, "source": trigger.source, "timestamp": current_clock().now()}
        await self.agent.emitter.publish(key, data)

    async def run(self, *, task_status: TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED) -> ShutdownReport:
        """Serve until stopped.

        Args:
            task_status: Told the bound URL (None without a server) when everything is ready.

        Raises:
            ServeError: The agent is being served already.
            OSError: The address cannot be bound.
            ConfigurationError: Something that is served cannot work; nothing was left running.
        """
        if self.agent.runtime is not None or self._loop is not None:
            raise ServeError("this agent is being served already: one runtime at a time")
        self._loop = EventLoopHandle()
        open_scopes().close_generators_safely()
        for name in OF_EVENT_LOOPS:
            logger_named(name)
        self._stopping, self._start_scope = anyio.Event(), anyio.CancelScope()
        self.agent.runtime = self
        if self._stop_requested:
            self._stop_now()
        try:
            with plain_errors(), Watchdog(self._loop), self._start_scope:
                await self._serve(task_status)
        finally:
            self.agent.runtime = None
        if not self._has_started:  # it was stopped before it served
            task_status.started(self.url)
        if self.report is None:  # nothing but events can have been accepted
            self._count_unpublished()
            self._report(None)
        assert self.report is not None
        return self.report

    # --- start, in order

    async def _serve(self, task_status: TaskStatus[str | None]) -> None:
        self.agent.runner.prepare()
        stuck: tuple[str, ...] | None = None
        try:
            with self._bound():
                async with self._opened():
                    try:
                        await self._serve_opened(task_status)
                    finally:
                        self._count_unfinished()
                        stuck = await stuck_threads()
        finally:
            if stuck is not None:
                self._count_unwritten()
                self._report(stuck)
        self._check_end()

    async def _serve_opened(self, task_status: TaskStatus[str | None]) -> None:
        assert self._stopping is not None
        async with anyio.create_task_group() as self._children:
            await self._start(self._children)
            self._announce()
            if self.settings.handle_signals:  # the process is this service's
                notify("READY=1")
                self._children.start_soon(send_signs_of_life)
            task_status.started(self.url)
            self._has_started = True
            self._children.start_soon(self._stop_when_nothing_is_left)
            await self._stopping.wait()
            await self._drain()
            self._children.cancel_scope.cancel()

    def _check_end(self) -> None:
        """Have serving fail where it ended and nobody has stopped it, or where all it had to serve has failed.

        Raises:
            ServeError: It did.
        """
        assert self._start_scope is not None
        if self._stop_began is None and not self._forced and not self._start_scope.cancel_called:
            raise ServeError("serving ended by itself: one of its tasks was cancelled from outside")
        failed = [supervisor for supervisor in self.supervisors if supervisor.state is InterfaceState.FAILED]
        if self._nothing_left and failed:
            reasons = "; ".join(f"interface {each.name} has failed for good: {each.error}" for each in failed)
            raise ServeError(f"nothing is left to serve: {reasons}")

    async def _stop_when_nothing_is_left(self) -> None:
        """Stop once the last interface has ended, where there is neither a server nor a trigger."""
        assert self._stopping is not None
        if self.outlives_its_work or self.http is not None or self.triggers.crons or self.triggers.events:
            return
        if not self.supervisors:
            logger.warning(
                "nothing to run: %s has no interface, cron job or event trigger, and enable_server=False", self.name
            )
        for supervisor in self.supervisors:
            await supervisor.received.wait()
        await self._work_done()
        if not self._stopping.is_set():
            self._nothing_left = True
            logger.info("nothing is left to serve: %s ends", self.name)
            self._stopping.set()

    @contextmanager
    def _bound(self) -> Generator[None, None, None]:
        """Bind the address before anything is started, so that a busy port leaves nothing behind."""
        if not self.serves_http:
            yield
            return
        http = self._build_http()
        with nullcontext() if self._foreign_server else http.bound() as url:
            self.url = url
            yield

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[None, None]:
        """What is opened first and closed last; each closes itself within a bound, also when cancelled."""
        async with AsyncExitStack() as stack:
            for agent in self._agents:
                await stack.enter_async_context(model_lifetime(agent.model))
                await stack.enter_async_context(agent.sessions.open())
            await stack.enter_async_context(self.bus.open())
            await stack.enter_async_context(
                self.agent.emitter.connected(
                    self.bus, self.triggers.route, workers=self.settings.event_workers, owner=self.tracker
                )
            )
            for agent in self._agents:
                await stack.enter_async_context(agent_lifespan(agent))
            await stack.enter_async_context(opened(self._providers))
            if self.http is not None:
                await stack.enter_async_context(self.http.open())
            yield

    async def _start(self, children: TaskGroup) -> None:
        async with anyio.create_task_group() as connecting:  # at once; each within its time-out
            for connection in self.mcp_connections:
                connecting.start_soon(children.start, connection.run)
        await self.registry.recall(self.bus, self.triggers.promising)
        await children.start(run_child, "the event workers", self.workers.run, self._may_end)
        self.agent.emitter.begin()
        if self.http is not None:
            await children.start(run_child, "the HTTP server", self.http.run, self._may_end)
        children.start_soon(self._refusals.run)
        for supervisor in self.supervisors:
            children.start_soon(supervisor.run)
        self._cron_scope = await children.start(run_child, "the cron loop", self._run_cron, self._may_end)

    def _may_end(self) -> bool:
        return bool(self.draining)

    async def _run_cron(self, *, task_status: TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as loop:
                await loop.start(self.cron_loop.run)
                task_status.started(scope)
        await self.cron_loop.fire_pending()
        self._cron_ended.set()

    def _announce(self) -> None:
        summary = self.summary()
        logger.info("%s", banner(summary))
        for warning in warnings(summary):
            logger.warning("%s", warning)

    # --- stop, in order

    def _stop_now(self) -> None:
        assert self._stopping is not None and self._start_scope is not None
        self._stopping.set()
        if self._children is None:  # nothing was accepted yet, and what is being opened may hang
            self._start_scope.cancel()
        elif self._forced:
            self._children.cancel_scope.cancel()

    async def _drain(self) -> None:
        self._stop_began = anyio.current_time()
        self.draining.begin()
        logger.info("stopping: %g s to finish what was accepted", self.settings.shutdown_timeout)
        if self.settings.handle_signals:
            notify("STOPPING=1")
        with anyio.move_on_after(self.settings.shutdown_timeout):
            self._stop_sources()
            await self._accepted_work_done()

    def _stop_sources(self) -> None:
        assert self._cron_scope is not None
        self.agent.emitter.refuse("the agent is stopping")
        self._cron_scope.cancel()
        if self.bus.shared:
            self.registry.let_go()
        for supervisor in self.supervisors:
            supervisor.stop_receiving()
        if self.http is not None:
            self.http.drain()

    async def _accepted_work_done(self) -> None:
        await self._requests_done()
        for supervisor in self.supervisors:
            await supervisor.received.wait()
        await self._cron_ended.wait()
        await self._work_done()
        for supervisor in self.supervisors:
            supervisor.release()
        for supervisor in self.supervisors:
            await supervisor.ended.wait()

    async def _work_done(self) -> None:
        emitter = self.agent.emitter
        while True:  # the last piece of work may have emitted one more
            await emitter.flushed()
            await self.bus.drain()
            if emitter.is_flushed and not self.tracker.active():
                break
            await self.tracker.idle()

    async def _requests_done(self) -> None:
        """Wait for the last request; not for ever for who follows a run that may be made after a restart only."""
        if self.http is not None:
            with anyio.move_on_after(self.settings.shutdown_timeout * FOLLOWERS_SHARE):
                await self.http.ended()
            self.registry.let_go()
            await self.http.ended()

    # --- report

    def _count_unpublished(self) -> None:
        for publication in self.agent.emitter.take_undone():
            self.tracker.never_started(source_kind(self.triggers.by_any_key[publication[0]]))

    def _count_unfinished(self) -> None:
        """Count what the children left undone, while the bus is still open."""
        self._count_unpublished()
        self.workers.finalize()
        for delivery in self.bus.take_undone():
            self.workers.count_undone(delivery)
        for supervisor in self.supervisors:
            supervisor.message_queue.finalize()

    def _count_unwritten(self) -> None:
        """Count what a bus could not write before it closed: it is lost."""
        with suppress(EventBusClosed):  # one that knows of nothing once it is closed
            for delivery in self.bus.take_undone():
                self.workers.count_undone(delivery)

    def _report(self, stuck: tuple[str, ...] | None) -> None:
        """Report; `stuck` names functions that still hold a thread, None where nothing was opened."""
        assert self._start_scope is not None
        self.tracker.skipped("cron", self.firings.missed)
        now = anyio.current_time()
        cut_off = stuck is not None and self._stop_began is None and not self._start_scope.cancel_called
        self.report = ShutdownReport(
            duration=now - (now if self._stop_began is None else self._stop_began),
            sources=self.tracker.counts(),
            forced=self._forced or cut_off,
            stuck_threads=stuck or (),
            firings=self.firings,
        )
        level = logging.INFO if self.report.clean else logging.WARNING
        logger.log(level, "%s %s", self.name, self.report)
