"""When a request may be sent: Discord's rate limits, pure. `rest.py` asks before every request and reports
every answer. Source: Discord's "Rate Limits".
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from definable.agent.interface.http_client import number

REQUESTS_PER_PERIOD = 50
"""Of one bot, over all routes."""

PERIOD = 1.1
"""Seconds: Discord counts one, but requests that are held up on their way arrive closer together than they left."""

MAX_BUCKETS = 10_000
"""Buckets that are remembered; beyond it the one that was used longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint of the API, for one channel where the limit is each channel's own."""

    method: str
    template: str
    """The path, with `{channel}` and `{message}` where their ids go, and `TOKEN` for an interaction's token."""
    channel: str = ""
    """Or the server, the application or the interaction: what has limits of its own."""
    message: str = ""
    """Of no account for the limits."""
    token: str = field(default="", repr=False)
    """Of an interaction; in no path, no error and no log."""

    @property
    def path(self) -> str:
        """The path itself."""
        return self.template.replace("{channel}", self.channel).replace("{message}", self.message)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class _Bucket:
    limit: int = 1
    remaining: int = 1
    reset_at: float = float("-inf")
    """Until then no more than `remaining` requests; afterwards `limit` again."""


class RateLimits:
    """What the API has said of its limits so far. Times are seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._sent: deque[float] = deque()
        """When the requests of the last period were sent."""
        self._blocked_until = float("-inf")
        self._names: dict[tuple[str, str], str] = {}
        """What Discord calls the bucket of a method and template: routes may share one."""
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def take(self, route: Route, now: float) -> float:
        """Count a request that is sent now, and return 0; or return the seconds after which to ask again."""
        while self._sent and self._sent[0] <= now - PERIOD:
            self._sent.popleft()
        bucket = self._buckets.get(self._key(route))
        wait = max(self._blocked_until - now, self._wait_overall(now), _wait_for(bucket, now))
        if wait > 0:
            return wait
        self._sent.append(now)
        if bucket is not None:
            bucket.remaining = (bucket.limit if now >= bucket.reset_at else bucket.remaining) - 1
        return 0.0

    def learn(self, route: Route, headers: Mapping[str, str], now: float) -> None:
        """Take in what the headers of an answer say of the route's bucket.

        Args:
            route: What was asked.
            headers: The answer's, looked up in lower case.
            now: When it came.
        """
        name = headers.get("x-ratelimit-bucket")
        limit, remaining = number(headers.get("x-ratelimit-limit")), number(headers.get("x-ratelimit-remaining"))
        reset_after = number(headers.get("x-ratelimit-reset-after"))
        if name is None or limit is None or remaining is None or reset_after is None:
            return
        self._names[route.method, route.template] = name
        bucket = self._bucket(route)
        bucket.limit = max(1, int(limit))
        # Answers may overtake each other: within one window fewer and fewer requests remain.
        bucket.remaining = int(remaining) if now >= bucket.reset_at else min(bucket.remaining, int(remaining))
        bucket.reset_at = max(bucket.reset_at, now + reset_after)

    def refused(self, route: Route, retry_after: float, now: float, *, is_global: bool) -> None:
        """Take in a 429.

        Args:
            route: What was asked.
            retry_after: Seconds until it may be asked again.
            now: When the answer came.
            is_global: Whether no route may be asked until then.
        """
        if is_global:
            self._blocked_until = max(self._blocked_until, now + retry_after)
            return
        bucket = self._bucket(route)
        bucket.remaining = 0
        bucket.reset_at = max(bucket.reset_at, now + retry_after)

    def _wait_overall(self, now: float) -> float:
        return self._sent[0] + PERIOD - now if len(self._sent) >= REQUESTS_PER_PERIOD else 0.0

    def _key(self, route: Route) -> tuple[str, str]:
        return self._names.get(
            (route.method, route.template), f"{route.method} {route.template}"
        ), route.channel + route.token

    def _bucket(self, route: Route) -> _Bucket:
        key = self._key(route)
        bucket = self._buckets.setdefault(key, _Bucket())
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket


def _wait_for(bucket: _Bucket | None, now: float) -> float:
    return bucket.reset_at - now if bucket is not None and bucket.remaining < 1 else 0.0
