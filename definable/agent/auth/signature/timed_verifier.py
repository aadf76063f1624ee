"""Schemes that sign a timestamp with the body, so that a request cannot be replayed later."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable

from definable.agent.auth.base import AuthRequest
from definable.errors import ConfigurationError

from .verifier import SignatureVerifier

DEFAULT_TOLERANCE = 300.0
"""Seconds: what Slack, Stripe and the Standard Webhooks libraries use."""

TIMESTAMP_DIGITS = 20
"""More than any Unix time has."""


class TimedVerifier(SignatureVerifier):
    """Accepts signed requests that were sent just now.

    Args:
        secret: The secret that is shared with the sender, or several while it is rotated.
        tolerance: Seconds by which the signed timestamp may differ from our clock, into the past or the future.
        clock: The Unix time in seconds.

    Raises:
        ConfigurationError: There is no secret, one is empty or malformed, or the tolerance is not positive.
    """

    def __init__(
        self,
        secret: str | Iterable[str],
        tolerance: float = DEFAULT_TOLERANCE,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(secret)
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{type(self).__name__}(tolerance={tolerance!r}): seconds, more than 0")
        if not callable(clock):
            raise ConfigurationError(f"{type(self).__name__}(clock={clock!r}): a function that gives Unix seconds")
        self.tolerance: float = tolerance
        self._clock = clock

    def explain(self, request: AuthRequest) -> str:
        """Why a request is refused, for the log."""
        relaxed = copy.copy(self)
        relaxed.tolerance = math.inf
        if self._presented(request) is None and relaxed._presented(request) is not None:
            return f"the signed timestamp is off by more than {self.tolerance:g} s: a repeat, or a clock is wrong"
        return super().explain(request)

    def _is_fresh(self, timestamp: bytes) -> bool:
        """Whether a timestamp is one, and lies within the tolerance."""
        if not timestamp.isdigit() or len(timestamp) > TIMESTAMP_DIGITS:
            return False
        return abs(self._clock() - int(timestamp)) <= self.tolerance
