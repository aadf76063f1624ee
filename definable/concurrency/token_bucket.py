"""How fast something may be done: pure, a token bucket."""

from __future__ import annotations


class TokenBucket:
    """Allows `rate` things a second, and `burst` at once after a pause.

    Args:
        rate: Things a second.
        burst: Things at once.
    """

    __slots__ = ("_burst", "_level", "_rate", "_since")

    def __init__(self, rate: float, burst: float = 1.0) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._since = 0.0

    def wait(self, now: float) -> float:
        """Seconds until one more is allowed.

        Args:
            now: Seconds of a clock that never goes back.
        """
        return max(0.0, (1.0 - self._filled(now)) / self._rate)

    def take(self, now: float) -> float:
        """Take the next place, and return the seconds until it comes; places taken are never given back."""
        seconds = self.wait(now)
        self._level = self._filled(now) - 1.0
        self._since = now
        return seconds

    def is_full(self, now: float) -> bool:
        """Whether it is as if nothing had ever been taken."""
        return self._filled(now) >= self._burst

    def _filled(self, now: float) -> float:
        return min(self._burst, self._level + (now - self._since) * self._rate)
