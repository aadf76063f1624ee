"""The agent's HTTP API as one table: routing, `/openapi.json` and the table in `docs/http.md` are made from it.

An endpoint is a function in `endpoints/`; adding one touches its own file and a line of `OPERATIONS`. `agent_router`
adds the agent's webhooks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from pydantic import BaseModel

from definable.agent.auth.base import AuthProvider
from definable.agent.trigger.registry import BuiltInPath
from definable.agent.trigger.webhook import DEFAULT_MAX_BODY, Webhook

from .documents import CompletedRun, Document, Health, Parameter, Run, RunBody, RunList, RunState, Session
from .endpoints.runs import AFTER, LAST_EVENT_ID, LIMIT, cancel_run, follow_run, list_runs, run, show_run
from .endpoints.service import ACTING_FOR, docs_files, forget_session, health, show_docs, show_openapi, show_session
from .endpoints.webhook import answer_handshake, answer_webhook, unsigned_answer
from .request import EndpointContext, Request
from .response import Sendable
from .router import Router

AuthSource: TypeAlias = Callable[[], AuthProvider | None]
"""Asked at every request, since `agent.auth` may be set late; None lets everybody in."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One way to answer an operation, for the OpenAPI document."""

    description: str
    models: tuple[type[Document], ...] = ()
    """What the body is: one of these."""
    streams: bool = False
    """Whether it may be a stream of events instead."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Headers that it has, and what they say."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the table: an endpoint, where it is found, and what a client should know of it."""

    method: str
    path: BuiltInPath
    endpoint: Callable[[EndpointContext, Request], Awaitable[Sendable]]
    """Its name is the operation's id."""
    summary: str
    tag: str
    answers: Mapping[int, Answer]
    problems: Sequence[int] = ()
    """Statuses of errors, beside those that every endpoint may answer with."""
    parameters: Sequence[Parameter] = ()
    """Those that are not in the path."""
    body: type[BaseModel] | None = None
    description: str = ""
    is_public: bool = False
    """Whether no credentials are asked for; else those of `agent.auth`: to read for GET, to run for other methods."""
    is_always_served: bool = False
    """Whether it is answered while the service drains, and to whatever page or host name."""
    is_for_development: bool = False
    """Whether it is served in development mode alone, and not documented."""


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/run",
        run,
        "Run the agent",
        "runs",
        {
            200: Answer("The run has ended well; as events, it has begun.", (Run,), streams=True),
            202: Answer(
                "The run is queued.",
                (RunState,),
                headers={"Location": "Where the run can be followed.", "Preference-Applied": "`respond-async`."},
            ),
        },
        problems=(400, 404, 408, 409, 413, 415, 422, 502, 504),
        parameters=(
            Parameter(
                "Idempotency-Key",
                "The same key gets the same run, for a day: a repeat is answered as the first, 409 while that goes on, "
                "422 where its body is another. The run goes on when its client leaves.",
            ),
            Parameter("Prefer", "`respond-async` answers 202 at once and makes the run in the background (RFC 7240)."),
        ),
        body=RunBody,
        description="A client that goes away cancels the run that it waits for.",
    ),
    Operation(
        "GET",
        "/runs",
        list_runs,
        "List recent and active runs",
        "runs",
        {200: Answer("The runs.", (RunList,))},
        problems=(422,),
        parameters=(LIMIT, AFTER),
        description="Queued runs, then active, then ended ones, each newest first. A run that goes on between two "
        "pages may be in both; none is missed.",
    ),
    Operation(
        "GET",
        "/runs/{run_id}",
        show_run,
        "Show a run",
        "runs",
        {200: Answer("The run.", (CompletedRun, RunState))},
        problems=(404,),
    ),
    Operation(
        "DELETE",
        "/runs/{run_id}",
        cancel_run,
        "Cancel a run",
        "runs",
        {202: Answer("The run is being cancelled.")},
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/runs/{run_id}/events",
        follow_run,
        "Follow a run",
        "runs",
        {
            200: Answer("The run's events, until it ends.", streams=True),
            204: Answer("The client has the last event already."),
        },
        problems=(400, 404, 413),
        parameters=(LAST_EVENT_ID,),
        description="Leaving does not cancel the run. A stream that ends without a last event was cut off, say by a "
        "stop of a service on a durable bus: follow the run again with `Last-Event-ID`.",
    ),
    Operation(
        "GET",
        "/sessions/{session_id}",
        show_session,
        "Show a session with its history",
        "sessions",
        {200: Answer("The session.", (Session,))},
        problems=(404, 409),
        parameters=(ACTING_FOR,),
    ),
    Operation(
        "DELETE",
        "/sessions/{session_id}",
        forget_session,
        "Forget a session",
        "sessions",
        {204: Answer("The session is forgotten.")},
        problems=(404, 409),
        parameters=(ACTING_FOR,),
    ),
    Operation(
        "GET",
        "/health",
        health,
        "Show how the service is",
        "service",
        {
            200: Answer("All is well.", (Health,)),
            503: Answer("The service is stopping, or a part of it is down.", (Health,)),
        },
        is_public=True,
        is_always_served=True,
    ),
    Operation(
        "GET", "/docs", show_docs, "Read and try the API", "service", {}, is_public=True, is_for_development=True
    ),
    Operation(
        "GET", "/openapi.json", show_openapi, "Describe the API", "service", {}, is_public=True, is_for_development=True
    ),
)


@dataclass(frozen=True, slots=True)
class Route:
    """What the ASGI entry needs to know to answer requests to one method and path."""

    endpoint: Callable[[Request], Awaitable[Sendable]]
    auth_provider: AuthSource
    max_body: int = DEFAULT_MAX_BODY
    """Bytes of a body that the provider may want to see."""
    scope: str = "run"
    """What a caller must be allowed to do."""
    is_always_served: bool = False
    """See `Operation`."""
    unsigned: Callable[[Request], Sendable | None] | None = None
    """Asked before the provider: what it answers is for everybody."""
    takes_slashes: bool = False
    """Whether a parameter of its path may hold a slash, which a client encodes: ids may, what a webhook's handler may
    take for a file's name may not."""
    takes_visits: bool = True
    """Whether pages of other sites may link to it, where it answers GET: not where a GET has an effect."""
    is_embeddable: bool = False
    """Whether pages of other sites may link to it, load it and show it in a frame: see `Webhook`."""


def agent_router(
    context: EndpointContext, webhooks: Sequence[Webhook], auth_provider: AuthSource, *, is_development: bool = False
) -> Router[Route]:
    """The built-in endpoints first, then the agent's webhooks.

    Args:
        context: What the endpoints use.
        webhooks: The agent's.
        auth_provider: Of what has no provider of its own.
        is_development: Whether `/docs` and `/openapi.json` are served.
    """
    router: Router[Route] = Router()
    for operation in OPERATIONS:
        if is_development or not operation.is_for_development:
            router.add(operation.method, operation.path, _route(operation, context, auth_provider))
    for path, endpoint in docs_files() if is_development else ():
        router.add("GET", path, Route(endpoint, no_auth))
    for webhook in webhooks:
        route = Route(
            partial(answer_webhook, context, webhook),
            provider_of(webhook, auth_provider),
            webhook.max_body,
            unsigned=None if webhook.challenge is None else partial(unsigned_answer, webhook),
            takes_visits=False,
            is_embeddable=webhook.embeddable,
        )
        for method in webhook.methods:
            router.add(method, webhook.path, route)
    for webhook in webhooks:  # behind all webhooks: a GET of one's own comes first
        if webhook.challenge is not None:
            router.add("GET", webhook.path, Route(partial(answer_handshake, webhook), no_auth))
    return router


def _route(operation: Operation, context: EndpointContext, auth_provider: AuthSource) -> Route:
    return Route(
        partial(operation.endpoint, context),
        no_auth if operation.is_public else auth_provider,
        scope="read" if operation.method == "GET" else "run",
        is_always_served=operation.is_always_served,
        takes_slashes=not operation.is_public,
    )


def no_auth() -> None:
    """Of a public endpoint."""


def provider_of(webhook: Webhook, inherited: AuthSource) -> AuthSource:
    """A webhook's own provider, none, or the agent's."""
    auth = webhook.auth
    if auth is None:
        return inherited
    return no_auth if auth is False else lambda: auth
