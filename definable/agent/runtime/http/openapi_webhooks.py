"""Webhooks, as the OpenAPI document has them."""

from __future__ import annotations

import inspect
from typing import Any

from definable.agent.trigger.webhook import PARAMETER, Webhook

from .openapi_operations import in_path
from .openapi_responses import LOCATION, json_answer, problems
from .openapi_schemas import Accepted, Acknowledged, WebhookRun

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
