"""When the gateway is connected to again: pure.

Reconnecting is part of the protocol and happens several times a day, so it stays within `receive`. But a gateway that
cannot be had is a crash: after `PATIENCE` connections in a row that came to nothing the supervisor takes over, with its
backoff and its word in `/health`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .close_code import Recovery

IDENTIFY_INTERVAL = 5.0
"""Seconds from one identify to the next (session start limit, `max_concurrency` of 1)."""

PATIENCE = 3
"""Connections in a row that were not established until the gateway counts as out of reach."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to go on."""

    invalid_session_wait: tuple[float, float] = (1.0, 5.0)
    """Seconds, from and to, before a new session after an invalid one."""
    identify_interval: float = IDENTIFY_INTERVAL
    stable_after: float = 10.0
    """Seconds: after a connection that lasted so long the next is tried at once."""
    first_delay: float = 1.0
    """Seconds before the second try in a row."""
    longest_delay: float = 60.0
    """Seconds."""

    def delay(self, short_lived: int, recovery: Recovery) -> float:
        """Seconds to wait before the next connection.

        Args:
            short_lived: How many connections in a row did not last; 0 when the last one did.
            recovery: What is to be done next.
        """
        backoff = 0.0
        if short_lived > 1:
            backoff = min(self.first_delay * 2.0 ** min(short_lived - 2, 32), self.longest_delay)
            # Bots that were dropped together do not return together.
            backoff = random.uniform(0.9 * backoff, min(1.1 * backoff, self.longest_delay))
        floor = random.uniform(*self.invalid_session_wait) if recovery is Recovery.IDENTIFY else 0.0
        return max(backoff, floor)
