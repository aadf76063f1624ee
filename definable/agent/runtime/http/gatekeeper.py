"""Who may pass: asks the auth provider that guards an endpoint. A provider that raises denies."""

from __future__ import annotations

import logging

from definable.agent.auth.base import AuthContext, AuthProvider, AuthRequest
from definable.agent.auth.consult import consult, needs_body

from .problem import Problem
from .request import Request

logger: logging.Logger = logging.getLogger(__name__)

CHALLENGE = (b"www-authenticate", b'Bearer realm="definable"')
"""RFC 9110, 11.6.1: a 401 says how to authenticate."""


READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that a caller may use who may only read."""


def scope_of(request: Request) -> str:
    """What a caller must be allowed to do for a request."""
    return "read" if request.scope["type"] == "http" and request.method in READING else "run"


async def admitted(provider: AuthProvider, request: Request, max_body: int, scope: str) -> AuthContext:
    """The caller's identity.

    Args:
        provider: Decides.
        request: A request, or the handshake of a WebSocket.
        max_body: Bytes that its body may have, if the provider judges it.
        scope: What the caller must be allowed to do.

    Raises:
        Problem: 401 when it cannot be established, 403 when the caller may not do this, 500 when the provider fails,
            and those of a body that is judged.
        ClientGone: The client went away before its body was complete.
    """
    has_body = request.scope["type"] == "http" and needs_body(provider)
    body = await request.body(max_body) if has_body else b""
    try:
        context = await consult(provider, AuthRequest(headers=request.headers, body=body))
    except Exception:
        logger.exception("the auth provider %r failed; the request is denied", provider)
        raise Problem(500, "authentication failed on our side") from None
    if context is None:
        raise Problem(401, "missing or wrong credentials", headers=[CHALLENGE])
    if not context.may(scope):
        raise Problem(403, f"this caller lacks the scope {scope!r}")
    return context
