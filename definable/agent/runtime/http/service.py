"""HTTP, as the runtime sees it: bind, start, drain. Puts together the ASGI entry and the server."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from definable.agent.auth.base import RefusalLog
from definable.agent.runtime.ingress import Ingress
from definable.agent.runtime.runs import RunRegistry
from definable.agent.runtime.settings import ServeSettings
from definable.agent.session.service import SessionService
from definable.agent.trigger.webhook import Webhook
from definable.agent.work import WorkTracker
from definable.concurrency.logs import logger_named
from definable.concurrency.rate_limits import SharesLimits, rate_of
from definable.server import (
    Address,
    ASGIApp,
    CertificateFiles,
    HTTPServer,
    ServerLimits,
    activated_sockets,
    close_all,
    connections_within_descriptors,
    listen,
)
from definable.server.transport import is_unix

from .app import AgentApp, Guest
from .asgi import answered
from .auth import Door, PublicPaths
from .body import UnfinishedBodies
from .browsers import BrowserGate, HostPolicy, OriginPolicy, is_loopback
from .endpoints.runs import StreamedRuns
from .forwarded import AccessLog, TrustedProxies
from .idempotency import KeyedRuns
from .middleware import MakeMiddleware, MiddlewareStack
from .openapi import openapi_document
from .request import EndpointContext
from .routes import AuthSource, agent_router

if TYPE_CHECKING:
    pass

logger: logging.Logger = logger_named(__name__)


class HTTPService:
    """Everything that answers HTTP for one runtime.

    Args:
        name: The service's.
        settings: Where and how to listen.
        webhooks: The agent's.
        guest: What answers everything but the agent's endpoints.
        auth_provider: Of the endpoints and of what the guest answers.
        runs: The agent's.
        ingress: Takes in what is handled by the agent's triggers, or later.
        sessions: The agent's.
        health: Whether all is well, and the state of every part.
        backlog: How much waits for a worker.
        tracker: Counts the requests.
        draining: Whether a stop has begun.
        bodies: The unfinished bodies of all requests.
        refusals: Where it is noted who is not let in.
        middleware: Goes around everything, the outermost first.
        shared: Where replicas share the limits of callers; None to keep them to itself.
    """

    def __init__(
        self,
        name: str,
        settings: ServeSettings,
        webhooks: Sequence[Webhook],
        guest: Guest,
        auth_provider: AuthSource,
        *,
        runs: RunRegistry,
        ingress: Ingress,
        sessions: SessionService,
        health: Callable[[], tuple[bool, dict[str, Any]]],
        backlog: Callable[[], Awaitable[Mapping[str, float]]],
        tracker: WorkTracker,
        draining: Callable[[], bool],
        bodies: UnfinishedBodies,
        refusals: RefusalLog,
        middleware: Sequence[MakeMiddleware],
        shared: SharesLimits | None = None,
    ) -> None:
        self._settings = settings
        self._shared = shared
        rates = (settings.rate_limit, settings.address_rate_limit)
        self._door = Door(refusals, *[None if rate is None else rate_of(rate) for rate in rates])
        self._server: HTTPServer | None = None
        self._ended = anyio.Event()
        self.exposed_at: str | None = None
        """The address at which other machines may reach the service; None before it is bound, and where none do."""
        self.guest: Guest = guest
        self._gate = BrowserGate(
            OriginPolicy(settings.cors), HostPolicy(settings.allowed_hosts) if settings.allowed_hosts else None
        )

        def openapi(root_path: str) -> dict[str, Any]:
            return openapi_document(name, webhooks, auth_provider(), root_path=root_path)

        context = EndpointContext(
            name, runs, ingress, sessions, StreamedRuns(), KeyedRuns(ingress.values), health, backlog, openapi
        )
        agent_app = AgentApp(
            agent_router(context, webhooks, auth_provider, is_development=settings.dev),
            guest,
            auth_provider,
            tracker,
            draining,
            bodies,
            settings.max_memory_answers,
            settings.max_memory_active,
            gate=self._gate,
            public=PublicPaths(settings.public),
            door=self._door,
        )
        self._middleware = MiddlewareStack(partial(answered, agent_app), middleware) if middleware else None
        self.app: ASGIApp = self._middleware or agent_app
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
        tls = None if settings.certfile is None else CertificateFiles(settings.certfile, settings.keyfile)
        sockets, host = listening_sockets(settings)
        try:
            hosts = [str(sock.getsockname()[0]) for sock in sockets if not is_unix(sock)]
            if hosts and all(map(is_loopback, hosts)):
                self._gate.hosts = HostPolicy(settings.allowed_hosts)
            self.exposed_at = next((host for each in hosts if not is_loopback(each)), None)
            limits = ServerLimits(max_connections=_allowed_connections(settings.max_connections))
            self._server = HTTPServer(self._served, sockets, ssl_context=tls, limits=limits)
            yield url_of(host, sockets[0], secure=tls is not None)
        finally:
            close_all(sockets)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Run the user's `before_serving` functions now and the `after_serving` ones when the context is left, around
        them the lifespan of the middleware; share limits meanwhile."""
        async with AsyncExitStack() as stack:
            if self._shared is not None:
                self._door.limits = await stack.enter_async_context(self._shared.rate_limits())
            if self._middleware is not None:
                await stack.enter_async_context(self._middleware.lifespan())
            await stack.enter_async_context(self.guest.lifespan())
            yield

    async def run(self, *, task_status: TaskStatus[list[Address]]) -> None:
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
        self.guest.drain()

    async def ended(self) -> None:
        """Return once the last connection has ended."""
        await self._ended.wait()


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


def listening_sockets(settings: ServeSettings) -> tuple[list[socket.socket], str]:
    """The sockets to serve on, and the host that they are bound to as far as it is known.

    Raises:
        OSError: The address cannot be bound.
        ConfigurationError: An inherited socket is none.
    """
    if settings.sockets:
        return list(settings.sockets), settings.host
    passed = activated_sockets()
    sockets = passed or listen(settings.address)
    return sockets, str(sockets[0].getsockname()[0]) if passed or settings.fd is not None else settings.host


def url_of(host: str, sock: socket.socket, *, secure: bool) -> str:
    """The URL at which a server bound to `host` can be reached from this machine; of a Unix socket, its path behind
    `unix:`, as nginx and curl's documentation have it."""
    if is_unix(sock):
        return f"unix:{os.path.abspath(os.fsdecode(sock.getsockname()))}"
    port = sock.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if secure else 'http'}://{reachable}:{port}"
