"""The OpenAPI 3.1 document of a served agent: pure. `/openapi.json` serves it, `/docs` shows it.

Made from the table in `routes.py`, the models in `documents.py`, the agent's webhooks and its auth providers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from definable import __version__
from definable.agent.auth.base import AuthProvider, needs_body
from definable.agent.trigger.webhook import PARAMETER, Webhook
from definable.server.problem import MEDIA_TYPE as PROBLEM_TYPE

from .documents import Accepted, Acknowledged, Event, Parameter, Problem, WebhookRun
from .openapi_security import SecuritySchemes, unused
from .routes import OPERATIONS, Answer, Operation
from .sse import MEDIA_TYPE as EVENT_STREAM

VERSION = "3.1.1"
"""Of the specification: https://spec.openapis.org/oas/v3.1.1.html"""

REF_TEMPLATE = "#/components/schemas/{model}"


def openapi_document(
    name: str, webhooks: Iterable[Webhook] = (), auth: AuthProvider | None = None, *, root_path: str = ""
) -> dict[str, Any]:
    """Describe a served agent.

    Args:
        name: The service's name.
        webhooks: Its webhooks.
        auth: The provider of what has none of its own; None leaves it open.
        root_path: Where another application has mounted it.
    """
    security = SecuritySchemes()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if not operation.is_for_development:
            described = built_in_operation(operation)
            if operation.is_public:
                described["security"] = []
            else:
                add_security(described, auth, security)
            paths.setdefault(operation.path, {})[operation.method.lower()] = described
    add_webhooks(paths, webhooks, auth, security)
    return {
        "openapi": VERSION,
        "info": {"title": name, "version": __version__},
        "servers": [{"url": quote(root_path.rstrip("/")) or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": problem_responses(),
            "securitySchemes": security.definitions,
        },
    }


def built_in_operation(operation: Operation) -> dict[str, Any]:
    """One line of the table."""
    described: dict[str, Any] = {
        "operationId": operation.endpoint.__name__,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    parameters = [*map(in_path, PARAMETER.findall(operation.path)), *map(parameter, operation.parameters)]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": reference(operation.body), "example": {"input": "hello"}}}
        described["requestBody"] = {"required": True, "content": content}
    answers = {str(status): response(answer) for status, answer in operation.answers.items()}
    described["responses"] = answers | problems(operation.problems)
    return described


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
        for method in webhook.methods:
            name = unused("_".join([method.lower(), *re.findall("[A-Za-z0-9]+", webhook.path)]), taken)
            taken.add(name)
            operation = {"operationId": name, **webhook_operation(webhook, method, path)}
            own = None if webhook.auth is False else webhook.auth
            add_security(operation, inherited if webhook.auth is None else own, security)
            paths.setdefault(path, {})[method.lower()] = operation


def add_security(operation: dict[str, Any], provider: AuthProvider | None, security: SecuritySchemes) -> None:
    """Say who may call an operation, and what those who may not are answered, or anybody of a service in trouble."""
    statuses = [403, 421, 500, 503]
    if provider is not None:
        statuses += [401]
        if needs_body(provider):
            statuses += [408, 413]
    operation["security"] = security.requirements(provider)
    operation["responses"].update(problems(statuses))


def in_path(name: str) -> dict[str, Any]:
    """A path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def parameter(found: Parameter) -> dict[str, Any]:
    """A header or a query parameter."""
    return {"name": found.name, "in": found.place, "description": found.description, "schema": {**found.schema}}


# --- schemas and responses


class WithoutFieldTitles(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of field names: they repeat them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def schemas() -> dict[str, Any]:
    """The JSON schemas (2020-12, as OpenAPI 3.1 has them) of all models, by name; those within them come along."""
    answers = [answer for operation in OPERATIONS for answer in operation.answers.values()]
    models = dict.fromkeys(
        [*(model for answer in answers for model in answer.models), Event, WebhookRun, Acknowledged, Accepted, Problem]
    )
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, definitions = models_json_schema(
        [*((body, "validation") for body in bodies), *((model, "serialization") for model in models)],
        ref_template=REF_TEMPLATE,
        schema_generator=WithoutFieldTitles,
    )
    return definitions["$defs"]


def reference(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model's schema."""
    return {"$ref": REF_TEMPLATE.format(model=model.__name__)}


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


def response(answer: Answer) -> dict[str, Any]:
    """A response: JSON of one model or one of several, a stream of events, or one without a body."""
    described: dict[str, Any] = {"description": answer.description}
    references = [reference(model) for model in answer.models]
    content: dict[str, Any] = {}
    if references:
        schema = references[0] if len(references) == 1 else {"anyOf": references}
        content["application/json"] = {"schema": schema}
    if answer.streams:
        content |= STREAM
    if content:
        described["content"] = content
    if answer.headers:
        described["headers"] = {name: header(said) for name, said in answer.headers.items()}
    return described


def header(description: str, kind: str = "string") -> dict[str, Any]:
    """A response's header."""
    return {"description": description, "schema": {"type": kind}}


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
    401: {"WWW-Authenticate": header("How to authenticate.")},
    503: {"Retry-After": header("Seconds to wait.", "integer")},
}


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


# --- webhooks


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


def webhook_operation(webhook: Webhook, method: str, path: str) -> dict[str, Any]:
    """A webhook's operation, under a path whose parameters may have other names than its own."""
    operation: dict[str, Any] = {
        "tags": ["webhooks"],
        **words(webhook),
        "parameters": [*map(in_path, PARAMETER.findall(path)), *delivery_name(webhook)],
        "responses": responses(webhook),
    }
    if webhook.body is not None:
        operation["requestBody"] = {"required": True, "content": body_content(webhook.body)}
        operation["responses"] |= problems([422])
    elif method not in BODILESS:
        description = f"Anything, at most {webhook.max_body} bytes."
        operation["requestBody"] = {"description": description, "content": ANY_BODY}
    return operation


def body_content(kind: Any) -> dict[str, Any]:
    """What a webhook's body must be, with all that its schema refers to within it."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    schema = adapter.json_schema()
    content = {"schema": inlined(schema, schema.pop("$defs", {}), ())}
    return {"application/json": content, "application/x-www-form-urlencoded": content}


def inlined(schema: Any, definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """A schema with what it refers to in place of the references; what refers to itself is left open there."""
    if isinstance(schema, list):
        return [inlined(each, definitions, within) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = cast("dict[str, Any]", schema)
    name = str(fields.get("$ref", "")).removeprefix("#/$defs/")
    if name in definitions:
        return {} if name in within else inlined(definitions[name], definitions, (*within, name))
    return {key: inlined(value, definitions, within) for key, value in fields.items() if key != "discriminator"}


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
    return [parameter(Parameter(webhook.dedupe, "Names the delivery: a repeat is not handled again."))]


def responses(webhook: Webhook) -> dict[str, Any]:
    """What the sender may be answered."""
    if webhook.respond == "accept":
        location = {"Location": "Where the run can be followed."}
        models = (Accepted,) if webhook.coalesce is None else (Accepted, Acknowledged)
        answers = {"202": response(Answer("Accepted, to be handled later.", models, headers=location))}
        if webhook.dedupe is not None or webhook.filter is not None:
            answers["200"] = response(Answer("Accepted before, or not wanted.", (Acknowledged,)))
        if webhook.challenge is not None or webhook.before_accept is not None:
            answers["default"] = OWN_REPLY
        return answers | problems([400, 408, 413, 415])
    done = response(Answer("Handled: what came of it.", (WebhookRun, Acknowledged)))
    done["content"]["application/json"]["schema"]["anyOf"].append({"description": "What the handler returned."})
    return {"200": done, "default": OWN_REPLY} | problems([400, 404, 408, 409, 413, 415, 502, 504])
