"""How long to wait before trying again: pure. Used by the supervisor and for the retries of triggers."""

from __future__ import annotations

import random
from dataclasses import dataclass


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

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 or more)."""
        exponent = min(failures - 1, 64)  # beyond it the power would overflow long after the bound has taken over
        delay = min(self.initial * 2**exponent, self.maximum)
        longest = min(delay * (1.0 + self.jitter), self.maximum)  # not cut off there: most would wait exactly as long
        return random.uniform(delay * (1.0 - self.jitter), longest)
