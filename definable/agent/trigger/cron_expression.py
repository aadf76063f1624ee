"""Which wall-clock times a cron expression names: pure, and blind to time zones.

`Cron` asks here for wall times and maps them to instants. croniter reads the parts of the fields' lists, one at a time,
so that its syntax is understood, no part changes what another means, and ten thousand expressions share the few hundred
parts that they are made of. Ranges are ours, because croniter takes `9-9` for every hour and loses the step of `23-5/2`
at midnight; so is the matching, because its handling of DST is not Debian's.
"""

from __future__ import annotations

import calendar
import re
import warnings
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache, reduce
from typing import Any, NamedTuple

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


class Field(NamedTuple):
    """What one field of an expression takes."""

    name: str
    low: int
    high: int
    allowed: str


FIELDS = (
    Field("minute", 0, 59, "0-59"),
    Field("hour", 0, 23, "0-23"),
    Field("day of month", 1, 31, "1-31, L for the last, 15W for the weekday nearest to the 15th"),
    Field("month", 1, 12, "1-12 or jan-dec"),
    Field("day of week", 0, 6, "0-7 or sun-sat, mon#2 for the second Monday, L5 for the last Friday"),
    Field("second", 0, 59, "0-59"),
)
"""In croniter's order: the optional seconds come last."""

DAY = 2
"""Index of the day of month."""

RANGE = re.compile(r"(?P<first>\w+)-(?P<final>\w+)(?:/(?P<step>[0-9]+))?(?P<nth>#[0-9]+)?")
"""`mon-fri`, `fri-mon/2`, `mon-wed#1`."""

CALENDAR_CYCLE = 400 * 12
"""Months after which the Gregorian calendar repeats, weekdays included (146,097 days are whole weeks)."""

SECOND = timedelta(seconds=1)
ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class MonthDays:
    """The day-of-month field."""

    numbers: frozenset[int]
    last: bool
    """`L`: the last day of the month."""
    nearest_weekdays_to: frozenset[int]
    """`15W`: the Monday to Friday nearest to the 15th within the month."""

    def __contains__(self, day: date) -> bool:
        if day.day in self.numbers or (self.last and day.day == _month_length(day)):
            return True
        return any(day.day == _nearest_weekday(day.year, day.month, number) for number in self.nearest_weekdays_to)


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
        """Reads `expression`, and warns where its author probably put the seconds first, as Quartz and Spring do.

        Raises:
            ConfigurationError: It is not valid, or names no day that ever comes.
        """
        texts = _split(expression)
        first, *others = texts
        seconds_first = [*others, first]
        try:
            parsed = cls._of(expression, texts)
        except ConfigurationError as error:
            if len(texts) == 6 and cls._is_valid(seconds_first):
                raise ConfigurationError(
                    f"{error}; the seconds are the last of six fields: did you mean {' '.join(seconds_first)!r}?"
                ) from error
            raise
        if parsed._seems_seconds_first(texts) and cls._is_valid(seconds_first):
            warnings.warn(
                f"cron expression {expression!r} is read with the seconds last: {_in_words(texts)}. With the seconds "
                f"first it would be second {first!r}, {_in_words(others)}; for that write {' '.join(seconds_first)!r}",
                stacklevel=3,
            )
        return parsed

    @classmethod
    def _of(cls, expression: str, texts: list[str]) -> CronExpression:
        minute, hour, day, month, weekday, second = texts = [*texts, "0"][:6]
        minutes, hours, days, months, weekdays, seconds = (
            _read(expression, index, text) for index, text in enumerate(texts)
        )
        parsed = cls(
            seconds=tuple(sorted(seconds.numbers)),
            minutes=tuple(sorted(minutes.numbers)),
            hours=tuple(sorted(hours.numbers)),
            months=months.numbers,
            month_days=MonthDays(days.numbers, days.last, days.nearest_weekdays_to),
            weekdays=Weekdays(weekdays.numbers, *_nth(weekdays)),
            needs_both_days=day.startswith(("*", "?")) or weekday.startswith(("*", "?")),
            is_fixed_time=not any(text.startswith("*") for text in (minute, hour, second)),
        )
        if parsed._day_from(date(2000, 1, 1)) is None:
            raise ConfigurationError(
                f"cron expression {expression!r} can never fire: no day of the calendar has day of month {day!r}, "
                f"month {month!r} and day of week {weekday!r}; change one of them"
            )
        return parsed

    @classmethod
    def _is_valid(cls, texts: list[str]) -> bool:
        try:
            cls._of(" ".join(texts), texts)
        except ConfigurationError:
            return False
        return True

    def _seems_seconds_first(self, texts: list[str]) -> bool:
        """Whether six fields look like it: few want a burst of seconds, or one day of each month to the second."""
        if len(texts) < 6:
            return False
        _, _, day, month, weekday, _ = texts
        is_burst = len(self.seconds) > 1 and len(self.minutes) < 60
        return is_burst or (day not in ("*", "?") and month == weekday == "*")

    def first_after(self, wall: datetime) -> datetime:
        """The first wall time of the expression strictly after `wall` (naive, whole seconds)."""
        wall += SECOND
        today = wall.date()
        if today.month in self.months and self._matches(today):
            clock = self._time_from(wall.hour, wall.minute, wall.second)
            if clock is not None:
                return datetime.combine(today, clock)
            today += ONE_DAY
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
    """What a field names, or one part of its list."""

    numbers: frozenset[int] = frozenset()
    last: bool = False
    nth: frozenset[tuple[int, int | str]] = frozenset()
    """Weekday and which one of the month, `"l"` for the last."""
    nearest_weekdays_to: frozenset[int] = frozenset()

    def __or__(self, other: FieldValues) -> FieldValues:
        return FieldValues(
            self.numbers | other.numbers,
            self.last or other.last,
            self.nth | other.nth,
            self.nearest_weekdays_to | other.nearest_weekdays_to,
        )


def _split(expression: str) -> list[str]:
    texts = NICKNAMES.get(expression.strip().lower(), expression).split()
    if len(texts) not in (5, 6):
        raise ConfigurationError(
            f"cron expression {expression!r} has {len(texts)} fields: it takes 5 (minute, hour, day of month, month, "
            f"day of week), a sixth for seconds, or one of {', '.join(NICKNAMES)}"
        )
    return texts


def _in_words(texts: list[str]) -> str:
    return ", ".join(f"{field.name} {text!r}" for field, text in zip(FIELDS, texts, strict=False))


def _read(expression: str, index: int, text: str) -> FieldValues:
    field = FIELDS[index]
    parts = text.lower().split(",")
    if any(part.startswith(("h", "r")) for part in parts):
        raise ConfigurationError(
            f"cron expression {expression!r}: {field.name} {text!r} is hashed or random, which would differ between "
            "restarts and replicas; write the time out, and spread the load with jitter="
        )
    try:
        if len(parts) > 1 and not {"", "?"}.isdisjoint(parts):
            raise ValueError("croniter drops an empty part, and takes ? alone only")
        return reduce(FieldValues.__or__, (_read_part(index, part) for part in parts))
    except ValueError as error:
        raise ConfigurationError(
            f"cron expression {expression!r}: {field.name} {text!r} is not valid; it takes {field.allowed}, with lists "
            "(1,2), ranges (1-5) and steps (*/5)"
        ) from error


@lru_cache(maxsize=8192)
def _read_part(index: int, text: str) -> FieldValues:
    found = RANGE.fullmatch(text)
    return _read_range(index, **found.groupdict()) if found else _ask_croniter(index, text)


def _read_range(index: int, first: str, final: str, step: str | None, nth: str | None) -> FieldValues:
    """A range, which goes on at the start of the field where it ends before it begins: `23-5/2` is 23, 1, 3, 5."""
    _, low, high, _ = FIELDS[index]
    begin, end = _read_end(index, first), high if (index, final) == (DAY, "l") else _read_end(index, final)
    if end < begin:
        end += high - low + 1
    # Modulo, since a week may also end with its Sunday, as 7.
    numbers = frozenset(
        low + (number - low) % (high - low + 1) for number in range(begin, end + 1, 1 if step is None else int(step))
    )
    if nth is None:
        return FieldValues(numbers)
    return reduce(FieldValues.__or__, (_ask_croniter(index, f"{number}{nth}") for number in numbers))


def _read_end(index: int, text: str) -> int:
    values = _ask_croniter(index, text)
    if values != FieldValues(values.numbers) or len(values.numbers) != 1:
        raise ValueError(f"{text!r} is no single value")
    return int(text) if text.isdecimal() else next(iter(values.numbers))


def _ask_croniter(index: int, text: str) -> FieldValues:
    # Deferred: croniter takes 0.1 s to import, and `import definable.agent` does without it.
    from croniter import croniter  # pyright: ignore[reportMissingTypeStubs]

    texts = ["*"] * len(FIELDS)
    texts[index] = text
    expand: Any = croniter.expand  # pyright: ignore[reportUnknownMemberType]  # croniter ships no types
    fields, nth = expand(" ".join(texts))
    if nth:
        return FieldValues(nth=frozenset((weekday, which) for weekday, some in nth.items() for which in some))
    if index == DAY and "w" in text:
        return FieldValues(nearest_weekdays_to=frozenset({int(text.strip("w"))}))
    values: list[int | str] = fields[index]
    if "*" in values:
        return FieldValues(frozenset(range(FIELDS[index].low, FIELDS[index].high + 1)))
    return FieldValues(frozenset(value for value in values if isinstance(value, int)), last="l" in values)


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
