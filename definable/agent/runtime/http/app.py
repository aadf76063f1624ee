"""The ASGI entry: answers requests to the agent's endpoints, at little cost, and passes all others on to a guest.

The HTTP server calls it for every request, or a foreign ASGI server does through `agent.asgi()`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import quote, unquote

from definable.agent.auth.base import AuthProvider
from definable.agent.runtime.dispatch import log_failure
from definable.agent.runtime.settings import DEFAULT_MAX_MEMORY
from definable.agent.work import WorkTracker
from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.call import closing_what_it_leaves, contained
from definable.concurrency.isolation import contain_errors, contained_error
from definable.concurrency.logs import logger_named
from definable.errors import RunCancelled
from definable.server.problem import Problem, send_problem
from definable.server.request_cycle import Message, Receive, Scope, Send

from .auth import Door, PublicPaths, scope_of
from .body import UnfinishedBodies
from .browsers import BrowserGate, Headers
from .request import ClientGone, Request
from .response import RETRY_AFTER, Response, ResponseSender, is_worth_a_traceback, problem_of
from .router import RouteMatch, Router
from .routes import AuthSource, Route

logger: logging.Logger = logger_named(__name__)

AUTH_SCOPE_KEY = "definable.auth"
"""Where a route of the user's own finds the `AuthContext` of its caller."""

SLASH = "\udc2f"
"""Stands for an encoded slash while routes are matched: half of a surrogate pair is in no decoded path."""

ALLOW_SCOPE_KEY = "definable.allow"
"""Where the guest finds the methods of the agent's own endpoint on a path, when the request's is not one."""

ROUTE = contain_errors("a route")

BODY_UNREAD = frozenset({408, 413})
"""Statuses of a request whose body still stands on the connection, which therefore ends (RFC 9110, 15.5.9, 15.5.14)."""


class Guest(Protocol):
    """An ASGI application whose routes are the user's own: it answers what none of the agent's endpoints does."""

    app: Any
    """What users know it by."""
    max_body: int
    """Bytes of a request's body that it takes."""

    def __call__(self, scope: Scope, receive: Receive, send: Send, /) -> Awaitable[None]:
        """Answer one request, or serve one WebSocket."""
        ...

    def methods(self, path: str) -> Collection[str]:
        """The methods of its routes on a path; OPTIONS only where a route of the user's own answers it."""
        ...

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Run what the user has run before the first request, and after the last."""
        ...

    def drain(self) -> None:
        """A stop has begun: end what would go on for ever."""
        ...


NO_MATCH: RouteMatch[Route] = RouteMatch()


class AgentApp:
    """An ASGI application.

    Args:
        router: Leads to the agent's endpoints.
        guest: What answers everything else.
        auth_provider: Of what the guest answers.
        tracker: Counts the requests.
        draining: Whether a stop has begun.
        bodies: The unfinished bodies of all requests.
        max_answer_bytes: What large answers that are on their way may hold.
        max_active_bytes: What the bodies of requests that are being handled may hold.
        gate: What browsers' requests are asked first.
        public: The paths of what the guest answers to everybody.
        door: Lets callers in.
    """

    def __init__(
        self,
        router: Router[Route],
        guest: Guest,
        auth_provider: AuthSource,
        tracker: WorkTracker,
        draining: Callable[[], bool],
        bodies: UnfinishedBodies,
        max_answer_bytes: int = DEFAULT_MAX_MEMORY,
        max_active_bytes: int = DEFAULT_MAX_MEMORY,
        *,
        gate: BrowserGate,
        public: PublicPaths,
        door: Door,
    ) -> None:
        self._router = router
        self._memory = ByteLimit(max_answer_bytes, one_may_exceed=True)
        self._active_memory = ByteLimit(max_active_bytes, one_may_exceed=True)
        self._guest = guest
        self._auth_provider = auth_provider
        self._tracker = tracker
        self._uncounted = WorkTracker()
        """Of what is answered always: no drain waits for it, and it is in no report."""
        self._draining = draining
        self._bodies = bodies
        self._gate = gate
        self._public = public
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one WebSocket."""
        if scope.get("root_path"):
            scope = below_root(scope)
        match = self._match(scope) if scope["type"] == "http" else NO_MATCH
        headers: Headers = dict(scope["headers"])
        if self._gate.concerns(headers):
            send = self._gate.readable(send, headers)
            if await self._answer_browser(scope, send, match.endpoint, headers):
                return
        await self._dispatch(scope, receive, send, match)

    async def _answer_browser(self, scope: Scope, send: Send, route: Route | None, headers: Headers) -> bool:
        """Answer a preflight, and refuse what a page may not send.

        Returns:
            Whether the request was answered.
        """
        always = route is not None and route.is_always_served
        try:
            if not always:
                self._gate.check_host(headers)
            preflight = self._gate.preflight(scope, headers) if scope["type"] == "http" else None
            if preflight is not None:
                await Response(b"", 204, None, preflight).send(ResponseSender(scope, send, self._memory))
            elif route is None:
                is_guarded = self._guest_provider(scope) is not None
                self._gate.check_page(scope, headers, is_guarded=is_guarded, takes_visits=True)
            elif not always and not route.is_embeddable:
                is_guarded, takes_visits = route.auth_provider() is not None, route.takes_visits
                self._gate.check_page(scope, headers, is_guarded=is_guarded, takes_visits=takes_visits)
        except Problem as problem:
            await refuse(scope, send, problem)
            return True
        return preflight is not None

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send, match: RouteMatch[Route]) -> None:
        route = match.endpoint
        always = route is not None and route.is_always_served
        if self._draining() and not always:
            await refuse(scope, send, Problem(503, "the service is stopping", headers=[RETRY_AFTER]))
            return
        request = Request(scope, receive, match.parameters, self._bodies, self._active_memory)
        if route is not None:
            await self._answer(route, request, send, self._uncounted if always else self._tracker)
            return
        if match.allowed:
            if await self._answer_of_method(request, send, match.allowed):
                return
            scope[ALLOW_SCOPE_KEY] = match.allowed
        await self._pass_on(request, send)

    async def _answer_of_method(self, request: Request, send: Send, allowed: tuple[str, ...]) -> bool:
        """Answer what tells of the methods of a path: OPTIONS, and a method that a public endpoint does not have, which
        is refused without asking for credentials.

        Returns:
            Whether the request was answered: not where the guest has the method, or has to be asked.
        """
        scope, method = request.scope, request.method
        others = self._guest.methods(local_path(scope))
        if method in others:
            return False
        methods = {*allowed, *others}
        found = [self._match({**scope, "method": each}).endpoint for each in allowed]
        if method == "OPTIONS":
            for route in found:
                handshake = None if route is None or route.unsigned is None else route.unsigned(request)
                if handshake is not None:
                    await handshake.send(ResponseSender(scope, send, self._memory))
                    return True
            headers = [allow_header(methods | {"OPTIONS"})]
            await Response(b"", 204, None, headers).send(ResponseSender(scope, send, self._memory))
            return True
        if any(route is not None and route.auth_provider() is None for route in found):
            problem = Problem(405, "The method is not allowed for this path.", headers=[allow_header(methods)])
            await send_problem(send, problem)
            return True
        return False

    def _guest_provider(self, scope: Scope) -> AuthProvider | None:
        """Who authenticates the callers of what the guest answers."""
        provider = self._auth_provider()
        return None if provider is None or local_path(scope) in self._public else provider

    def _match(self, scope: Scope) -> RouteMatch[Route]:
        raw_path: bytes = scope.get("raw_path") or b""
        if b"%2f" in raw_path or b"%2F" in raw_path:
            return self._match_with_slashes(scope, raw_path.decode("latin-1"))
        return self._router.match(scope["method"], local_path(scope))

    def _match_with_slashes(self, scope: Scope, raw_path: str) -> RouteMatch[Route]:
        """What a path leads to whose encoded slashes separate nothing, but are part of a parameter (RFC 3986, 2.2)."""
        path = unquote(raw_path.replace("%2f", SLASH).replace("%2F", SLASH))
        found = self._router.match(scope["method"], local_path({**scope, "path": path}))
        if found.endpoint is None:
            return found
        if not found.endpoint.takes_slashes:
            return NO_MATCH
        parameters = {name: value.replace(SLASH, "/") for name, value in found.parameters.items()}
        return replace(found, parameters=parameters)

    async def _answer(self, route: Route, request: Request, send: Send, tracker: WorkTracker) -> None:
        """Answer a request to one of the agent's endpoints."""
        sender = ResponseSender(request.scope, send, self._memory)
        with tracker.work("http") as work:
            try:
                if route.is_always_served:  # no code of the user's runs
                    await self._respond(route, request, sender)
                else:
                    await contained("a request's handler", self._respond, route, request, sender)
            except ClientGone:
                work.withdrawn = True
            except BaseException as raised:
                error = contained_error(raised, "a request's handler")
                if not isinstance(error, Exception):
                    raise error  # noqa: B904 - it is what was raised, or a part of it
                problem = problem_of(error)
                work.failed = problem.status >= 500
                work.withdrawn = isinstance(error, RunCancelled)
                if is_worth_a_traceback(error, problem):
                    log_failure(logger, logging.ERROR, error, "%s %r failed", request.method, request.path)
                if not sender.started:
                    await send_problem(send, problem, close=problem.status in BODY_UNREAD)
            finally:
                request.release()

    async def _respond(self, route: Route, request: Request, sender: ResponseSender) -> None:
        response = None if route.unsigned is None else route.unsigned(request)
        if response is None:
            provider = route.auth_provider()
            if provider is not None or (self._door.is_limited and not route.is_always_served):
                request.auth = await self._door.admit(provider, request, route.max_body, route.scope)
            response = await closing_what_it_leaves("a request's handler", route.endpoint, request)
        await response.send(sender)

    async def _pass_on(self, request: Request, send: Send) -> None:
        with self._tracker.work("http") as work, ROUTE:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] >= 500:
                    work.failed = True
                await send(message)

            try:
                await contained("a route", self._answer_by_guest, request, watched)
            except ClientGone:
                work.withdrawn = True

    async def _answer_by_guest(self, request: Request, send: Send) -> None:
        provider = self._guest_provider(request.scope)
        if provider is not None or self._door.is_limited:
            try:
                auth = await self._door.admit(provider, request, self._guest.max_body, scope_of(request))
                if auth is not None:
                    request.scope[AUTH_SCOPE_KEY] = auth
            except Problem as problem:
                await refuse(request.scope, send, problem)
                return
        await self._guest(request.scope, request.replay, send)


def below_root(scope: Scope) -> Scope:
    """A scope whose path holds `root_path`, as ASGI says, also behind servers and proxies that leave it out.

    hypercorn and granian give the path as it was requested: without the prefix where a proxy has taken it off.
    """
    root: str = scope["root_path"].rstrip("/")
    if not root or scope["path"].startswith(f"{root}/"):
        return scope
    raw_path: bytes | None = scope.get("raw_path")
    raw = None if raw_path is None else quote(root).encode() + raw_path
    return {**scope, "path": root + scope["path"], "raw_path": raw}


def allow_header(methods: Iterable[str]) -> tuple[bytes, bytes]:
    """The methods of a path (RFC 9110, 10.2.1)."""
    return b"allow", ", ".join(sorted(methods)).encode()


def local_path(scope: Scope) -> str:
    """The path below the application's mount point (ASGI: `path` holds `root_path`)."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def refuse(scope: Scope, send: Send, problem: Problem) -> None:
    """Refuse a request or the handshake of a WebSocket."""
    if scope["type"] == "http":
        await send_problem(send, problem, close=problem.status == 503)
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        headers = problem.response_headers()
        await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": problem.body()})
    else:
        await send({"type": "websocket.close", "code": 1013 if problem.status == 503 else 1008})
