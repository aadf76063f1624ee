"""What one serving of an agent is made of: its parts, each made from those before it; and how they are.

`AgentRuntime` derives from it: it starts and stops them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import anyio

from definable.agent.agent import Agent
from definable.agent.arguments import check_auth
from definable.agent.auth.base import RefusalLog, has_limits
from definable.agent.bus.base import Backlog, MeasuresBacklog
from definable.agent.bus.memory import MemoryBus
from definable.agent.interface.base import BaseInterface
from definable.agent.tools.mcp_connection import MCPConnection
from definable.agent.work import WorkTracker
from definable.concurrency.clock import current_clock
from definable.concurrency.rate_limits import SharesLimits
from definable.errors import EventBusError, StorageError

from .banner import ServedChat, ServiceSummary
from .cron import CronLoop
from .cron_source import CronSource
from .dispatch import Dispatcher
from .ingress import Ingress
from .runs import RunRegistry
from .settings import ServeSettings
from .shutdown import Draining, FiringCount
from .supervisor import Supervisor, health_of, supervised
from .triggers import TriggerTable, all_interfaces, with_webhooks
from .workers import Workers

if TYPE_CHECKING:
    from quart import Quart

    from definable.agent.bus.base import EventBus

    from .http.service import HTTPService


BACKLOG_TIMEOUT = 1.0
"""Seconds that the event bus may take to say how much waits in it."""

BACKLOG_PAUSE = 1.0
"""Seconds for which what it said is said again: everybody may ask for `/health`, as often as they like."""


class ServedAgent:
    """The parts.

    Args:
        agent: The agent to serve.
        interfaces: Messaging interfaces, beside the agent's own.
        settings: How to serve.
        foreign_server: Another ASGI server listens for us (`agent.asgi()`).
    """

    def __init__(
        self, agent: Agent, interfaces: Sequence[BaseInterface], settings: ServeSettings, *, foreign_server: bool
    ) -> None:
        check_auth(agent.auth)
        self.agent = agent
        self.settings: ServeSettings = settings
        self.name: str = self.settings.name or agent.name
        self.url: str | None = None
        """Where HTTP is served, `unix:` and a path for a Unix socket; None without a server, or before it is bound."""
        self.tracker: WorkTracker = WorkTracker()
        interfaces = all_interfaces(agent, interfaces)
        self.triggers: TriggerTable = TriggerTable(with_webhooks(agent.triggers, interfaces), agent.emitter.aemit_once)
        self.bus: EventBus = MemoryBus(self.settings.event_buffer) if agent.bus is None else agent.bus
        self.registry: RunRegistry = RunRegistry(
            agent.runner,
            self.settings.max_concurrent_runs,
            others_help=self.bus.shared,
            durable=self.bus.durable,
            max_queued_bytes=self.settings.max_memory_queued,
            max_recent_bytes=self.settings.max_memory_runs,
        )
        self.dispatcher: Dispatcher = Dispatcher(self.registry)
        self._refusals = RefusalLog()
        self.supervisors: list[Supervisor] = supervised(
            interfaces, agent, self.registry, self.bus, self.tracker, self.settings.event_buffer, self._refusals
        )
        self.workers: Workers = Workers(
            self.bus,
            self.triggers.by_any_key,
            self.dispatcher,
            self.registry,
            self.tracker,
            agent.emitter,
            count=self.settings.event_workers,
            max_active_bytes=self.settings.max_memory_active,
            max_queued=self.settings.event_buffer,
            consumers=[supervisor.message_queue for supervisor in self.supervisors],
        )
        source = CronSource(self.bus, self.triggers)
        self.cron_loop: CronLoop = CronLoop(
            self.triggers.crons, source.fire, source.fire_many, source.make_up if self.bus.durable else None
        )
        servers = dict.fromkeys(server for each in self._agents for server in each.runner.mcp_servers)
        self.mcp_connections: list[MCPConnection] = [MCPConnection(server, serves=True) for server in servers]
        self._backlog: Mapping[str, float] = {}
        self._measured_at = -math.inf
        """Seconds of the event loop's clock."""
        self.http: HTTPService | None = None
        """What answers HTTP; None without a server."""
        self._foreign_server = foreign_server
        self.draining: Draining = Draining()
        """Whether a stop has begun: a truth value, and an event to wait for."""

    @property
    def app(self) -> Quart | None:
        """The Quart application that serves everything but the agent's endpoints; None without HTTP."""
        return None if self.http is None else self.http.guest.app

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and the state of every child, as `/health` shows them."""
        firings = self.firings if self.cron_loop.jobs else None
        draining, connections = bool(self.draining), self.mcp_connections
        return health_of(self.name, draining, self.supervisors, self._storage, firings=firings, connections=connections)

    async def backlog(self) -> Mapping[str, float]:
        """How many deliveries wait for a worker, and for how many seconds the oldest does; nothing where the bus cannot
        say it, or not in time."""
        now = anyio.current_time()
        if not isinstance(self.bus, MeasuresBacklog) or now < self._measured_at + BACKLOG_PAUSE:
            return self._backlog
        self._measured_at, self._backlog = now, {}
        queued = self.workers.queued
        with anyio.move_on_after(BACKLOG_TIMEOUT), suppress(StorageError, EventBusError):
            waiting, since = await self.bus.backlog()
            own = Backlog.of(len(queued), [delivery.data for delivery in queued])
            times = [at for at in (since, own.since) if at is not None]
            age = max(current_clock().now() - min(times), 0.0) if times else 0.0
            self._backlog = {"waiting": waiting + own.waiting, "oldest_seconds": round(age, 3)}
        return self._backlog

    @property
    def firings(self) -> FiringCount:
        """What became of the firings so far."""
        loop = self.cron_loop
        return FiringCount(loop.fired.total(), loop.late.total(), self.workers.skipped, loop.missed.total())

    @property
    def _storage(self) -> Iterable[tuple[str, object]]:
        """What keeps things, by its name in `/health`."""
        yield "events", self.bus
        yield "sessions", self.agent.sessions
        for supervisor in self.supervisors:
            other = supervisor.interface.agent
            if isinstance(other, Agent) and other.sessions is not self.agent.sessions:
                yield f"sessions of {supervisor.name}", other.sessions
        for supervisor in self.supervisors:
            yield f"identities of {supervisor.name}", supervisor.interface.identity_resolver

    def summary(self) -> ServiceSummary:
        """What is served, where and for whom, as the banner shows it."""
        return ServiceSummary(
            name=self.name,
            model=self.agent.model,
            auth=self.agent.auth,
            settings=self.settings,
            url=self.url,
            exposed_at=None if self.http is None else self.http.exposed_at,
            takes_requests=self.http is not None,
            webhooks=self.triggers.webhooks,
            events=self.triggers.events,
            alike=self.triggers.alike,
            jobs=[(job, self.cron_loop.next_firing(job)) for job in self.triggers.crons],
            chats=[
                ServedChat(supervisor.name, supervisor.interface, (supervisor.interface.agent or self.agent).auth)
                for supervisor in self.supervisors
            ],
        )

    @property
    def _agents(self) -> Iterable[Agent]:
        """The served agent, and those that interfaces brought along."""
        others = [supervisor.interface.agent for supervisor in self.supervisors]
        return dict.fromkeys([self.agent, *[other for other in others if isinstance(other, Agent)]])

    @property
    def _providers(self) -> Iterable[object]:
        """What may be asked who a caller is."""
        yield from (agent.auth for agent in self._agents)
        yield from (webhook.auth for webhook in self.triggers.webhooks)
        yield from (supervisor.interface.auth for supervisor in self.supervisors)

    @property
    def _shares_limits(self) -> SharesLimits | None:
        """Where the replicas of this service share the limits of callers; None where there are none, or nowhere."""
        rates = self.settings.rate_limit or self.settings.address_rate_limit
        parts = (self.bus, self.agent.sessions) if rates or any(map(has_limits, self._providers)) else ()
        return next((part for part in parts if isinstance(part, SharesLimits)), None)

    @property
    def serves_http(self) -> bool:
        """Whether HTTP is served: as `enable_server` says, else when it is wanted or nothing else is there."""
        if self.settings.enable_server is not None or self._foreign_server:
            return self._foreign_server or bool(self.settings.enable_server)
        wanted = bool(self.triggers.webhooks or self.agent.middleware) or self.agent.has_blueprint
        return wanted or not (self.triggers.crons or self.triggers.events or self.supervisors)

    def _build_http(self) -> HTTPService:
        # Heavy, and an agent without HTTP never needs them.
        from .http.body import UnfinishedBodies, memory_for_bodies
        from .http.quart_app import QuartGuest, create_quart_app
        from .http.service import HTTPService

        agent = self.agent
        largest = max((webhook.max_body for webhook in self.triggers.webhooks), default=0)
        self.http = HTTPService(
            self.name,
            self.settings,
            self.triggers.webhooks,
            QuartGuest(create_quart_app(agent.name, [agent.blueprint] if agent.has_blueprint else [])),
            partial(attrgetter("auth"), agent),  # which may be set late
            runs=self.registry,
            ingress=Ingress(self.bus, self.triggers, self.registry, self.dispatcher),
            sessions=agent.runner.sessions,
            health=self.health,
            backlog=self.backlog,
            tracker=self.tracker,
            draining=self.draining.is_set,
            bodies=UnfinishedBodies(memory_for_bodies(self.settings.max_memory_bodies, largest)),
            refusals=self._refusals,
            middleware=agent.middleware,
            shared=self._shares_limits,
        )
        return self.http
