"""The OpenAPI 3.1 document of a served agent: pure. `/openapi.json` serves it, `/docs` shows it.

It is put together from the models in `schemas.py`, the built-in endpoints in `openapi.py`, the
agent's webhooks (`openapi.py`) and its auth providers (`openapi.py`).

Names within the OpenAPI document: no two alike.

The built-in endpoints, as the OpenAPI document has them; `openapi.py` adds who may call them.

Responses, as the OpenAPI document has them. Errors are defined once and referred to.

Webhooks, as the OpenAPI document has them.

Who may call what, as the OpenAPI document says it: auth providers become security schemes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Iterable, Iterator
from itertools import chain, count
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from definable import __version__
from definable.agent.auth.base import AuthProvider, needs_body, speaks_on
from definable.agent.auth.jwt import JWTAuth
from definable.agent.auth.providers import APIKeyAuth, CompositeAuth
from definable.agent.auth.signature import SignatureVerifier
from definable.agent.trigger.webhook import PARAMETER, Webhook
from definable.server.problem import MEDIA_TYPE as PROBLEM_TYPE

from .endpoints.run import RunBody
from .endpoints.runs import DEFAULT_LIMIT, MAX_LIMIT, PLACE
from .schemas import (
    Accepted,
    Acknowledged,
    CompletedRun,
    Event,
    Health,
    Problem,
    Run,
    RunList,
    RunState,
    Session,
    WebhookRun,
    reference,
    schemas,
)
from .sse import MEDIA_TYPE as EVENT_STREAM


def unused(stem: str, taken: Container[str]) -> str:
    """The stem, with a number when it is taken."""
    candidates = chain([stem], (f"{stem}_{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def operation_stem(webhook: Webhook) -> str:
    """What a webhook's operation is called: `post_github_repo` for `POST /github/{repo}`."""
    return "_".join([webhook.method.lower(), *re.findall("[A-Za-z0-9]+", webhook.path)])


SIGNATURE_HEADERS = {
    "github": "X-Hub-Signature-256",
    "slack": "X-Slack-Signature",
    "standard_webhooks": "webhook-signature",
    "stripe": "Stripe-Signature",
}
"""Where each scheme carries its signature."""


class SecuritySchemes:
    """The security schemes of one document: one for each provider, however many endpoints it guards."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, str]] = {}
        """Schemes by name, as the document's components have them."""
        self._names: dict[int, str] = {}

    def requirements(self, provider: AuthProvider | None) -> list[dict[str, list[str]]]:
        """What a caller needs for an endpoint: one of these; none for a public one."""
        if provider is None:
            return []
        return [{self._name(way): []} for way in ways_in(provider)]

    def _name(self, provider: AuthProvider) -> str:
        known = self._names.get(id(provider))
        if known is not None:
            return known
        stem, definition = scheme_of(provider)
        name = unused(stem, self.definitions)
        self._names[id(provider)] = name
        self.definitions[name] = definition
        return name


def ways_in(provider: AuthProvider) -> Iterator[AuthProvider]:
    """The providers that may accept an HTTP request, each on its own; the one that is given, where none of them may."""
    if not isinstance(provider, CompositeAuth) or not speaks_on(provider, "http"):
        yield provider
        return
    for part in provider.providers:
        if speaks_on(part, "http"):
            yield from ways_in(part)


def scheme_of(provider: AuthProvider) -> tuple[str, dict[str, str]]:
    """A provider's security scheme, with a name for it."""
    match provider:
        case APIKeyAuth():
            return "api_key", in_header(provider.header, "An API key.")
        case JWTAuth():
            return "jwt", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        case SignatureVerifier() if provider.scheme in SIGNATURE_HEADERS:
            header = SIGNATURE_HEADERS[provider.scheme]
            return f"{provider.scheme}_signature", in_header(header, "The sender's signature of the body.")
        case _:
            return "authorization", in_header("Authorization", f"What {type(provider).__name__} accepts.")


def in_header(name: str, description: str) -> dict[str, str]:
    """A scheme whose credentials are a header's whole value."""
    return {"type": "apiKey", "in": "header", "name": name, "description": description}


PROBLEMS = {
    400: "The request is malformed.",
    401: "The credentials are missing or wrong.",
    403: "A web page of this origin may not call, or the caller may not do this or act for the user that it names.",
    404: "There is no such thing, or it is another user's.",
    408: "The request body did not come in in time.",
    409: "It cannot be done now: the run was cancelled, or has ended already, or the delivery is being handled, or the "
    "request has a `Last-Event-ID` and began a run already: `events` says where its events are.",
    413: "The request body is too large.",
    415: "The request body is of a type that is not understood.",
    421: "The service does not answer to this host name.",
    422: "A field is wrong or missing; `errors` names it.",
    500: "The service failed.",
    502: "The model's provider failed.",
    503: "The service is saturated or stopping; try again later.",
    504: "The model's provider, or the run, did not end in time.",
}
"""What each error status means here."""

PROBLEM_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
}

LOCATION: dict[str, Any] = {"Location": {"description": "Where the run can be followed.", "schema": {"type": "string"}}}


def problem_responses() -> dict[str, Any]:
    """The definitions that `problems` refers to."""
    return {component(status): problem_response(status) for status in PROBLEMS}


def problem_response(status: int) -> dict[str, Any]:
    """The definition of one error response."""
    response: dict[str, Any] = {
        "description": PROBLEMS[status],
        "content": {PROBLEM_TYPE: {"schema": reference(Problem)}},
    }
    headers = PROBLEM_HEADERS.get(status)
    return response if headers is None else response | {"headers": headers}


def problems(statuses: Iterable[int]) -> dict[str, Any]:
    """References to error responses, by status."""
    return {str(status): {"$ref": f"#/components/responses/{component(status)}"} for status in statuses}


def component(status: int) -> str:
    """The name of an error response among the document's components."""
    return f"Problem{status}"


def json_answer(description: str, *models: type[BaseModel]) -> dict[str, Any]:
    """A JSON response: one model, or one of several."""
    references = [reference(model) for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


EVENT_STREAM_EXAMPLE = """\
id: 1
event: run_started
data: {"run_id":"run_1","session_id":"session_1"}

id: 2
event: text_delta
data: {"text":"hello"}

"""

STREAM: dict[str, Any] = {EVENT_STREAM: {"schema": reference(Event), "example": EVENT_STREAM_EXAMPLE}}
"""Before OpenAPI 3.2 there is no other place for the schema of one event than that of the stream."""

PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async` answers 202 at once and makes the run in the background (RFC 7240).",
    "schema": {"type": "string"},
}

LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The last event that the client has: those after it are sent.",
    "schema": {"type": "string", "pattern": "^[0-9]*$"},
}

LIMIT: dict[str, Any] = {
    "name": "limit",
    "in": "query",
    "description": "How many runs are wanted at most.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
}

AFTER: dict[str, Any] = {
    "name": "after",
    "in": "query",
    "description": "The `next` of the page before.",
    "schema": {"type": "string", "pattern": f"^{PLACE.pattern}$"},
}

PREFERENCE_APPLIED: dict[str, Any] = {
    "Preference-Applied": {"description": "`respond-async`.", "schema": {"type": "string"}}
}


def built_in_paths() -> dict[str, dict[str, Any]]:
    """The built-in paths with their guarded operations, by method; `/health`, which nobody guards, aside."""
    return {
        "/run": {"post": run()},
        "/runs": {"get": list_runs()},
        "/runs/{run_id}": {"get": show_run(), "delete": cancel_run()},
        "/runs/{run_id}/events": {"get": follow_run()},
        "/sessions/{session_id}": {"get": show_session(), "delete": forget_session()},
    }


def run() -> dict[str, Any]:
    answer = json_answer("The run has ended well; as events, it has begun.", Run)
    accepted = json_answer("The run is queued.", RunState)
    return {
        "operationId": "run",
        "tags": ["runs"],
        "summary": "Run the agent",
        "description": "A client that goes away cancels the run that it waits for.",
        "parameters": [PREFER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference(RunBody), "example": {"input": "hello"}}},
        },
        "responses": {
            "200": answer | {"content": answer["content"] | STREAM},
            "202": accepted | {"headers": LOCATION | PREFERENCE_APPLIED},
            **problems([400, 404, 408, 409, 413, 415, 422, 502, 504]),
        },
    }


def list_runs() -> dict[str, Any]:
    return {
        "operationId": "list_runs",
        "tags": ["runs"],
        "summary": "List recent and active runs",
        "description": "Queued runs, then active, then ended ones, each newest first. A run that goes on between two "
        "pages may be in both; none is missed.",
        "parameters": [LIMIT, AFTER],
        "responses": {"200": json_answer("The runs.", RunList), **problems([422])},
    }


def show_run() -> dict[str, Any]:
    return {
        "operationId": "show_run",
        "tags": ["runs"],
        "summary": "Show a run",
        "parameters": [in_path("run_id")],
        "responses": {"200": json_answer("The run.", CompletedRun, RunState), **problems([404])},
    }


def cancel_run() -> dict[str, Any]:
    return {
        "operationId": "cancel_run",
        "tags": ["runs"],
        "summary": "Cancel a run",
        "parameters": [in_path("run_id")],
        "responses": {"202": {"description": "The run is being cancelled."}, **problems([404, 409])},
    }


def follow_run() -> dict[str, Any]:
    return {
        "operationId": "follow_run",
        "tags": ["runs"],
        "summary": "Follow a run",
        "description": "Leaving does not cancel the run. A stream that ends without a last event was cut off, say by a "
        "stop of a service on a durable bus: follow the run again with `Last-Event-ID`.",
        "parameters": [in_path("run_id"), LAST_EVENT_ID],
        "responses": {
            "200": {"description": "The run's events, until it ends.", "content": STREAM},
            "204": {"description": "The client has the last event already."},
            **problems([400, 404, 413]),
        },
    }


def show_session() -> dict[str, Any]:
    return {
        "operationId": "show_session",
        "tags": ["sessions"],
        "summary": "Show a session with its history",
        "parameters": [in_path("session_id"), ACTING_FOR],
        "responses": {"200": json_answer("The session.", Session), **problems([404, 409])},
    }


def forget_session() -> dict[str, Any]:
    return {
        "operationId": "forget_session",
        "tags": ["sessions"],
        "summary": "Forget a session",
        "parameters": [in_path("session_id"), ACTING_FOR],
        "responses": {"204": {"description": "The session is forgotten."}, **problems([404, 409])},
    }


def health() -> dict[str, Any]:
    """The operation of `/health`, which everybody may ask."""
    return {
        "operationId": "health",
        "tags": ["service"],
        "summary": "Show how the service is",
        "responses": {
            "200": json_answer("All is well.", Health),
            "503": json_answer("The service is stopping, or a part of it is down.", Health),
        },
        "security": [],
    }


ACTING_FOR: dict[str, Any] = {
    "name": "user_id",
    "in": "query",
    "description": "Whom a caller acts for that may act for others.",
    "schema": {"type": "string"},
}


def in_path(name: str) -> dict[str, Any]:
    """A path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


ANY_BODY: dict[str, dict[str, Any]] = {
    "application/json": {"schema": {}},
    "application/x-www-form-urlencoded": {"schema": {"type": "object"}},
    "multipart/form-data": {"schema": {"type": "object"}},
    "text/plain": {"schema": {"type": "string"}},
    "application/octet-stream": {},
}
"""What is parsed, and how everything else is taken."""

BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
"""Methods whose body has no meaning (RFC 9110, 9.3)."""

OWN_REPLY: dict[str, Any] = {"description": "The handler's own reply, of any status and type.", "content": {"*/*": {}}}


def webhook_operation(webhook: Webhook, path: str) -> dict[str, Any]:
    """A webhook's operation, under a path whose parameters may have other names than its own."""
    operation: dict[str, Any] = {
        "tags": ["webhooks"],
        **words(webhook),
        "parameters": [*map(in_path, PARAMETER.findall(path)), *delivery_name(webhook)],
        "responses": responses(webhook),
    }
    if webhook.method not in BODILESS:
        description = f"Anything, at most {webhook.max_body} bytes."
        operation["requestBody"] = {"description": description, "content": ANY_BODY}
    return operation


def words(webhook: Webhook) -> dict[str, str]:
    """Summary and description: the handler's docstring, or its name."""
    handler = webhook.handler
    name = getattr(handler, "__name__", type(handler).__name__)
    documentation = (inspect.getdoc(handler) or "") if inspect.isroutine(handler) else ""
    summary, _, description = documentation.partition("\n")
    found = {"summary": summary.strip() or name, "description": description.strip()}
    return {key: value for key, value in found.items() if value}


def delivery_name(webhook: Webhook) -> list[dict[str, Any]]:
    """The header that names a delivery, where the webhook looks at one."""
    if not isinstance(webhook.dedupe, str):
        return []
    description = "Names the delivery: a repeat is not handled again."
    return [{"name": webhook.dedupe, "in": "header", "description": description, "schema": {"type": "string"}}]


def responses(webhook: Webhook) -> dict[str, Any]:
    """What the sender may be answered."""
    if webhook.respond == "accept":
        accepted = {"202": json_answer("Accepted, to be handled later.", Accepted) | {"headers": LOCATION}}
        if webhook.dedupe is not None or webhook.filter is not None:
            accepted["200"] = json_answer("Accepted before, or not wanted.", Acknowledged)
        if webhook.challenge is not None or webhook.before_accept is not None:
            accepted["default"] = OWN_REPLY
        return accepted | problems([400, 408, 413, 415])
    done = json_answer("Handled: what came of it.", WebhookRun, Acknowledged)
    done["content"]["application/json"]["schema"]["anyOf"].append({"description": "What the handler returned."})
    return {"200": done, "default": OWN_REPLY} | problems([400, 404, 408, 409, 413, 415, 502, 504])


VERSION = "3.1.1"
"""Of the specification: https://spec.openapis.org/oas/v3.1.1.html"""


def openapi_document(
    name: str, webhooks: Iterable[Webhook] = (), auth: AuthProvider | None = None, *, root_path: str = ""
) -> dict[str, Any]:
    """Describe a served agent.

    Args:
        name: The service's name.
        webhooks: Its webhooks.
        auth: Who guards what has no guard of its own; None leaves it open.
        root_path: Where another application has mounted it.
    """
    security = SecuritySchemes()
    paths = built_in_paths()
    for operation in [operation for item in paths.values() for operation in item.values()]:
        guard(operation, auth, security)
    add_webhooks(paths, webhooks, auth, security)
    return {
        "openapi": VERSION,
        "info": {"title": name, "version": __version__},
        "servers": [{"url": quote(root_path.rstrip("/")) or "/"}],
        "paths": paths | {"/health": {"get": health()}},
        "components": {
            "schemas": schemas(),
            "responses": problem_responses(),
            "securitySchemes": security.definitions,
        },
    }


def add_webhooks(
    paths: dict[str, dict[str, Any]],
    webhooks: Iterable[Webhook],
    inherited: AuthProvider | None,
    security: SecuritySchemes,
) -> None:
    """Add the webhooks' operations; paths that differ in their parameters' names alone are one (Paths Object)."""
    spelt: dict[str, str] = {}
    taken: set[str] = set()
    for webhook in webhooks:
        path = spelt.setdefault(PARAMETER.sub("{}", webhook.path), webhook.path)
        name = unused(operation_stem(webhook), taken)
        taken.add(name)
        operation = {"operationId": name, **webhook_operation(webhook, path)}
        own = None if webhook.auth is False else webhook.auth
        guard(operation, inherited if webhook.auth is None else own, security)
        paths.setdefault(path, {})[webhook.method.lower()] = operation


def guard(operation: dict[str, Any], provider: AuthProvider | None, security: SecuritySchemes) -> None:
    """Say who may call an operation, and what those who may not are answered, or anybody of a service in trouble."""
    statuses = [403, 421, 500, 503]
    if provider is not None:
        statuses += [401]
        if needs_body(provider):
            statuses += [408, 413]
    operation["security"] = security.requirements(provider)
    operation["responses"].update(problems(statuses))
