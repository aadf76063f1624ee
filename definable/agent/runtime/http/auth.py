"""Who may call what: authenticates requests for the ASGI entry, and tells endpoints whose runs a caller may see.

A provider that raises denies. `PublicPaths` are the user's own routes that need no credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Any

from definable.agent.auth.base import (
    AuthContext,
    AuthProvider,
    AuthRequest,
    RefusalLog,
    authenticate,
    needs_body,
    why_refused,
)
from definable.agent.runtime.run_log import RunRecord
from definable.errors import ConfigurationError
from definable.server.problem import Problem

from .request import Request


class PublicPaths:
    """The paths of `serve(public=[...])`.

    Args:
        patterns: Paths, or globs over whole paths: `*` is any text, slashes included (`fnmatch`).

    Raises:
        ConfigurationError: One is no path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = [re.compile(translate(checked_pattern(pattern))) for pattern in patterns]

    def __contains__(self, path: str) -> bool:
        return any(pattern.match(path) is not None for pattern in self._patterns)


def checked_pattern(pattern: str) -> str:
    """A pattern of `public`.

    Raises:
        ConfigurationError: It is no path.
    """
    if not isinstance(pattern, str) or not pattern.startswith("/"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"public: {pattern!r} is no path: such as '/status' or '/pages/*'")
    return pattern


CHALLENGE = (b"www-authenticate", b'Bearer realm="definable"')
"""RFC 9110, 11.6.1: a 401 says how to authenticate."""


READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that a caller may use who may only read."""


def scope_of(request: Request) -> str:
    """What a caller must be allowed to do for a request."""
    return "read" if request.scope["type"] == "http" and request.method in READING else "run"


async def authenticate_request(
    provider: AuthProvider, request: Request, max_body: int, scope: str, refusals: RefusalLog
) -> AuthContext:
    """Who is calling.

    Args:
        provider: Decides.
        request: A request, or the handshake of a WebSocket.
        max_body: Bytes that its body may have, if the provider judges it.
        scope: What the caller must be allowed to do.
        refusals: Where it is noted that the caller is not let in.

    Raises:
        Problem: 401 when it cannot be established, 403 when the caller may not do this, 500 when the provider fails,
            and those of a body that is judged.
        ClientGone: The client went away before its body was complete.
    """
    has_body = request.scope["type"] == "http" and needs_body(provider)
    body = await request.body(max_body) if has_body else b""
    asked = auth_request(request, body)
    try:
        context = await authenticate(provider, asked)
    except Problem:
        raise
    except Exception:
        refusals.failed(provider)
        raise Problem(500, "authentication failed on our side") from None
    if context is None:
        refusals.refused(named(request), client_of(request), lambda: why_refused(provider, asked))
        raise Problem(401, "missing or wrong credentials", headers=[CHALLENGE])
    if not context.may(scope):
        refusals.refused(named(request), client_of(request), lambda: f"{context.user_id!r} lacks the scope {scope!r}")
        raise Problem(403, f"this caller lacks the scope {scope!r}")
    return context


def auth_request(request: Request, body: bytes) -> AuthRequest:
    """What an auth provider may look at."""
    scope = request.scope
    method = scope.get("method", "GET")  # of a WebSocket's handshake
    headers: Any = request.headers
    url: Any = request.url  # both are made when they are asked for
    query: Any = request.parameters
    return AuthRequest("http", headers=headers, method=method, url=url, path=scope["path"], query=query, body=body)


def named(request: Request) -> str:
    """A request, for the log."""
    return f"{request.scope.get('method', 'WebSocket')} {request.path!r}"


def client_of(request: Request) -> str:
    """Where a request came from, for the log."""
    client = request.client
    return "an unknown address" if client is None else client[0]


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
