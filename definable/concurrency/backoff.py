"""How long to wait before something that failed is tried again: pure, the one policy for every retry and reconnect.

Model requests, platforms' requests and connections, the connection to Redis, interfaces that crash and the retries of
triggers use it, each with figures of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with jitter, up to a bound."""

    initial: float = 1.0
    """Seconds before the second try."""
    maximum: float = 60.0
    """Seconds."""
    jitter: float = 0.1
    """The share of a delay that chance may add or take, so that those who fail together do not return together. It
    adds nothing beyond `maximum`."""
    max_tries: int | None = None
    """Tries in all, the first included; None: no bound."""
    max_retry_after: float = inf
    """Seconds: a server that asks for a longer pause is not asked again."""
    stable_after: float = 60.0
    """Seconds of running after which a failure counts as the first again."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; 0 after none."""
        if failures < 1:
            return 0.0
        exponent = min(failures - 1, 64)  # beyond it the power would overflow long after the bound has taken over
        delay = min(self.initial * 2.0**exponent, self.maximum)
        longest = min(delay * (1.0 + self.jitter), self.maximum)  # not cut off there: most would wait exactly as long
        return random.uniform(delay * (1.0 - self.jitter), longest)

    def retry_delay(self, failures: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait before the next try; None if there is to be none.

        Args:
            failures: How many tries have failed, the last included.
            retry_after: Seconds that the server asks to wait; they go before `delay`.
        """
        if self.max_tries is not None and failures >= self.max_tries:
            return None
        if retry_after is None:
            return self.delay(failures)
        return retry_after if retry_after <= self.max_retry_after else None

    def failures_after(self, failures: int, ran_for: float) -> int:
        """Failures in a row, now that there is one more: 1 if it ran for `stable_after` before.

        Args:
            failures: How many there were.
            ran_for: Seconds from its start, or restart, to this failure.
        """
        return 1 if ran_for >= self.stable_after else failures + 1
