"""What a client is told whose bytes are no request that this server takes. Used by both ways of parsing HTTP/1."""

from __future__ import annotations

from definable.agent.runtime.http.problem import Problem

DETAILS = {
    400: "The request is not valid HTTP.",
    408: "The request did not arrive in time.",
    431: "The request head is too large.",
    501: "The request uses a method or a transfer coding that this server does not know.",
    505: "This server speaks HTTP/1.0 and HTTP/1.1 here.",
}
"""By status."""


class Refused(Exception):
    """A request that is answered by its head alone, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def refusal(status: int) -> Problem:
    """The answer to a request that cannot be parsed or served."""
    return Problem(status, DETAILS.get(status, ""))
