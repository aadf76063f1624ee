"""When a schedule fires: syntax, calendar, DST, and agreement with cronsim, which implements Debian's rules."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from definable.agent.trigger import Cron
from definable.agent.trigger.cron_expression import CronExpression
from definable.errors import ConfigurationError


def unix(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def firings(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next firings as local times with their offset: `03-29T03:00+02:00`."""
    instants = Cron(expression, timezone=zone).upcoming(count, unix(after, zone))
    return [datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat(timespec="minutes")[5:] for at in instants]


def days(expression: str, after: str, count: int) -> list[str]:
    return [datetime.fromtimestamp(at, UTC).date().isoformat() for at in Cron(expression).upcoming(count, unix(after))]


# Syntax


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 9 * * *", "2026-01-01 09:00:00"),
        ("@daily", "2026-01-02 00:00:00"),
        ("@Hourly", "2026-01-01 01:00:00"),
        ("@weekly", "2026-01-04 00:00:00"),
        ("@monthly", "2026-02-01 00:00:00"),
        ("@yearly", "2027-01-01 00:00:00"),
        ("@annually", "2027-01-01 00:00:00"),
        ("@midnight", "2026-01-02 00:00:00"),
        ("* * * * * */15", "2026-01-01 00:00:15"),
        ("30 2 * * * 5", "2026-01-01 02:30:05"),
        ("10-20/5,40 3 * * *", "2026-01-01 03:10:00"),
        ("5/20 * * * *", "2026-01-01 00:05:00"),
        ("0 0 * feb-MAR mon", "2026-02-02 00:00:00"),
        ("0 0 * * 7", "2026-01-04 00:00:00"),
        ("0 0 * * sat-mon", "2026-01-03 00:00:00"),
        ("0 0 ? * fri", "2026-01-02 00:00:00"),
        ("  0  9  * *   * ", "2026-01-01 09:00:00"),
    ],
)
def test_reads_what_croniter_reads(expression: str, expected: str) -> None:
    assert Cron(expression).next_after(unix("2026-01-01")) == unix(expected)


def test_last_day_of_month_and_last_and_nth_weekday() -> None:
    assert days("0 0 L * *", "2028-01-15", 3) == ["2028-01-31", "2028-02-29", "2028-03-31"]
    assert days("0 0 * * L5", "2026-01-01", 2) == ["2026-01-30", "2026-02-27"]
    assert days("0 0 * * mon#2", "2026-01-01", 2) == ["2026-01-12", "2026-02-09"]
    assert days("0 0 * * tue#5", "2026-01-01", 2) == ["2026-03-31", "2026-06-30"]


def test_nearest_weekday_stays_in_its_month() -> None:
    assert days("0 0 15W * *", "2026-02-01", 2) == ["2026-02-16", "2026-03-16"]  # both 15ths are Sundays
    assert days("0 0 1W * *", "2026-07-15", 1) == ["2026-08-03"]  # the 1st is a Saturday
    assert days("0 0 31W * *", "2026-05-02", 1) == ["2026-05-29"]  # the 31st is a Sunday
    assert days("0 0 15W * *", "2026-08-01", 1) == ["2026-08-14"]  # the 15th is a Saturday
    assert days("0 0 31W * *", "2026-10-01", 1) == ["2026-10-30"]  # the 31st is a Saturday
    assert days("0 0 31W * *", "2027-02-01", 1) == ["2027-02-26"]  # the last day, the 28th, is a Sunday
    assert days("0 0 2W * *", "2026-04-10", 1) == ["2026-05-01"]  # the 2nd is a Saturday
    assert days("0 0 15W * *", "2026-04-01", 1) == ["2026-04-15"]  # a Wednesday, which is a weekday itself


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("61 * * * *", "minute '61'"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day of month '0'"),
        ("* * * 13 *", "month '13'"),
        ("* * * * mon#6", "day of week 'mon#6'"),
        ("* * * * * 60", "second '60'"),
        ("*/0 * * * *", "minute '*/0'"),
        ("1,,2 * * * *", "minute '1,,2'"),
        ("* * *", "has 3 fields"),
        ("", "has 0 fields"),
        ("* * * * * * 2027", "has 7 fields"),
        ("@reboot", "@daily"),
        ("H * * * *", "jitter="),
        ("R(0-30) * * * *", "jitter="),
        ("0 0 30 2 *", "can never fire"),
        ("0 0 31 4,6,9,11 *", "can never fire"),
        ("0 0 */31 * mon#5", "can never fire"),
    ],
)
def test_refuses_an_expression_and_names_it(expression: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cron(expression)
    assert isinstance(caught.value, ValueError)
    assert says in str(caught.value)
    assert repr(expression) in str(caught.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "America", "", "../UTC", "/etc/localtime", "\0"])
def test_refuses_an_unknown_time_zone(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown timezone"):
        Cron("@daily", timezone=zone)


def test_names_the_zone_that_was_probably_meant() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'Europe/Berlin'"):
        Cron("@daily", timezone="Europe/Berln")


@pytest.mark.filterwarnings("ignore:cron expression .* is read with the seconds last")
@given(st.lists(st.text("0123456789*,-/#?@LWHRlwmonfrijan", min_size=1, max_size=7), min_size=1, max_size=7))
@settings(max_examples=300, deadline=None)
def test_any_text_is_either_a_schedule_or_a_configuration_error(fields: list[str]) -> None:
    try:
        schedule = Cron(" ".join(fields))
    except ConfigurationError:
        return
    assert schedule.next_after(0.0) > 0


# Calendar


def test_day_of_month_or_day_of_week_is_enough_where_both_are_restricted() -> None:
    assert days("0 0 13 * fri", "2026-02-01", 5) == [
        "2026-02-06",
        "2026-02-13",
        "2026-02-20",
        "2026-02-27",
        "2026-03-06",
    ]
    assert days("0 0 13 * fri", "2026-01-09", 2) == ["2026-01-13", "2026-01-16"]


def test_both_must_match_where_one_starts_with_a_star_as_crontab_says() -> None:
    assert days("0 0 */2 * mon", "2026-01-01", 3) == ["2026-01-05", "2026-01-19", "2026-02-09"]


def test_leap_day() -> None:
    assert days("0 0 29 2 *", "2096-03-01", 2) == ["2104-02-29", "2108-02-29"]  # 2100 is no leap year


def test_leap_day_on_a_weekday_may_wait_for_decades() -> None:
    # The star makes day of month and day of week both count: a 29 February on a Sunday or a Saturday.
    assert days("0 0 29 2 */6", "2088-03-01", 2) == ["2116-02-29", "2128-02-29"]


def test_a_day_that_does_not_come_for_forty_years_is_found() -> None:
    # The fifth Sunday of a February is its 29th; 2100 is no leap year.
    assert days("0 0 * 2 sun#5", "2088-03-01", 2) == ["2128-02-29", "2156-02-29"]


def test_the_calendar_ends_with_the_last_day_of_the_year_9999() -> None:
    christmas = CronExpression.parse("0 0 25 12 *")
    assert christmas.first_after(datetime(9999, 11, 26)) == datetime(9999, 12, 25)
    with pytest.raises(OverflowError, match="9999"):
        christmas.first_after(datetime(9999, 12, 25))


def test_strictly_after_also_between_two_seconds() -> None:
    schedule = Cron("* * * * * *")
    assert schedule.next_after(1_000_000_000.0) == 1_000_000_001.0
    assert schedule.next_after(1_000_000_000.999_999) == 1_000_000_001.0
    assert schedule.next_after(math.nextafter(1_000_000_001.0, 0)) == 1_000_000_001.0
    assert schedule.next_after(-0.5) == 0.0
    assert schedule.next_after(-1.0) == 0.0


# The clock changes


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        # Skipped: once, when the gap ends.
        ("America/New_York", "30 2 * * *", "2026-03-07T12:00", ["03-08T03:00-04:00", "03-09T02:30-04:00"]),
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00", ["03-29T03:00+02:00", "03-30T02:30+02:00"]),
        ("Europe/Berlin", "0,15,30 2 * * *", "2026-03-28T12:00", ["03-29T03:00+02:00", "03-30T02:00+02:00"]),
        ("Europe/Berlin", "0 2,3 * * *", "2026-03-28T12:00", ["03-29T03:00+02:00", "03-30T02:00+02:00"]),
        ("Europe/Dublin", "30 1 * * *", "2026-03-28T12:00", ["03-29T02:00+01:00", "03-30T01:30+01:00"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00", ["10-04T02:30+11:00", "10-05T02:15+11:00"]),
        ("Africa/Cairo", "0 0 * * *", "2026-04-23T12:00", ["04-24T01:00+03:00", "04-25T00:00+03:00"]),
        ("Asia/Beirut", "15 0 * * *", "2026-03-28T12:00", ["03-29T01:00+03:00", "03-30T00:15+03:00"]),
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00", ["11-04T01:00-02:00", "11-05T00:00-02:00"]),
        ("Pacific/Apia", "30 2 30 12 *", "2011-12-28T12:00", ["12-31T00:00+14:00", "12-30T02:30+14:00"]),
        # Repeated: the first time only.
        ("America/New_York", "30 1 * * *", "2026-10-31T12:00", ["11-01T01:30-04:00", "11-02T01:30-05:00"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
        ("Europe/Dublin", "30 1 * * *", "2026-10-24T12:00", ["10-25T01:30+01:00", "10-26T01:30+00:00"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00", ["04-05T01:45+11:00", "04-06T01:45+10:30"]),
        ("Africa/Cairo", "30 23 * * *", "2026-10-29T12:00", ["10-29T23:30+03:00", "10-30T23:30+02:00"]),
        ("America/Sao_Paulo", "30 23 * * *", "2018-02-17T12:00", ["02-17T23:30-02:00", "02-18T23:30-03:00"]),
        ("Europe/Berlin", "0 0-23 * * *", "2026-10-25T01:30", ["10-25T02:00+02:00", "10-25T03:00+01:00"]),
        ("Europe/Berlin", "30 2 * * * 15", "2026-10-24T12:00", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
    ],
)
def test_a_job_at_a_fixed_time_fires_once_on_the_day_of_the_change(
    zone: str, expression: str, after: str, expected: list[str]
) -> None:
    assert firings(expression, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "minutes", "after"),
    [
        (zone, minutes, after)
        for zone, after in [
            ("America/New_York", "2026-03-08T00:00"),
            ("America/New_York", "2026-11-01T00:00"),
            ("Europe/Dublin", "2026-03-29T00:00"),
            ("Europe/Dublin", "2026-10-25T00:00"),
            ("Australia/Lord_Howe", "2026-10-04T00:00"),
            ("Australia/Lord_Howe", "2026-04-05T00:00"),
            ("Africa/Cairo", "2026-04-23T22:00"),
            ("Africa/Cairo", "2026-10-29T22:00"),
            ("America/Sao_Paulo", "2018-11-03T22:00"),
            ("America/Sao_Paulo", "2018-02-17T22:00"),
            ("Pacific/Apia", "2011-12-29T22:00"),
        ]
        for minutes in (1, 5, 15, 30)
    ],
)
def test_a_job_every_few_minutes_keeps_its_real_interval(zone: str, minutes: int, after: str) -> None:
    instants = Cron(f"*/{minutes} * * * *", timezone=zone).upcoming(6 * 60 // minutes, unix(after, zone))
    assert {later - earlier for earlier, later in pairwise(instants)} == {minutes * 60.0}


def test_an_hourly_job_fires_every_real_hour_where_the_clock_moves_by_whole_hours() -> None:
    assert firings("0 * * * *", "Europe/Berlin", "2026-10-25T01:30", 3) == [
        "10-25T02:00+02:00",
        "10-25T02:00+01:00",
        "10-25T03:00+01:00",
    ]
    assert firings("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", 2) == ["03-29T01:00+01:00", "03-29T03:00+02:00"]


def test_a_wildcard_job_within_the_skipped_hour_does_not_fire_that_day() -> None:
    assert firings("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 1) == ["03-30T02:00+02:00"]


def test_from_within_the_second_pass_nothing_of_the_first_comes_back() -> None:
    second_pass = unix("2026-10-25T02:10", "Europe/Berlin", fold=1)
    assert Cron("30 2 * * *", timezone="Europe/Berlin").next_after(second_pass) == unix(
        "2026-10-26T02:30", "Europe/Berlin"
    )
    assert Cron("*/30 * * * *", timezone="Europe/Berlin").next_after(second_pass) == second_pass + 20 * 60


def test_each_of_a_year_of_days_fires_exactly_once_in_every_zone() -> None:
    for zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Beirut"):
        for hour in range(4):
            instants = Cron(f"30 {hour} * * *", timezone=zone).upcoming(365, unix("2025-12-31T12:00", zone))
            dates = [datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in instants]
            assert {later - earlier for earlier, later in pairwise(dates)} == {timedelta(days=1)}, (zone, hour)


# What lies between


def test_missed_counts_and_finds_the_latest() -> None:
    schedule = Cron("0 * * * *")
    assert schedule.missed(unix("2026-01-01T00:00"), unix("2026-01-01T00:59:59")) == (0, None)
    assert schedule.missed(unix("2026-01-01T00:00"), unix("2026-01-01T05:00")) == (5, unix("2026-01-01T05:00"))


def test_missed_over_half_a_century_of_seconds_stops_counting_but_finds_the_latest() -> None:
    until = unix("2026-01-01T05:00:00.5")
    assert Cron("* * * * * *").missed(0, until, limit=100) == (100, math.floor(until))
    assert Cron("* 9 1 1 * *").missed(0, until, limit=100) == (100, unix("2025-01-01T09:59:59"))


# cronsim

# Left out of the comparison, on purpose:
# - `5/2` in the day of week: for cronsim the week runs to 7, for croniter to 6; so it does in `5-5/2`.
# - Ranges that end before they begin: cronsim refuses them.
# - Wildcard jobs where the clock changes at midnight or by half an hour: cronsim steps by whole hours and days and so
#   reports a midnight that does not exist, and loses firings next to a change of half an hour.
# - Six fields with a fixed time: cronsim leaves them out of Debian's rule; a field for seconds makes no other kind of
#   job of it.
# - A start within the second pass of a repeated hour: cronsim then answers with a time that has passed.

WHOLE_HOURS = {
    "America/New_York": ("03-08", "11-01"),
    "Europe/Berlin": ("03-29", "10-25"),
    "Europe/Dublin": ("03-29", "10-25"),
    "Australia/Sydney": ("04-05", "10-04"),
    "America/Santiago": ("07-01", "12-01"),
    "Asia/Kolkata": ("02-27", "12-30"),
    "UTC": ("02-27", "12-30"),
}
"""Days near changes in 2026, where there are any."""

ODD = {
    "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),
    "Africa/Cairo": ("2026-04-24", "2026-10-29"),
    "Asia/Beirut": ("2026-03-29", "2026-10-24"),
    "America/Sao_Paulo": ("2018-11-04", "2018-02-17"),
    "Pacific/Apia": ("2011-12-30", "2011-09-24"),
    "Africa/Casablanca": ("2026-02-15", "2026-03-22"),
}


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ranges = st.tuples(number, number).filter(lambda pair: pair[0] <= pair[1]).map(lambda pair: f"{pair[0]}-{pair[1]}")
    stepped = st.builds("{}/{}".format, ranges.filter(lambda text: len(set(text.split("-"))) > 1), st.integers(1, high))
    return st.one_of(number.map(str), ranges, stepped)


def lists(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(numbers(low, high), min_size=1, max_size=3).map(",".join)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    stepped = st.integers(1, max(2, high // 2)).map("*/{}".format)
    return st.one_of(st.just("*"), stepped, lists(low, high))


def weekday_pairs() -> st.SearchStrategy[tuple[str, str]]:
    """Day of week as croniter and as cronsim write it."""
    last = st.integers(0, 6).map(lambda day: (f"L{day}", f"{day}L"))
    nth = st.builds("{}#{}".format, st.integers(0, 7), st.integers(1, 5)).map(lambda text: (text, text))
    plain = field(0, 7).map(lambda text: (text, text))
    names = st.sampled_from(["mon", "mon-fri", "sat,sun"]).map(lambda text: (text, text))
    special = st.one_of(nth, last)
    mixed = st.builds(lambda one, more: (f"{one[0]},{more}", f"{one[1]},{more}"), special, lists(0, 7))
    return st.one_of(plain, plain, names, special, mixed)


month_days = st.one_of(field(1, 31), field(1, 31), st.just("L"))
months = st.one_of(st.just("*"), st.just("*"), field(1, 12), st.sampled_from(["jan", "feb-apr", "oct,nov"]))


def exists(moment: datetime) -> bool:
    """Whether the clock of its zone ever shows it."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None)


def compare(ours: str, theirs: str, zone: str, start: datetime, count: int = 10) -> None:
    aware = start.replace(tzinfo=ZoneInfo(zone))
    try:
        moments = list(islice(CronSim(theirs, aware), count))
    except CronSimError:
        assume(False)
    assume(all(map(exists, moments)))
    expected = [moment.timestamp() for moment in moments]
    assume(len(expected) == count)  # cronsim gives up after fifty years
    assert Cron(ours, timezone=zone).upcoming(count, aware.timestamp()) == expected


@given(
    minute=field(0, 59),
    hour=field(0, 23),
    day=month_days,
    month=months,
    weekday=weekday_pairs(),
    zone=st.sampled_from(sorted(WHOLE_HOURS)),
    change=st.integers(0, 1),
    before=st.integers(1, 3000),
)
@settings(max_examples=400, deadline=None)
def test_agrees_with_cronsim(
    minute: str, hour: str, day: str, month: str, weekday: tuple[str, str], zone: str, change: int, before: int
) -> None:
    start = datetime.fromisoformat(f"2026-{WHOLE_HOURS[zone][change]}") - timedelta(minutes=before)
    ours, theirs = (f"{minute} {hour} {day} {month} {text}" for text in weekday)
    compare(ours, theirs, zone, start)


@given(
    minute=lists(0, 59),
    hour=lists(0, 23),
    day=month_days,
    weekday=weekday_pairs(),
    zone=st.sampled_from(sorted(ODD)),
    change=st.integers(0, 1),
    before=st.integers(61, 3000),
)
@settings(max_examples=300, deadline=None)
def test_agrees_with_cronsim_on_fixed_times_in_odd_zones(
    minute: str, hour: str, day: str, weekday: tuple[str, str], zone: str, change: int, before: int
) -> None:
    start = datetime.fromisoformat(ODD[zone][change]) - timedelta(minutes=before)
    ours, theirs = (f"{minute} {hour} {day} * {text}" for text in weekday)
    compare(ours, theirs, zone, start)


@pytest.mark.filterwarnings("ignore:cron expression .* is read with the seconds last")
@given(
    second=field(0, 59),
    hour=st.sampled_from(["*", "*/2", "*/5"]),
    minute=field(0, 59),
    zone=st.sampled_from(sorted(WHOLE_HOURS)),
    change=st.integers(0, 1),
    before=st.integers(1, 1500),
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_cronsim_on_seconds(
    second: str, hour: str, minute: str, zone: str, change: int, before: int
) -> None:
    start = datetime.fromisoformat(f"2026-{WHOLE_HOURS[zone][change]}") - timedelta(minutes=before)
    compare(f"{minute} {hour} * * * {second}", f"{second} {minute} {hour} * * *", zone, start)


@given(
    minute=field(0, 59),
    hour=field(0, 23),
    zone=st.sampled_from(sorted(WHOLE_HOURS | ODD)),
    start=st.floats(0, 4e9),
)
@settings(max_examples=300, deadline=None)
def test_firings_ascend_and_lie_after_the_start(minute: str, hour: str, zone: str, start: float) -> None:
    instants = [start, *Cron(f"{minute} {hour} * * *", timezone=zone).upcoming(5, start)]
    assert all(earlier < later for earlier, later in pairwise(instants))


# Speed


def test_ten_thousand_expressions_are_ready_in_about_a_second() -> None:
    texts = [f"{n % 60} {n // 60 % 24} {n // 1440 + 1} * *" for n in range(10_000)]
    began = time.process_time()
    for text in texts:
        Cron(text, timezone="Europe/Berlin").next_after(1_790_000_000.0)
    assert time.process_time() - began < 2.0
