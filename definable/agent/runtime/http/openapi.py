"""The OpenAPI 3.1 document of a served agent: pure. `/openapi.json` serves it, `/docs` shows it.

It is put together from the models in `openapi_schemas.py`, the built-in endpoints in `openapi_operations.py`, the
agent's webhooks (`openapi_webhooks.py`) and its auth providers (`openapi_security.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from definable import __version__
from definable.agent.auth.base import AuthProvider
from definable.agent.auth.consult import needs_body
from definable.agent.trigger.webhook import PARAMETER, Webhook

from .openapi_names import operation_stem, unused
from .openapi_operations import built_in_paths, health
from .openapi_responses import problem_responses, problems
from .openapi_schemas import schemas
from .openapi_security import SecuritySchemes
from .openapi_webhooks import webhook_operation

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
