"""`GET /openapi.json`: what this service is, for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from definable.agent.auth.base import AuthProvider
from definable.agent.runtime.http.openapi import openapi_document
from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.response import Response, json_response
from definable.agent.trigger.webhook import Webhook


@dataclass(frozen=True, slots=True)
class OpenAPIEndpoint:
    """The OpenAPI document, made anew for every request: `agent.auth` may be set late."""

    name: str
    webhooks: Sequence[Webhook]
    guard: Callable[[], AuthProvider | None]

    async def __call__(self, request: Request) -> Response:
        root_path: str = request.scope.get("root_path", "")
        document = openapi_document(self.name, self.webhooks, self.guard(), root_path=root_path)
        return json_response(document, headers=[(b"cache-control", b"no-store")])
