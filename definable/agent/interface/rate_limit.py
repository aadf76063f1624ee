"""How many messages a user may send: pure, a sliding window."""

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
