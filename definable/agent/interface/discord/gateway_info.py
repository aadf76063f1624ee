"""What `GET /gateway/bot` says: pure. Source: Discord's "Gateway", Get Gateway Bot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from definable.agent.interface.errors import InterfaceConnectionError


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """Where the gateway is, and whether a session may be begun there."""

    url: str
    remaining: int
    """Sessions that may be begun still."""
    reset_after: float
    """Seconds until there are more."""


def read_gateway_info(body: Any) -> GatewayInfo:
    """Read the endpoint's answer.

    Raises:
        InterfaceConnectionError: It is something else.
    """
    try:
        limit = body["session_start_limit"]
        return GatewayInfo(str(body["url"]), int(limit["remaining"]), float(limit["reset_after"]) / 1000)
    except (ValueError, TypeError, LookupError) as error:
        raise InterfaceConnectionError("GET /gateway/bot was answered with what makes no sense") from error
