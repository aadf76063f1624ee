"""From a request to the event that a webhook's handler gets."""

from __future__ import annotations

from typing import Any

from definable.agent.runtime.clock import current_clock
from definable.agent.runtime.http.body import parsed
from definable.agent.runtime.http.request import Request
from definable.agent.trigger.base import RawRequest, TriggerEvent
from definable.agent.trigger.webhook import Webhook


def webhook_event(webhook: Webhook, request: Request, body: bytes) -> TriggerEvent:
    """What the handler of a webhook gets."""
    scope = request.scope
    headers: Any = request.headers  # decoded when the handler asks for them
    # By position: a class takes twice the time to be called by names.
    raw = RawRequest(
        scope["method"],
        scope["path"],
        request.path_params,
        request.query,
        headers,
        body,
        request.client,
        request.auth,
        scope.get("scheme", "http"),
        scope.get("raw_path") or b"",
        scope["query_string"].decode("latin-1"),
    )
    return TriggerEvent(parsed(request.content_type, body), headers, webhook.source, current_clock().now(), raw)
