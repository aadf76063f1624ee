"""Triggers that fire by the clock: what they have in common, and the one that reads a cron expression.

Pure: they say when they fire, given an instant, and know neither clock nor event loop. `runtime/cron.py` asks for the
next firing and publishes it to the event bus; `runtime/workers.py` keeps to `overlap`.
"""

from __future__ import annotations

import difflib
import math
import zoneinfo
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, ClassVar, Literal, TypeAlias, Unpack, get_args

from definable.errors import ConfigurationError

from .base import BaseTrigger, TriggerOptions
from .cron_expression import SECOND, CronExpression

Overlap: TypeAlias = Literal["skip", "queue", "allow"]
"""What happens to a firing while the one before it still runs."""


class TimeOptions(TriggerOptions, total=False):
    """What every trigger takes that fires by the clock."""

    overlap: Overlap
    """When the firing before it still runs: `"skip"` (the default) drops the new one, `"queue"` runs it afterwards,
    `"allow"` runs both. Over all replicas on a shared bus, wherever the one before runs."""
    misfire_grace: float
    """Seconds that a firing may come late (60 by default), after a suspend, a step of the clock, a blocked loop, a
    failure of the event bus or, where that is durable, a restart; one later than this is skipped and counted, and of
    several missed ones at most the latest fires. Lateness below a second never counts, since cron tells no shorter
    times apart; `math.inf` skips none for being late."""
    jitter: float
    """Seconds (0 by default); each firing is delayed by a random time up to this, or until the service stops. The
    event's timestamp stays nominal."""


class TimeTrigger(BaseTrigger):
    """A trigger that fires by the clock; a kind of its own defines `source`, `when` and `next_after`.

    Args:
        overlap: See `TimeOptions`, as for the next two.
        misfire_grace: Seconds.
        jitter: Seconds.
        options: Those of every trigger.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    kind: ClassVar[str] = "cron"
    """What the start banner calls it."""
    fires_once: ClassVar[bool] = False
    timezone: str = "UTC"
    """The zone in which its times are shown, an IANA name."""

    def __init__(
        self,
        *,
        overlap: Overlap = "skip",
        misfire_grace: float = 60,
        jitter: float = 0,
        **options: Unpack[TriggerOptions],
    ) -> None:
        super().__init__(**options)
        if overlap not in get_args(Overlap):
            raise ConfigurationError(f"overlap={overlap!r}: 'skip', 'queue' or 'allow'")
        if not is_seconds(misfire_grace):
            raise ConfigurationError(f"misfire_grace={misfire_grace!r}: seconds, 0 or more")
        if not is_seconds(jitter) or math.isinf(jitter):
            raise ConfigurationError(f"jitter={jitter!r}: seconds, 0 or more, and finite")
        self.overlap: Overlap = overlap
        self.misfire_grace = misfire_grace
        self.jitter = jitter

    @property
    @abstractmethod
    def when(self) -> str:
        """When it fires, in words for the banner."""

    @abstractmethod
    def next_after(self, unix_seconds: float) -> float:
        """The first firing strictly after an instant; both in Unix seconds, `math.inf` where none follows."""

    def first_after(self, now: float, began: float) -> float:
        """The firing that a service waits for first, in Unix seconds.

        Args:
            now: Unix seconds.
            began: When the service began, in Unix seconds.
        """
        return self.next_after(now)

    def next_run(self, base_time: float) -> float:
        """The same as `next_after`."""
        return self.next_after(base_time)

    def upcoming(self, n: int, after: float) -> list[float]:
        """The next `n` firings strictly after an instant, or as many as there are; all in Unix seconds."""
        return list(islice(self._firings(after), n))

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
        for firing in islice(self._firings(after), limit):
            if firing > until:
                return count, latest
            latest, count = firing, count + 1
        return count, self._latest(until) if count == limit else latest

    def last_within(self, seconds: float, until: float) -> float | None:
        """The latest firing in so many seconds up to an instant; None where there is none. In Unix seconds."""
        if math.isfinite(seconds) and self.next_after(until - seconds) > until:
            return None
        return self._latest(until)

    def _firings(self, after: float) -> Iterator[float]:
        while (after := self.next_after(after)) < math.inf:
            yield after

    def _latest(self, until: float) -> float:
        """The last firing up to an instant, of a trigger that fires again and again."""
        reach = 1.0
        while (firing := self.next_after(until - reach)) > until:
            reach *= 2
        while (later := self.next_after(firing)) <= until:
            firing = later
        return firing


def is_seconds(value: Any) -> bool:
    """Whether a value is a number of seconds, 0 or more."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


class Cron(TimeTrigger):
    """Fires at the times that a cron expression names, on the wall clock of a time zone.

    Over a change of the zone's clock it does as Debian cron does (cron(8), "daylight saving"):

    - A job at fixed times (neither minute nor hour, nor second where given, starts with `*`) fires exactly once for
      each time that it names: at the end of the gap where the clock skips it, and only the first time where the clock
      repeats it. Several times within one gap are one firing.
    - A job with a wildcard keeps its real interval: it fires whenever the clock shows a time that it names, in both
      passes of a repeated hour, and not at all for skipped ones.

    Where both day of month and day of week are restricted, one match is enough; where one of them starts with `*`, also
    as `*/2`, both must match (crontab(5)).

    Args:
        schedule: croniter's syntax: 5 fields, a sixth for seconds at the end, or `@daily` and friends. A range that
            ends before it begins goes on at the start of its field, with its step: hours `23-5/2` are 23, 1, 3 and 5.
            Every part of a list counts: `mon#1,fri` is the first Monday and every Friday.
        timezone: An IANA name such as `"Europe/Berlin"`.
        options: those of `TimeOptions`: `overlap`, `misfire_grace`, `jitter`, `timeout`, `max_concurrency`, ...

    Warns:
        UserWarning: Six fields look as if the seconds came first (`0 0 9 * * *`); it names both readings.

    Raises:
        ConfigurationError: The expression is not valid or can never fire, there is no such time zone, or another value
            is out of its range.

    Example:
        >>> Cron("0 9 * * mon-fri", timezone="Europe/Berlin", overlap="queue").source
        'cron(0 9 * * mon-fri)'
    """

    def __init__(self, schedule: str, *, timezone: str = "UTC", **options: Unpack[TimeOptions]) -> None:
        super().__init__(**options)
        if not isinstance(schedule, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"cron expression {schedule!r}: a string such as '0 9 * * *'")
        self.schedule: str = schedule.strip()
        self.timezone = timezone
        self._expression = CronExpression.parse(self.schedule)
        self._zone = _find_zone(timezone)

    @property
    def source(self) -> str:
        """`"cron(0 9 * * *)"`."""
        return f"cron({self.schedule})"

    @property
    def when(self) -> str:
        """When it fires, in words for the banner."""
        return self.schedule

    @property
    def key(self) -> str:
        """Names the job over restarts and replicas; the time zone tells two jobs of one expression apart."""
        return super().key if self.given_name else f"{super().key}@{self.timezone}"

    def next_after(self, unix_seconds: float) -> float:
        """The first firing strictly after an instant; both in Unix seconds, whole ones."""
        after = math.floor(unix_seconds)
        wall = self._wall(after)
        found = self._first(wall, after)
        if not self._expression.is_fixed_time:
            first, second = self._passes(wall)
            if first == after < second:  # in the first pass of a repeated hour: the second may come before `found`
                change = self._transition(first, second)
                found = min(found, self._first(self._wall(change) - SECOND, change - 1))
        return found

    def _first(self, wall: datetime, after: float) -> float:
        while True:
            wall = self._expression.first_after(wall)
            for instant in self._instants(wall):
                if instant > after:
                    return instant

    def _instants(self, wall: datetime) -> tuple[float, ...]:
        """When the zone's clock shows a wall time, as far as the job fires then."""
        first, second = self._passes(wall)
        if first > second:
            return (self._transition(second, first),) if self._expression.is_fixed_time else ()
        if first < second and not self._expression.is_fixed_time:
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


def _find_zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        known = sorted(zoneinfo.available_timezones())
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "it takes an IANA name such as 'Europe/Berlin' or 'UTC'"
        raise ConfigurationError(f"unknown timezone {name!r}: {hint}") from error


MAX_SPANS = 4
"""A step of the clock begins a new span, and the oldest one is forgotten."""


class FiredTimes:
    """Which nominal times of a trigger have fired, so that a clock that steps back repeats none.

    Spans of successive ones (Unix seconds): they take no more memory for years than for a minute.
    """

    __slots__ = ("_spans", "_successor")

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=MAX_SPANS)
        self._successor = math.nan

    def add(self, nominal: float, successor: float) -> None:
        """Notes `nominal`; `successor` is the time that follows it in the schedule."""
        if nominal == self._successor:
            start, _ = self._spans.pop()
            self._spans.append((start, nominal))
        else:
            self._spans.append((nominal, nominal))
        self._successor = successor

    def __bool__(self) -> bool:
        return bool(self._spans)

    def __contains__(self, nominal: float) -> bool:
        return self._span_end(nominal) is not None

    def first_unfired(self, nominal: float, next_after: Callable[[float], float]) -> float:
        """`nominal`, or the first time after it, by the schedule's `next_after`, that has not fired."""
        while (end := self._span_end(nominal)) is not None:
            nominal = next_after(end)
        return nominal

    def _span_end(self, nominal: float) -> float | None:
        for start, end in self._spans:
            if start <= nominal <= end:
                return end
        return None
