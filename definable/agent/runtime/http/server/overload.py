"""One connection too many: told so, in place of a wait that nobody explains."""

from __future__ import annotations

import anyio

from definable.agent.runtime.http.problem import Problem

from .hangups import ClientStream
from .http1_response import whole_response
from .transport import Transport

RETRY_AFTER = b"1"
"""Seconds."""

PATIENCE = 1.0
"""Seconds that the client may take to read it."""


def overload_response() -> bytes:
    """A whole HTTP/1.1 response: 503 with `Retry-After`."""
    return whole_response(
        Problem(503, "The server has as many connections as it takes.", headers=[(b"retry-after", RETRY_AFTER)])
    )


async def turn_away(stream: ClientStream) -> None:
    """Answers 503 before any request is read, and closes."""
    transport = Transport(stream, PATIENCE)
    try:
        with anyio.move_on_after(PATIENCE):
            await transport.write(overload_response())
            await transport.linger()
    finally:
        await anyio.aclose_forcefully(stream)
