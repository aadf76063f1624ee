"""When a cron expression fires in a time zone: pure, knows no clock and no event loop.

`Cron` holds one, and the cron loop asks it for the next instant. `cron_expression.py` names wall times; what the zone's
clock makes of them, when it skips an hour, repeats one or drops a whole day, is decided here.
"""

from __future__ import annotations

import difflib
import math
import zoneinfo
from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from definable.errors import ConfigurationError

from .cron_expression import SECOND, CronExpression


class Schedule:
    """A cron expression in a time zone.

    Over a change of the zone's clock it does as Debian cron does (cron(8), "daylight saving"):

    - A job at fixed times (neither minute nor hour, nor second where given, starts with `*`) fires exactly once for
      each time that it names: at the end of the gap where the clock skips it, and only the first time where the clock
      repeats it. Several times within one gap are one firing.
    - A job with a wildcard keeps its real interval: it fires whenever the clock shows a time that it names, in both
      passes of a repeated hour, and not at all for skipped ones.

    Where both day of month and day of week are restricted, one match is enough; where one of them starts with `*`, also
    as `*/2`, both must match (crontab(5)).

    Args:
        expression: croniter's syntax: 5 fields, a sixth for seconds at the end, or `@daily` and friends.
        timezone: An IANA name such as `"Europe/Berlin"`.

    Raises:
        ConfigurationError: The expression is not valid or can never fire, or there is no such time zone.
    """

    __slots__ = ("_fires_on", "_zone", "expression", "timezone")

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        if not isinstance(expression, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"cron expression {expression!r}: a string such as '0 9 * * *'")
        self.expression: str = expression.strip()
        self.timezone: str = timezone
        self._fires_on = CronExpression.parse(self.expression)
        self._zone = _find_zone(timezone)

    def next_after(self, unix_seconds: float) -> float:
        """The first firing strictly after an instant.

        Args:
            unix_seconds: The instant, in Unix seconds.

        Returns:
            Unix seconds, whole ones.
        """
        after = math.floor(unix_seconds)
        wall = self._wall(after)
        found = self._first(wall, after)
        if not self._fires_on.is_fixed_time:
            first, second = self._passes(wall)
            if first == after < second:
                turn = self._transition(first, second)
                found = min(found, self._first(self._wall(turn) - SECOND, turn - 1))
        return found

    def upcoming(self, n: int, after: float) -> list[float]:
        """The next `n` firings strictly after an instant, all in Unix seconds."""

        def firings() -> Iterator[float]:
            at = after
            while True:
                yield (at := self.next_after(at))

        return list(islice(firings(), n))

    def missed(self, after: float, until: float, *, limit: int = 10_000) -> tuple[int, float | None]:
        """What lies between two instants, the first excluded, the second included.

        Args:
            after: Unix seconds.
            until: Unix seconds.
            limit: Where the count ends, so that a step of years over a job of seconds costs milliseconds.

        Returns:
            How many firings, and the latest of them in Unix seconds; `(0, None)` where there is none.
        """
        latest, count = None, 0
        while (firing := self.next_after(after)) <= until:
            latest, after, count = firing, firing, count + 1
            if count == limit:
                return count, self._latest(until)
        return count, latest

    def _latest(self, until: float) -> float:
        reach = 1.0
        while (firing := self.next_after(until - reach)) > until:
            reach *= 2
        while (later := self.next_after(firing)) <= until:
            firing = later
        return firing

    def _first(self, wall: datetime, after: float) -> float:
        while True:
            wall = self._fires_on.first_after(wall)
            for instant in self._instants(wall):
                if instant > after:
                    return instant

    def _instants(self, wall: datetime) -> tuple[float, ...]:
        first, second = self._passes(wall)
        if first > second:
            return (self._transition(second, first),) if self._fires_on.is_fixed_time else ()
        if first < second and not self._fires_on.is_fixed_time:
            return first, second
        return (first,)

    def _passes(self, wall: datetime) -> tuple[float, float]:
        # PEP 495: equal for an ordinary time, ascending for a repeated one, descending for a skipped one.
        aware = wall.replace(tzinfo=self._zone)
        return aware.timestamp(), aware.replace(fold=1).timestamp()

    def _wall(self, instant: float) -> datetime:
        return datetime.fromtimestamp(instant, self._zone).replace(tzinfo=None, fold=0)

    def _transition(self, before: float, after: float) -> float:
        """The second at which the zone's offset changes, between two instants on either side of the change."""
        low, high = int(before), int(after)
        offset = self._offset(low)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return float(high)

    def _offset(self, instant: int) -> object:
        return datetime.fromtimestamp(instant, self._zone).utcoffset()

    def __repr__(self) -> str:
        return f"Schedule({self.expression!r}, {self.timezone!r})"


def _find_zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        known = sorted(zoneinfo.available_timezones())
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "it takes an IANA name such as 'Europe/Berlin' or 'UTC'"
        raise ConfigurationError(f"unknown timezone {name!r}: {hint}") from error
