"""Which wall-clock times a cron expression names: pure, and blind to time zones.

`Cron` asks here for wall times and maps them to instants. croniter reads the fields, one at a time, so that its
whole syntax is understood and ten thousand expressions share the few hundred field texts that they are made of; the
matching is ours, because croniter's own handling of DST is not Debian's.
"""

from __future__ import annotations

import calendar
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

from definable.errors import ConfigurationError

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Of crontab(5); `@reboot` names no time."""

FIELDS = (
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31, L for the last, 15W for the weekday nearest to the 15th"),
    ("month", "1-12 or jan-dec"),
    ("day of week", "0-7 or sun-sat, mon#2 for the second Monday, L5 for the last Friday"),
    ("second", "0-59"),
)
"""Name and range of each field, in croniter's order: the optional seconds come last."""

CALENDAR_CYCLE = 400 * 12
"""Months after which the Gregorian calendar repeats, weekdays included (146,097 days are whole weeks)."""

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class MonthDays:
    """The day-of-month field."""

    numbers: frozenset[int]
    last: bool
    """`L`: the last day of the month."""
    nearest_weekday_to: int | None
    """`15W`: the Monday to Friday nearest to the 15th within the month."""

    def __contains__(self, day: date) -> bool:
        if self.nearest_weekday_to is not None:
            return day.day == _nearest_weekday(day.year, day.month, self.nearest_weekday_to)
        return day.day in self.numbers or (self.last and day.day == _month_length(day))


@dataclass(frozen=True, slots=True)
class Weekdays:
    """The day-of-week field; 0 is Sunday."""

    every: frozenset[int]
    nth: frozenset[tuple[int, int]]
    """`mon#2`: (1, 2)."""
    last: frozenset[int]
    """`L5`: 5, the last Friday of the month."""

    def __contains__(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in self.every or (weekday, (day.day + 6) // 7) in self.nth:
            return True
        return weekday in self.last and day.day + 7 > _month_length(day)


@dataclass(frozen=True, slots=True)
class CronExpression:
    """A parsed cron expression; `CronExpression.parse` makes one."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    month_days: MonthDays
    weekdays: Weekdays
    needs_both_days: bool
    """Day of month and day of week must both match; else one of them is enough (crontab(5))."""
    is_fixed_time: bool
    """No time field starts with `*`: Debian cron's test for a job that runs at set times of day."""

    @classmethod
    def parse(cls, expression: str) -> CronExpression:
        """Reads `expression`.

        Raises:
            ConfigurationError: It is not valid, or names no day that ever comes.
        """
        minute, hour, day, month, weekday, second = texts = _split(expression)
        minutes, hours, days, months, weekdays, seconds = (
            _read(expression, index, text) for index, text in enumerate(texts)
        )
        parsed = cls(
            seconds=seconds.within(0, 59),
            minutes=minutes.within(0, 59),
            hours=hours.within(0, 23),
            months=frozenset(months.within(1, 12)),
            month_days=MonthDays(frozenset(days.within(1, 31)), days.last, days.nearest_weekday_to),
            weekdays=Weekdays(frozenset() if weekdays.nth else frozenset(weekdays.within(0, 6)), *_nth(weekdays)),
            needs_both_days=day.startswith(("*", "?")) or weekday.startswith(("*", "?")),
            is_fixed_time=not any(text.startswith("*") for text in (minute, hour, second)),
        )
        if parsed._day_from(date(2000, 1, 1)) is None:
            raise ConfigurationError(
                f"cron expression {expression!r} can never fire: no day of the calendar has day of month {day!r}, "
                f"month {month!r} and day of week {weekday!r}; change one of them"
            )
        return parsed

    def first_after(self, wall: datetime) -> datetime:
        """The first wall time of the expression strictly after `wall` (naive, whole seconds)."""
        wall += SECOND
        today = wall.date()
        if today.month in self.months and self._matches(today):
            clock = self._time_from(wall.hour, wall.minute, wall.second)
            if clock is not None:
                return datetime.combine(today, clock)
            today += DAY
        day = self._day_from(today)
        if day is None:
            raise OverflowError("the next firing lies beyond the year 9999")
        return datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def _time_from(self, hour: int, minute: int, second: int) -> time | None:
        if hour in self.hours:
            if minute in self.minutes and (later := _at_least(second, self.seconds)) is not None:
                return time(hour, minute, later)
            if (later := _at_least(minute + 1, self.minutes)) is not None:
                return time(hour, later, self.seconds[0])
        later = _at_least(hour + 1, self.hours)
        return None if later is None else time(later, self.minutes[0], self.seconds[0])

    def _day_from(self, day: date) -> date | None:
        for _ in range(CALENDAR_CYCLE):
            if day.month in self.months:
                for number in range(day.day, _month_length(day) + 1):
                    candidate = day.replace(day=number)
                    if self._matches(candidate):
                        return candidate
            if day.year == date.max.year and day.month == 12:
                return None
            day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
        return None

    def _matches(self, day: date) -> bool:
        if self.needs_both_days:
            return day in self.month_days and day in self.weekdays
        return day in self.month_days or day in self.weekdays


@dataclass(frozen=True, slots=True)
class FieldValues:
    """One field as croniter reads it."""

    numbers: tuple[int, ...]
    """Sorted; without meaning where `everything`."""
    everything: bool
    last: bool
    nth: tuple[tuple[int, int | str], ...]
    """Weekday and which one of the month, `"l"` for the last."""
    nearest_weekday_to: int | None

    def within(self, low: int, high: int) -> tuple[int, ...]:
        """The numbers, with `*` written out."""
        return tuple(range(low, high + 1)) if self.everything else self.numbers


def _split(expression: str) -> list[str]:
    texts = NICKNAMES.get(expression.strip().lower(), expression).split()
    if len(texts) not in (5, 6):
        raise ConfigurationError(
            f"cron expression {expression!r} has {len(texts)} fields: it takes 5 (minute, hour, day of month, month, "
            f"day of week), a sixth for seconds, or one of {', '.join(NICKNAMES)}"
        )
    return [*texts, "0"][:6]


def _read(expression: str, index: int, text: str) -> FieldValues:
    name, allowed = FIELDS[index]
    if any(part.startswith(("h", "H", "r", "R")) for part in text.split(",")):
        raise ConfigurationError(
            f"cron expression {expression!r}: {name} {text!r} is hashed or random, which would differ between restarts "
            "and replicas; write the time out, and spread the load with jitter="
        )
    try:
        return _expand(index, text.lower())
    except ValueError as error:
        raise ConfigurationError(
            f"cron expression {expression!r}: {name} {text!r} is not valid; it takes {allowed}, with lists (1,2), "
            "ranges (1-5) and steps (*/5)"
        ) from error


@lru_cache(maxsize=8192)
def _expand(index: int, text: str) -> FieldValues:
    # Deferred: croniter takes 0.1 s to import, and `import definable.agent` does without it.
    from croniter import croniter  # pyright: ignore[reportMissingTypeStubs]

    texts = ["*"] * len(FIELDS)
    texts[index] = text
    expand: Any = croniter.expand  # pyright: ignore[reportUnknownMemberType]  # croniter ships no types
    fields, nth = expand(" ".join(texts))
    values: list[int | str] = fields[index]
    return FieldValues(
        numbers=tuple(sorted(value for value in values if isinstance(value, int))),
        everything="*" in values,
        last="l" in values,
        nth=tuple((weekday, which) for weekday, some in nth.items() for which in some),
        nearest_weekday_to=int(text.strip("w")) if index == 2 and "w" in text else None,
    )


def _nth(values: FieldValues) -> tuple[frozenset[tuple[int, int]], frozenset[int]]:
    numbered = frozenset((weekday, which) for weekday, which in values.nth if isinstance(which, int))
    return numbered, frozenset(weekday for weekday, which in values.nth if which == "l")


def _at_least(bound: int, values: tuple[int, ...]) -> int | None:
    index = bisect_left(values, bound)
    return values[index] if index < len(values) else None


def _month_length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _nearest_weekday(year: int, month: int, number: int) -> int:
    length = calendar.monthrange(year, month)[1]
    number = min(number, length)
    weekday = calendar.weekday(year, month, number)
    if weekday == calendar.SATURDAY:
        return number - 1 if number > 1 else number + 2
    if weekday == calendar.SUNDAY:
        return number + 1 if number < length else number - 2
    return number
