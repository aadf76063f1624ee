"""What this service is, how it is and what it keeps: `/health`, `/openapi.json`, `/docs` and `/sessions/{session_id}`.

`/docs` is Swagger UI, from the files that the package flask-swagger-ui carries. Each file that the page needs has an
address of its own: no path that a client sends ever leads to the file system.

A caller's sessions live in its namespace of the store (`AuthContext.namespace`): the same id of two callers is two
sessions, so that nobody can tell an id that others use from a free one, or take it from them. Sessions of an open
agent, of handlers and of `arun` have their ids as they are. So have those that a caller began before there were
namespaces: they are found as long as they are stored, by the user that owns them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.util import find_spec
from pathlib import Path

from definable.agent.auth.base import NAMESPACED, AuthContext
from definable.agent.runtime.http.documents import Parameter, session_document
from definable.agent.runtime.http.request import EndpointContext, Request
from definable.agent.runtime.http.response import Response, json_response
from definable.agent.session.base import Session
from definable.agent.session.service import SessionService
from definable.errors import ConfigurationError, SessionNotFound
from definable.server.problem import Problem

NOT_STORED = (b"cache-control", b"no-store")


async def health(context: EndpointContext, request: Request) -> Response:
    """200 while all is well, 503 while draining or when a child is down."""
    is_well, document = context.health()
    document["children"]["events"] |= await context.backlog()
    return json_response(document, 200 if is_well else 503, [NOT_STORED])


async def show_openapi(context: EndpointContext, request: Request) -> Response:
    """The OpenAPI document, made anew for every request: `agent.auth` may be set late."""
    return json_response(context.openapi(request.scope.get("root_path", "")), headers=[NOT_STORED])


async def show_docs(context: EndpointContext, request: Request) -> Response:
    """Swagger UI's page."""
    page = PAGE.format(name=escape(context.name)).encode()
    return await StaticFile(b"text/html; charset=utf-8", page)(request)


PACKAGE = "flask_swagger_ui"

FILES = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
"""Swagger UI's files that the page loads, with their content types."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
"""All addresses are relative: the service may be mounted anywhere."""

START = b"""\
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  validatorUrl: null,
  deepLinking: true,
  displayRequestDuration: true,
});
"""

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and talks to this service alone (Content Security Policy Level 3)."""


@dataclass(frozen=True)
class StaticFile:
    """A file that does not change while the service runs."""

    content_type: bytes
    body: bytes

    @cached_property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Also those of a response without the body (RFC 9110, 15.4.5)."""
        return [
            (b"etag", b'"%b"' % hashlib.sha256(self.body).hexdigest()[:32].encode()),
            (b"cache-control", b"no-cache"),
            (b"content-security-policy", POLICY),
            (b"x-content-type-options", b"nosniff"),
        ]

    async def __call__(self, request: Request) -> Response:
        etag = self.headers[0][1].decode()
        known = request.headers.get("if-none-match", "").split(",")
        if any(each.strip().removeprefix("W/") == etag for each in known):
            return Response(b"", 304, headers=self.headers)
        return Response(self.body, content_type=self.content_type, headers=self.headers)


def docs_files() -> Iterator[tuple[str, StaticFile]]:
    """What the page loads, by path, but for the OpenAPI document.

    Raises:
        ConfigurationError: Swagger UI's files are not installed.
    """
    folder = installed_folder()
    yield "/docs/start.js", StaticFile(b"text/javascript; charset=utf-8", START)
    for file, content_type in FILES.items():
        yield f"/docs/{file}", StaticFile(content_type, (folder / file).read_bytes())


def installed_folder() -> Path:
    """Where Swagger UI's files are. Their package is found, not imported: it would bring Flask along.

    Raises:
        ConfigurationError: They are not installed.
    """
    package = find_spec(PACKAGE)
    folder = None if package is None or package.origin is None else Path(package.origin).with_name("dist")
    if folder is None or not all((folder / file).is_file() for file in FILES):
        raise ConfigurationError("the files of /docs are missing: pip install --force-reinstall flask-swagger-ui")
    return folder


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
