"""What the end of a gateway connection means for the next one: pure.

Source: Discord's "Opcodes and Status Codes", Gateway Close Event Codes.
"""

from __future__ import annotations

from enum import Enum

RESUMABLE_CLOSE = 4000
"""What we close with: 1000 and 1001 would end the session, and Discord would not replay what came meanwhile."""


class Recovery(Enum):
    """How to go on."""

    RESUME = "resume"
    """Connect again and go on with the session, where there is one."""
    IDENTIFY = "identify"
    """The session is over: connect again and begin a new one."""
    BAD_TOKEN = "bad token"
    """Do not connect again: the token is refused."""
    REFUSED = "refused"
    """Do not connect again: Discord will not have this bot as it is set up."""


NEW_SESSION = frozenset({4003, 4007, 4009})
"""Not authenticated, invalid sequence, session timed out."""

BAD_TOKEN = 4004

REFUSALS = {
    4010: "invalid shard",
    4011: "the bot is in too many servers for one connection: sharding is required",
    4012: "invalid version of the gateway",
    4013: "invalid intents",
    4014: "an intent that is not allowed: switch on the Message Content Intent on the page Bot of the developer "
    "portal, or set intents_message_content=False",
}


def recovery_from(code: int | None) -> Recovery:
    """How to go on after the peer has closed.

    Args:
        code: The WebSocket close code; None or 1006 where the connection broke without.
    """
    if code == BAD_TOKEN:
        return Recovery.BAD_TOKEN
    if code in REFUSALS:
        return Recovery.REFUSED
    return Recovery.IDENTIFY if code in NEW_SESSION else Recovery.RESUME


def explain(code: int | None, reason: str) -> str:
    """The end of a connection in words, for logs and errors."""
    if code is None or code == 1006:
        return "the connection broke"
    words = REFUSALS.get(code) or reason
    return f"closed with {code}: {words}" if words else f"closed with {code}"
