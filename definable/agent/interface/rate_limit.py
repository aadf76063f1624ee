"""How many messages a user may send (a sliding window), and how fast a platform is called (a token bucket): pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

MAX_USERS = 10_000
"""Users that are remembered; beyond it the one who has been silent longest is forgotten."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message beyond the limit."""

    retry_after: float
    """Seconds until the next one is let through."""
    is_first: bool
    """Whether the message before was let through: the user is notified once."""


class _Window:
    __slots__ = ("is_refusing", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque()
        self.is_refusing = False


class UserRateLimit:
    """Lets through so many messages of one user in any period of that length.

    Args:
        limit: Messages.
        period: Seconds.
    """

    __slots__ = ("_limit", "_period", "_users")

    def __init__(self, limit: int, period: float = 60.0) -> None:
        self._limit = limit
        self._period = period
        self._users: OrderedDict[str, _Window] = OrderedDict()
        """In the order of their last message."""

    def take(self, user: str, now: float) -> Refusal | None:
        """Count a message at `now` (seconds, any clock that never goes back); a refused one does not count."""
        window = self._window(user)
        while window.times and window.times[0] <= now - self._period:
            window.times.popleft()
        if len(window.times) < self._limit:
            window.times.append(now)
            window.is_refusing = False
            return None
        refusal = Refusal(min(window.times[0] + self._period - now, self._period), is_first=not window.is_refusing)
        window.is_refusing = True
        return refusal

    def __len__(self) -> int:
        """How many users are remembered."""
        return len(self._users)

    def _window(self, user: str) -> _Window:
        window = self._users.get(user)
        if window is None:
            window = self._users[user] = _Window()
            if len(self._users) > MAX_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(user)
        return window


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
