"""`/sessions/{session_id}`: its history, and forgetting it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from definable.agent.runtime.http.documents import session_document
from definable.agent.runtime.http.problem import Problem
from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.response import Response, json_response
from definable.agent.session.base import Session, SessionStore

from .base import Sendable, may_see


async def visible_session(sessions: SessionStore, request: Request) -> Session:
    """The session that a request names.

    Raises:
        Problem: 404, there is none, or it is another user's: the two are told apart to nobody.
    """
    session = await sessions.load(request.path_params["session_id"])
    if session is None or not may_see(request.auth, session.user_id):
        raise Problem(404, "there is no such session")
    return session


@dataclass(frozen=True, slots=True)
class ShowSessionEndpoint:
    """`GET /sessions/{session_id}`."""

    sessions: SessionStore

    async def __call__(self, request: Request) -> Sendable:
        return json_response(session_document(await visible_session(self.sessions, request)))


@dataclass(frozen=True, slots=True)
class ForgetSessionEndpoint:
    """`DELETE /sessions/{session_id}`: 204 when it is forgotten."""

    sessions: SessionStore
    forget: Callable[[str], Awaitable[bool]]
    """Waits for the session's turn."""

    async def __call__(self, request: Request) -> Sendable:
        session = await visible_session(self.sessions, request)
        await self.forget(session.session_id)
        return Response(b"", 204)
