"""The ASGI entry: the agent's endpoints here, at little cost; everything else goes to the Quart application.

The HTTP server calls it for every request, or a foreign ASGI server does through `agent.asgi()`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from definable.agent.auth.base import AuthProvider, RefusalLog
from definable.agent.runtime.dispatch import log_failure
from definable.agent.runtime.run_log import ActiveMemory
from definable.agent.runtime.settings import DEFAULT_MAX_MEMORY
from definable.agent.runtime.shutdown import WorkTracker
from definable.agent.trigger.webhook import DEFAULT_MAX_BODY
from definable.concurrency.containment import closing_what_it_leaves, contained
from definable.concurrency.isolation import Isolation, isolated
from definable.server.problem import Problem, send_problem
from definable.server.request_cycle import ASGIApp, Message, Receive, Scope, Send

from .auth import PublicPaths, admitted, scope_of
from .body_memory import AnswerMemory, UnfinishedBodies
from .browsers import BrowserGate, Headers
from .endpoints import Endpoint, Sendable
from .quart_app import ALLOW_SCOPE_KEY, MAX_CONTENT_LENGTH
from .request import ClientGone, Request
from .response import RETRY_AFTER, Answer, Response, is_worth_a_traceback, problem_of
from .routes import NO_PARAMETERS, Match, Routes

logger: logging.Logger = logging.getLogger(__name__)

AUTH_SCOPE_KEY = "definable.auth"
"""Where a route of the user's own finds the `AuthContext` of its caller."""

SLASH = "\udc2f"
"""Stands for an encoded slash while routes are matched: half of a surrogate pair is in no decoded path."""

ROUTE = Isolation("a route")

BODY_UNREAD = frozenset({408, 413})
"""Statuses of a request whose body still stands on the connection, which therefore ends (RFC 9110, 15.5.9, 15.5.14)."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """An endpoint, and who guards it."""

    endpoint: Endpoint
    guard: Callable[[], AuthProvider | None]
    """Asked at every request, since `agent.auth` may be set late; None lets everybody in."""
    max_body: int = DEFAULT_MAX_BODY
    """Bytes of a body that its guard may want to see."""
    scope: str = "run"
    """What a caller must be allowed to do."""
    always: bool = False
    """Whether it is answered while the service drains."""
    unsigned: Callable[[Request], Sendable | None] | None = None
    """Asked before the guard: what it answers is for everybody."""
    slashes: bool = False
    """Whether a parameter of its path may hold a slash, which a client encodes: ids may, what a webhook's handler may
    take for a file's name may not."""
    takes_visits: bool = True
    """Whether pages of other sites may link to it, where it answers GET: not where a GET has an effect."""


NO_MATCH: Match[Guarded] = Match()


class AgentApp:
    """An ASGI application.

    Args:
        routes: The agent's endpoints.
        fallback: What answers everything else.
        guard: Who guards what the fallback answers.
        tracker: Counts the requests.
        draining: Whether a stop has begun.
        bodies: The unfinished bodies of all requests.
        max_answer_bytes: What large answers that are on their way may hold.
        max_active_bytes: What the bodies of requests that are being handled may hold.
        gate: What browsers' requests are asked first.
        public: The paths of what the fallback answers to everybody.
        fallback_methods: The methods that the fallback answers on a path; OPTIONS only where it does so by itself.
        refusals: Where it is noted who is not let in.
    """

    def __init__(
        self,
        routes: Routes[Guarded],
        fallback: ASGIApp,
        guard: Callable[[], AuthProvider | None],
        tracker: WorkTracker,
        draining: Callable[[], bool],
        bodies: UnfinishedBodies,
        max_answer_bytes: int = DEFAULT_MAX_MEMORY,
        max_active_bytes: int = DEFAULT_MAX_MEMORY,
        *,
        gate: BrowserGate,
        public: PublicPaths,
        fallback_methods: Callable[[str], Collection[str]],
        refusals: RefusalLog,
    ) -> None:
        self._routes = routes
        self._memory = AnswerMemory(max_answer_bytes)
        self._active_memory = ActiveMemory(max_active_bytes)
        self._fallback = fallback
        self._guard = guard
        self._tracker = tracker
        self._uncounted = WorkTracker()
        """Of what is answered always: no drain waits for it, and it is in no report."""
        self._draining = draining
        self._bodies = bodies
        self._gate = gate
        self._public = public
        self._fallback_methods = fallback_methods
        self._refusals = refusals

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request, or serve one WebSocket."""
        if scope.get("root_path"):
            scope = below_root(scope)
        match = self._match(scope) if scope["type"] == "http" else NO_MATCH
        headers: Headers = dict(scope["headers"])
        if self._gate.concerns(headers):
            return self._answer_browser(scope, receive, send, match, headers)
        return self._dispatch(scope, receive, send, match)

    def _answer_browser(
        self, scope: Scope, receive: Receive, send: Send, match: Match[Guarded], headers: Headers
    ) -> Awaitable[None]:
        """Answer a request that a page may have sent: a preflight by itself, and only those that may call."""
        send = self._gate.readable(send, headers)
        guarded = match.endpoint
        always = guarded is not None and guarded.always
        try:
            if not always:
                self._gate.check_host(headers)
            preflight = self._gate.preflight(scope, headers) if scope["type"] == "http" else None
            if preflight is not None:
                return Response(b"", 204, None, preflight).send(Answer(scope, send, self._memory))
            if guarded is None:
                is_guarded = self._fallback_guard(scope) is not None
                self._gate.check_page(scope, headers, is_guarded=is_guarded, takes_visits=True)
            elif not always:
                is_guarded, takes_visits = guarded.guard() is not None, guarded.takes_visits
                self._gate.check_page(scope, headers, is_guarded=is_guarded, takes_visits=takes_visits)
        except Problem as problem:
            return refuse(scope, send, problem)
        return self._dispatch(scope, receive, send, match)

    def _dispatch(self, scope: Scope, receive: Receive, send: Send, match: Match[Guarded]) -> Awaitable[None]:
        guarded = match.endpoint
        if guarded is not None and guarded.always:
            return self._answer(guarded, self._request(scope, receive, match.parameters), send, self._uncounted)
        if self._draining():
            return refuse(scope, send, Problem(503, "the service is stopping", headers=[RETRY_AFTER]))
        if guarded is not None:
            return self._answer(guarded, self._request(scope, receive, match.parameters), send, self._tracker)
        if match.allowed:
            answer = self._answer_of_method(scope, send, match.allowed)
            if answer is not None:
                return answer
            scope[ALLOW_SCOPE_KEY] = match.allowed
        return self._fall_back(self._request(scope, receive, NO_PARAMETERS), send)

    def _request(self, scope: Scope, receive: Receive, parameters: Mapping[str, str]) -> Request:
        return Request(scope, receive, parameters, self._bodies, self._active_memory)

    def _answer_of_method(self, scope: Scope, send: Send, allowed: tuple[str, ...]) -> Awaitable[None] | None:
        """What tells of the methods of a path: OPTIONS is answered by itself, a method that a public endpoint does not
        have is refused without asking for credentials. None where the fallback has the method, or has to be asked."""
        path, method = local_path(scope), scope["method"]
        others = self._fallback_methods(path)
        if method in others:
            return None
        methods = {*allowed, *others}
        if method == "OPTIONS":
            return Response(b"", 204, None, [allow_header(methods | {"OPTIONS"})]).send(
                Answer(scope, send, self._memory)
            )
        found = [self._match({**scope, "method": each}).endpoint for each in allowed]
        if any(guarded is not None and guarded.guard() is None for guarded in found):
            problem = Problem(405, "The method is not allowed for this path.", headers=[allow_header(methods)])
            return send_problem(send, problem)
        return None

    def _fallback_guard(self, scope: Scope) -> AuthProvider | None:
        """Who guards what the fallback answers."""
        guard = self._guard()
        return None if guard is None or local_path(scope) in self._public else guard

    def _match(self, scope: Scope) -> Match[Guarded]:
        raw_path: bytes = scope.get("raw_path") or b""
        if b"%2f" in raw_path or b"%2F" in raw_path:
            return self._match_with_slashes(scope, raw_path.decode("latin-1"))
        return self._routes.match(scope["method"], local_path(scope))

    def _match_with_slashes(self, scope: Scope, raw_path: str) -> Match[Guarded]:
        """What a path leads to whose encoded slashes separate nothing, but are part of a parameter (RFC 3986, 2.2)."""
        path = unquote(raw_path.replace("%2f", SLASH).replace("%2F", SLASH))
        found = self._routes.match(scope["method"], local_path({**scope, "path": path}))
        if found.endpoint is None:
            return found
        if not found.endpoint.slashes:
            return NO_MATCH
        parameters = {name: value.replace(SLASH, "/") for name, value in found.parameters.items()}
        return replace(found, parameters=parameters)

    async def _answer(self, guarded: Guarded, request: Request, send: Send, tracker: WorkTracker) -> None:
        """Answer a request to one of the agent's endpoints."""
        answer = Answer(request.scope, send, self._memory)
        with tracker.work("http") as work:
            try:
                if guarded.always:  # no code of the user's runs
                    await self._respond(guarded, request, answer)
                else:
                    await contained("a request's handler", self._respond, guarded, request, answer)
            except ClientGone:
                pass
            except BaseException as raised:
                error = isolated(raised, "a request's handler")
                if not isinstance(error, Exception):
                    raise error  # noqa: B904 - it is what was raised, or a part of it
                problem = problem_of(error)
                work.failed = problem.status >= 500
                if is_worth_a_traceback(error, problem):
                    log_failure(logger, logging.ERROR, error, "%s %r failed", request.method, request.path)
                if not answer.started:
                    await send_problem(send, problem, close=problem.status in BODY_UNREAD)
            finally:
                request.release()

    async def _respond(self, guarded: Guarded, request: Request, answer: Answer) -> None:
        response = None if guarded.unsigned is None else guarded.unsigned(request)
        if response is None:
            guard = guarded.guard()
            if guard is not None:
                request.auth = await admitted(guard, request, guarded.max_body, guarded.scope, self._refusals)
            response = await closing_what_it_leaves("a request's handler", guarded.endpoint, request)
        await response.send(answer)

    async def _fall_back(self, request: Request, send: Send) -> None:
        with self._tracker.work("http") as work, ROUTE:

            def watched(message: Message) -> Awaitable[None]:
                if message["type"] == "http.response.start" and message["status"] >= 500:
                    work.failed = True
                return send(message)

            await contained("a route", self._answer_by_fallback, request, watched)

    async def _answer_by_fallback(self, request: Request, send: Send) -> None:
        guard = self._fallback_guard(request.scope)
        if guard is not None:
            try:
                scope = scope_of(request)
                auth = await admitted(guard, request, MAX_CONTENT_LENGTH, scope, self._refusals)
                request.scope[AUTH_SCOPE_KEY] = auth
            except ClientGone:
                return
            except Problem as problem:
                await refuse(request.scope, send, problem)
                return
        await self._fallback(request.scope, request.replay, send)


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
