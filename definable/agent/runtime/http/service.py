"""HTTP, as the runtime sees it: bind, start, drain. Puts together the agent's endpoints, Quart and the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import anyio
from anyio.abc import TaskStatus

from definable.agent.auth.base import AuthProvider, RefusalLog
from definable.agent.runtime.ingress import Ingress
from definable.agent.runtime.runs import RunRegistry
from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.shutdown import WorkTracker
from definable.agent.session.service import SessionService
from definable.agent.trigger.webhook import Webhook
from definable.server import (
    ASGIApp,
    HTTPServer,
    ServerLimits,
    bind,
    close_all,
    connections_within_descriptors,
    ssl_context,
)

from .app import AgentApp, Guarded
from .auth import PublicPaths
from .body_memory import UnfinishedBodies
from .browsers import BrowserGate, HostPolicy, OriginPolicy, is_loopback
from .endpoints import (
    CancelRunEndpoint,
    Endpoint,
    ForgetSessionEndpoint,
    HandshakeEndpoint,
    HealthEndpoint,
    RunEndpoint,
    RunEventsEndpoint,
    RunsEndpoint,
    ShowRunEndpoint,
    ShowSessionEndpoint,
    VisibleSessions,
    WebhookEndpoint,
    unsigned_answer,
)
from .endpoints.docs import OpenAPIEndpoint, docs_endpoints
from .forwarded import AccessLog, TrustedProxies
from .quart_app import drain_websockets, own_methods, quart_lifespan
from .routes import Routes

if TYPE_CHECKING:
    from quart import Quart

logger: logging.Logger = logging.getLogger(__name__)

Guard: TypeAlias = Callable[[], AuthProvider | None]
"""Who guards an endpoint, asked at every request; None lets everybody in."""


class HTTPService:
    """Everything that answers HTTP for one runtime.

    Args:
        settings: Where and how to listen.
        routes: The agent's endpoints.
        quart: What answers everything else.
        guard: Who guards what Quart answers.
        tracker: Counts the requests.
        draining: Whether a stop has begun.
        bodies: The unfinished bodies of all requests.
        refusals: Where it is noted who is not let in.
    """

    def __init__(
        self,
        settings: ServeSettings,
        routes: Routes[Guarded],
        quart: Quart,
        guard: Guard,
        tracker: WorkTracker,
        draining: Callable[[], bool],
        bodies: UnfinishedBodies,
        refusals: RefusalLog,
    ) -> None:
        self._settings = settings
        self._server: HTTPServer | None = None
        self._ended = anyio.Event()
        self.quart = quart
        """The Quart application that serves everything but the agent's endpoints."""
        self._gate = BrowserGate(
            OriginPolicy(settings.cors), HostPolicy(settings.allowed_hosts) if settings.allowed_hosts else None
        )
        self.app: AgentApp = AgentApp(
            routes,
            cast("ASGIApp", quart),
            guard,
            tracker,
            draining,
            bodies,
            settings.max_memory_answers,
            settings.max_memory_active,
            gate=self._gate,
            public=PublicPaths(settings.public),
            fallback_methods=partial(own_methods, quart),
            refusals=refusals,
        )
        """The ASGI application; a foreign server calls it as it is."""
        self._served: ASGIApp = AccessLog(self.app) if settings.access_log else self.app
        if settings.trusted_proxies or settings.root_path:
            self._served = TrustedProxies(self._served, settings.trusted_proxies, settings.root_path)

    @contextmanager
    def bound(self) -> Generator[str, None, None]:
        """Hold the listening sockets while the context is open; yields the URL.

        Raises:
            OSError: The address cannot be bound.
            ConfigurationError: The certificate or its key cannot be used.
        """
        settings = self._settings
        tls = None if settings.certfile is None else ssl_context(settings.certfile, settings.keyfile)
        sockets = list(settings.sockets) or bind(settings.host, settings.port)
        if all(is_loopback(str(sock.getsockname()[0])) for sock in sockets):
            self._gate.hosts = HostPolicy(settings.allowed_hosts)
        try:
            limits = ServerLimits(max_connections=_allowed_connections(settings.max_connections))
            self._server = HTTPServer(self._served, sockets, ssl_context=tls, limits=limits)
            yield url_of(settings.host, sockets[0].getsockname()[1], secure=tls is not None)
        finally:
            close_all(sockets)

    def open(self) -> AbstractAsyncContextManager[None]:
        """Run the user's `before_serving` functions now and the `after_serving` ones when the context is left."""
        return quart_lifespan(self.quart)

    async def run(self, *, task_status: TaskStatus[list[tuple[str, int]]]) -> None:
        """Serve connections until drained; where a foreign server does that, until cancelled."""
        try:
            if self._server is not None:
                await self._server.serve(task_status=task_status)
                return
        finally:
            self._ended.set()
        task_status.started([])
        await anyio.sleep_forever()

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections are served on until `drain`."""
        if self._server is not None:
            self._server.stop_accepting()

    def drain(self) -> None:
        """Take no more requests; those under way are answered still."""
        if self._server is not None:
            self._server.drain()
        drain_websockets(self.quart)

    async def ended(self) -> None:
        """Return once the last connection has ended."""
        await self._ended.wait()


def build_routes(
    webhooks: Sequence[Webhook],
    *,
    registry: RunRegistry,
    ingress: Ingress,
    sessions: SessionService,
    guard: Guard,
    health: Callable[[], tuple[bool, dict[str, Any]]],
    docs: str | None = None,
) -> Routes[Guarded]:
    """The table of the agent's endpoints: the built-in ones first, then its webhooks.

    `docs` is the name under which the service is documented; None leaves `/docs` and `/openapi.json` out.
    """
    routes: Routes[Guarded] = Routes()
    routes.add("GET", "/health", Guarded(HealthEndpoint(health), nobody, always=True))
    visible = VisibleSessions(sessions, registry)
    built_in: list[tuple[str, str, Endpoint]] = [
        ("POST", "/run", RunEndpoint(registry, ingress, sessions)),
        ("GET", "/runs", RunsEndpoint(registry)),
        ("GET", "/runs/{run_id}", ShowRunEndpoint(registry)),
        ("DELETE", "/runs/{run_id}", CancelRunEndpoint(registry)),
        ("GET", "/runs/{run_id}/events", RunEventsEndpoint(registry)),
        ("GET", "/sessions/{session_id}", ShowSessionEndpoint(visible)),
        ("DELETE", "/sessions/{session_id}", ForgetSessionEndpoint(visible)),
    ]
    for method, path, endpoint in built_in:
        routes.add(method, path, Guarded(endpoint, guard, scope="read" if method == "GET" else "run", slashes=True))
    if docs is not None:
        for path, endpoint in [*docs_endpoints(docs), ("/openapi.json", OpenAPIEndpoint(docs, webhooks, guard))]:
            routes.add("GET", path, Guarded(endpoint, nobody))
    for webhook in webhooks:
        endpoint = WebhookEndpoint(webhook, ingress)
        unsigned = None if webhook.challenge is None else partial(unsigned_answer, webhook)
        guarded = Guarded(endpoint, guard_of(webhook, guard), webhook.max_body, unsigned=unsigned, takes_visits=False)
        routes.add(webhook.method, webhook.path, guarded)
    for webhook in webhooks:  # behind all webhooks: a GET of one's own comes first
        if webhook.challenge is not None:
            routes.add("GET", webhook.path, Guarded(HandshakeEndpoint(webhook), nobody))
    return routes


def _allowed_connections(wanted: int) -> int:
    allowed = connections_within_descriptors(wanted)
    if allowed < wanted:
        logger.warning(
            "max_connections=%d is more than this process can have: it takes %d connections at once, which leaves file "
            "descriptors for model calls and stores; raise the hard limit (LimitNOFILE= of systemd, ulimit -Hn)",
            wanted,
            allowed,
        )
    return allowed


def nobody() -> None:
    """The guard of a public endpoint."""


def guard_of(webhook: Webhook, inherited: Guard) -> Guard:
    """Who guards a webhook: its own provider, nobody, or whoever guards the agent."""
    auth = webhook.auth
    if auth is None:
        return inherited
    return nobody if auth is False else lambda: auth


def url_of(host: str, port: int, *, secure: bool) -> str:
    """The URL at which a server bound to `host` can be reached from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if secure else 'http'}://{reachable}:{port}"
