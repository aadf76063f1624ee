"""`/sessions/{session_id}`: its history, and forgetting it; and which session a caller means by an id.

A caller's sessions live in its namespace of the store (`AuthContext.namespace`): the same id of two callers is two
sessions, so that nobody can tell an id that others use from a free one, or take it from them. Sessions of an open
agent, of handlers and of `arun` have their ids as they are. So have those that a caller began before there were
namespaces: they are found as long as they are stored, by the user that owns them.
"""

from __future__ import annotations

from definable.agent.auth.base import NAMESPACED, AuthContext
from definable.agent.runtime.http.documents import Parameter, session_document
from definable.agent.runtime.http.request import EndpointContext, Request
from definable.agent.runtime.http.response import Response, json_response
from definable.agent.session.base import Session
from definable.agent.session.service import SessionService
from definable.errors import SessionNotFound
from definable.server.problem import Problem

ACTING_FOR = Parameter("user_id", "Whom a caller acts for that may act for others.", place="query")


async def key_of_session(
    sessions: SessionService, auth: AuthContext | None, user_id: str | None, session_id: str
) -> str:
    """The id in the store of the session in which a run is to go on, or which it begins.

    Args:
        sessions: The agent's.
        auth: Who asks for the run; None on an open agent.
        user_id: Whose run it is.
        session_id: As the caller has it.

    Raises:
        SessionNotFound: The session belongs to another user for whom the same caller acts, or, on an open agent, to
            another user.
    """
    key = session_id if auth is None else auth.session_key(session_id)
    session = await sessions.look_up(key)
    if session is None and auth is not None:
        session = await unspaced_session(sessions, auth, user_id, session_id)
    if session is None:
        return key
    if session.user_id != user_id and (auth is not None or session.user_id is not None):
        raise SessionNotFound(f"there is no session {session_id!r}")
    return session.session_id


async def unspaced_session(
    sessions: SessionService, auth: AuthContext, user_id: str | None, session_id: str
) -> Session | None:
    """A session of this user that has its id as it is; an admin may name every session so. None when there is none."""
    if not auth.is_admin and (user_id is None or NAMESPACED.match(session_id)):
        return None
    session = await sessions.look_up(session_id)
    return session if session is not None and (auth.is_admin or session.user_id == user_id) else None


async def show_session(context: EndpointContext, request: Request) -> Response:
    """A session with its history."""
    session = await visible_session(context, request)
    return json_response(session_document(session, "" if request.auth is None else request.auth.namespace))


async def forget_session(context: EndpointContext, request: Request) -> Response:
    """Forget a session: 204 when it is done."""
    session = await visible_session(context, request)
    await context.sessions.forget(session.session_id)
    return Response(b"", 204)


async def visible_session(context: EndpointContext, request: Request) -> Session:
    """The session that a request names.

    Raises:
        Problem: 404, there is none, or it is another caller's: the two are told apart to nobody.
    """
    sessions, session_id, auth = context.sessions, request.path_params["session_id"], request.auth
    session = await sessions.look_up(session_id if auth is None else auth.session_key(session_id))
    if session is None and auth is not None:
        session = await unspaced_session(sessions, auth, whose(request, auth), session_id)
        if session is None and auth.is_admin:
            session = await anybodys_session(context, session_id)
    if session is None:
        raise Problem(404, "there is no such session")
    return session


async def anybodys_session(context: EndpointContext, session_id: str) -> Session | None:
    """The session that some caller knows by an id, as far as one of the runs that are listed was made in it."""
    keys = {
        record.session_id
        for record in context.runs.records()
        if record.session_id is not None and record.session_id == record.namespace + session_id
    }
    if len(keys) > 1:
        raise Problem(409, f"several callers have a session of this id: ask for {' or '.join(sorted(keys))}")
    return await context.sessions.look_up(keys.pop()) if keys else None


def whose(request: Request, auth: AuthContext) -> str:
    """The user whose sessions are asked for: the caller, or whom it acts for (`?user_id=`)."""
    return (auth.may_act_for_others and request.query.get("user_id")) or auth.user_id
