"""`GET /health`: always public, and truthful."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.response import Response, json_response


@dataclass(frozen=True, slots=True)
class HealthEndpoint:
    """200 while all is well, 503 while draining or when a child is down."""

    health: Callable[[], tuple[bool, dict[str, Any]]]

    async def __call__(self, request: Request) -> Response:
        healthy, document = self.health()
        return json_response(document, 200 if healthy else 503, [(b"cache-control", b"no-store")])
