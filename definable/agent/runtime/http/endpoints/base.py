"""What an endpoint is, and whom it acts for.

`GET /health`: always public, and truthful.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from definable.agent.auth.base import AuthContext
from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.response import Answer, Response, json_response
from definable.agent.runtime.runs import RunRecord
from definable.server.problem import Problem


@dataclass(frozen=True, slots=True)
class HealthEndpoint:
    """200 while all is well, 503 while draining or when a child is down."""

    health: Callable[[], tuple[bool, dict[str, Any]]]

    async def __call__(self, request: Request) -> Response:
        healthy, document = self.health()
        return json_response(document, 200 if healthy else 503, [(b"cache-control", b"no-store")])


class Sendable(Protocol):
    """Something to answer with."""

    def send(self, answer: Answer, /) -> Awaitable[None]:
        """Answer a request; what it raises becomes the response, unless one has started."""
        ...


class Endpoint(Protocol):
    """Answers requests to one path and method."""

    async def __call__(self, request: Request) -> Sendable: ...


def acting_user(auth: AuthContext | None, claimed: str | None) -> str | None:
    """Whose request it is: the caller's own, or that of a user it may act for.

    Raises:
        Problem: 403, the caller may not act for the user it names.
    """
    if auth is None or claimed == auth.user_id:
        return claimed
    if claimed is None:
        return auth.user_id
    if not auth.may_act_for_others:
        raise Problem(403, "this caller may not act for another user")
    return claimed


def may_see(auth: AuthContext | None, record: RunRecord) -> bool:
    """Whether a caller may see and cancel a run.

    On an open agent everybody may, else the caller who asked for it and an admin. A run that no caller asked for is
    visible to the user for whom an event's handler or a cron job made it.
    """
    if auth is None or auth.is_admin:
        return True
    if record.namespace:
        return record.namespace == auth.namespace
    return record.user_id == auth.user_id
