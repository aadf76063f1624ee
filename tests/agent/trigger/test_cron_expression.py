"""What a cron expression means, against two oracles: fields written out by counting, and a walk over every minute.

`test_schedule.py` compares with cronsim, which speaks neither wrapped ranges nor changes of half an hour.
"""

from __future__ import annotations

import warnings
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from definable.agent.trigger import Cron
from definable.agent.trigger.cron_expression import CronExpression
from definable.errors import ConfigurationError

MINUTE = timedelta(minutes=1)

FIELDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}

NAMES = {
    "month": "jan feb mar apr may jun jul aug sep oct nov dec".split(),
    "weekday": "sun mon tue wed thu fri sat".split(),
}


def read(name: str, text: str) -> set[int]:
    """The numbers that the product reads in one field; the others are stars."""
    texts = dict.fromkeys(FIELDS, "*") | {"minute": "0", "hour": "0"} | {name: text}
    parsed = CronExpression.parse(" ".join(texts.values()))
    assert not parsed.weekdays.nth
    return {
        "minute": set(parsed.minutes),
        "hour": set(parsed.hours),
        "day": set(parsed.month_days.numbers),
        "month": set(parsed.months),
        "weekday": set(parsed.weekdays.every),
    }[name]


def count(name: str, first: int, final: int, step: int) -> set[int]:
    """Every `step`th value from `first` to `final`, counted one by one around the field."""
    low, high = FIELDS[name]
    values = [first]
    while values[-1] != final:
        values.append(low if values[-1] == high else values[-1] + 1)
    return set(values[::step])


@pytest.mark.parametrize("name", FIELDS)
def test_a_range_is_every_value_from_its_first_to_its_last_around_the_field(name: str) -> None:
    low, high = FIELDS[name]
    for first in range(low, high + 1, 1 + high // 12):
        for final in range(low, high + 1, 1 + high // 24):
            for step in (1, 2, 7, 59):
                text = f"{first}-{final}/{step}"
                assert read(name, text) == count(name, first, final, step), text
            assert read(name, f"{first}-{final}") == count(name, first, final, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_range_of_names_is_the_range_of_their_numbers(name: str) -> None:
    low, _ = FIELDS[name]
    for first, one in enumerate(NAMES[name], low):
        for final, other in enumerate(NAMES[name], low):
            assert read(name, f"{one}-{other.upper()}/2") == count(name, first, final, 2)
            assert read(name, f"{first}-{other}") == count(name, first, final, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-7", {0, 1, 2, 3, 4, 5, 6}),
        ("0-7/2", {0, 2, 4, 6}),
        ("1-7/2", {1, 3, 5, 0}),
        ("7-7", {0}),
        ("7-2", {0, 1, 2}),
        ("7-0", {0}),
        ("5-7/2", {5, 0}),
        ("mon-7", {1, 2, 3, 4, 5, 6, 0}),
        ("5/2", {5}),
    ],
)
def test_seven_is_the_sunday_at_the_end_of_the_week(text: str, expected: set[int]) -> None:
    assert read("weekday", text) == expected


def test_a_range_may_end_with_the_last_day_of_the_month() -> None:
    assert read("day", "28-L") == {28, 29, 30, 31}
    assert read("day", "25-l/3") == {25, 28, 31}


@pytest.mark.parametrize(
    "text",
    [
        "L-3",
        "15W-20",
        "15-20W",
        "*-5",
        "?-5",
        "5-*",
        "5-",
        "-5",
        "1-5-7",
        "3-1/0",
        "0-5",
        "5-32",
        "1,",
        ",1",
        "1,?",
        "?,1",
    ],
)
def test_refuses_a_range_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"day of month .* is not valid"):
        Cron(f"0 0 {text} * *")


def test_no_part_of_a_list_changes_what_another_means() -> None:
    assert days("* * mon#1,mon") == days("* * mon") == days("* * mon,mon#1,L1")
    assert days("* * mon#1,fri") == days("* * mon#1") | days("* * fri")
    assert days("* * L5,wed-fri/2#3,tue") == days("* * L5") | days("* * wed#3,fri#3") | days("* * tue")
    assert days("* * 5-1/2#1") == days("* * fri#1,sun#1")
    assert days("* * fri-fri#1") == days("* * fri#1")
    assert days("1W,15W * *") == days("1W * *") | days("15W * *")
    assert days("15,15W,L * *") == days("15 * *") | days("15W * *") | days("L * *")


def days(fields: str) -> set[float]:
    """The days of three years, which hold every weekday of most dates."""
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    return {at for at in Cron(f"0 0 {fields}").upcoming(1100, start) if at < start + 3 * 365 * 86400}


# Seconds first


@pytest.mark.parametrize(
    ("expression", "instead"),
    [
        ("0 0 9 * * *", "0 9 * * * 0"),
        ("0 0 9 * * 1", "0 9 * * 1 0"),
        ("0 0 9 * * 1-5", "0 9 * * 1-5 0"),
        ("0 * * * * *", "* * * * * 0"),
        ("*/5 * * * * *", "* * * * * */5"),
        ("0 0 1 1 * *", "0 1 1 * * 0"),
    ],
)
def test_warns_where_the_seconds_were_probably_put_first(expression: str, instead: str) -> None:
    with pytest.warns(UserWarning) as caught:
        Cron(expression)
    [warning] = caught
    assert warning.filename == __file__
    said = str(warning.message)
    fields = expression.split()
    assert f"cron expression {expression!r}" in said
    assert f"minute {fields[0]!r}, hour {fields[1]!r}" in said
    assert f"second {fields[5]!r}" in said
    assert f"second {fields[0]!r}, minute {fields[1]!r}, hour {fields[2]!r}" in said
    assert repr(instead) in said


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * * *",
        "* * * * * */15",
        "30 2 * * * 5",
        "0 9 * * mon 0,30",
        "0 9 * * * 0",
        "10 * * * * 0,30",
        "0 9 1 * *",
    ],
)
def test_does_not_warn_where_the_seconds_are_last(expression: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cron(expression)


@pytest.mark.parametrize(
    ("expression", "instead"),
    [
        ("0 30 9 * * *", "30 9 * * * 0"),
        ("0 0 9 ? * mon-fri", "0 9 ? * mon-fri 0"),
        ("0 0 0 1 1 *", "0 0 1 1 * 0"),
        ("0 0 12 31 3 ?", "0 12 31 3 ? 0"),
    ],
)
def test_an_expression_that_is_valid_only_with_seconds_first_is_refused_with_the_right_one(
    expression: str, instead: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cron(expression)
    assert repr(instead) in str(caught.value)


# Every minute around a change of the clock

ZONES = sorted(zoneinfo.available_timezones())
FIRST_YEAR, LAST_YEAR = 1980, 2037
"""From here on every offset is whole minutes, and there the rules of the time zone database end."""


@lru_cache
def changes(zone: str) -> list[datetime]:
    """The instants at which a zone's offset changes; two changes within a day may be missed."""
    info = zoneinfo.ZoneInfo(zone)
    found: list[datetime] = []
    day = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
    while day.year < LAST_YEAR:
        low, high = day, day + timedelta(days=7)
        if low.astimezone(info).utcoffset() != high.astimezone(info).utcoffset():
            while high - low > MINUTE:
                middle = low + (high - low) // 2 // MINUTE * MINUTE
                same = middle.astimezone(info).utcoffset() == day.astimezone(info).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            found.append(high)
        day += timedelta(days=7)
    return found


def walk(
    minutes: set[int], hours: set[int], *, keeps_interval: bool, zone: str, start: datetime, until: datetime
) -> list[float]:
    """Debian's rules (cron(8)), applied by looking at the clock each minute."""
    info = zoneinfo.ZoneInfo(zone)
    fired: list[float] = []
    now = start - timedelta(days=2)
    seen: set[datetime] = set()
    shown = now.astimezone(info).replace(tzinfo=None) - MINUTE
    while now <= until:
        before, shown = shown, now.astimezone(info).replace(tzinfo=None, fold=0)
        due = shown.minute in minutes and shown.hour in hours
        if not keeps_interval:
            due = due and shown not in seen
            skipped = before + MINUTE
            while skipped < shown:
                due = due or (skipped.minute in minutes and skipped.hour in hours and skipped not in seen)
                skipped += MINUTE
        seen.add(shown)
        if due and now > start:
            fired.append(now.timestamp())
        now += MINUTE
    return fired


@st.composite
def time_fields(draw: st.DrawFn, name: str) -> tuple[str, set[int]]:
    """A field of one to three values and ranges, also wrapped ones, and what it names."""
    low, high = FIELDS[name]
    texts: list[str] = []
    values: set[int] = set()
    for _ in range(draw(st.integers(1, 3))):
        first, final, step = draw(st.integers(low, high)), draw(st.integers(low, high)), draw(st.integers(1, 9))
        texts.append(draw(st.sampled_from([f"{first}-{final}/{step}", f"{first}-{final}/{step}", f"{first}-{first}"])))
        values |= {first} if texts[-1] == f"{first}-{first}" else count(name, first, final, step)
    return ",".join(texts), values


@given(
    minute=time_fields("minute"),
    hour=time_fields("hour"),
    star=st.sampled_from(["", "minute", "hour", "both"]),
    zone=st.sampled_from(ZONES),
    which=st.integers(0, 200),
    before=st.integers(1, 1500),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_a_walk_over_every_minute_around_a_change_of_the_clock(
    minute: tuple[str, set[int]], hour: tuple[str, set[int]], star: str, zone: str, which: int, before: int
) -> None:
    known = changes(zone)
    assume(known)
    if star in ("minute", "both"):
        minute = "*", set(range(60))
    if star in ("hour", "both"):
        hour = "*/3", set(range(0, 24, 3))
    start = known[which % len(known)] - before * MINUTE
    until = start + timedelta(days=2)
    expected = walk(minute[1], hour[1], keeps_interval=bool(star), zone=zone, start=start, until=until)
    schedule = Cron(f"{minute[0]} {hour[0]} * * *", timezone=zone)
    found = [at for at in schedule.upcoming(len(expected) + 1, start.timestamp()) if at <= until.timestamp()]
    assert found == expected
