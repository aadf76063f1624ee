"""The cron loop in virtual time: punctual, one pass for many jobs, and sane when the wall clock steps."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent.runtime.cron import CronLoop
from definable.agent.trigger import Cron
from definable.concurrency.clock import SystemClock, current_clock, use_clock
from definable.testing import VIRTUAL_BACKENDS, VirtualClock, run, virtual_clock, virtual_time

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param, start=NINE) as backend:
        yield backend


class Firings:
    """Takes the place of the bus: notes the nominal time of each firing, and when it came."""

    def __init__(self) -> None:
        self.nominal: list[float] = []
        self.lateness: list[float] = []

    async def __call__(self, job: Cron, nominal: float) -> None:
        self.nominal.append(nominal)
        self.lateness.append(current_clock().now() - nominal)

    def minutes(self) -> list[float]:
        """Nominal times in minutes after nine."""
        return [(at - NINE) / MINUTE for at in self.nominal]


@asynccontextmanager
async def running(*jobs: Cron, fire: Firings) -> AsyncGenerator[CronLoop]:
    loop = CronLoop(jobs, fire)
    async with anyio.create_task_group() as tg:
        await tg.start(loop.run)
        yield loop
        tg.cancel_scope.cancel()


async def test_a_day_of_firings_comes_on_time() -> None:
    firings = Firings()
    async with running(Cron("*/15 * * * *"), Cron("0 12 * * *"), fire=firings) as loop:
        await anyio.sleep(DAY + 1)
    assert len(firings.nominal) == 96 + 1
    assert max(firings.lateness) < 0.001
    assert loop.fired.total() == 97
    assert not loop.missed


async def test_started_means_that_the_first_firings_are_known() -> None:
    job = Cron("30 10 * * *")
    loop = CronLoop([job], Firings())
    assert loop.next_firing(job) is None
    async with anyio.create_task_group() as tg:
        await tg.start(loop.run)
        assert loop.next_firing(job) == NINE + 1.5 * HOUR
        await anyio.sleep(2 * HOUR)
        assert loop.next_firing(job) == NINE + 1.5 * HOUR + DAY
        tg.cancel_scope.cancel()
    assert loop.next_firing(job) is None


async def test_without_jobs_it_starts_and_waits_to_be_cancelled() -> None:
    async with running(fire=Firings()) as loop:
        await anyio.sleep(DAY)
    assert loop.jobs == ()


async def test_a_job_that_is_given_twice_fires_once() -> None:
    firings, job = Firings(), Cron("0 * * * *")
    async with running(job, job, fire=firings):
        await anyio.sleep(HOUR + 1)
    assert len(firings.nominal) == 1


async def test_it_sleeps_from_firing_to_firing_without_polling() -> None:
    class Counting(SystemClock):
        sleeps = 0

        def now(self) -> float:
            return NINE + anyio.current_time()

        async def sleep_until(self, when: float) -> None:
            self.sleeps += 1
            await anyio.sleep(when - self.now())

    with use_clock(clock := Counting()):
        async with running(Cron("0 * * * *"), fire=Firings()):
            await anyio.sleep(10 * HOUR + 1)
    assert clock.sleeps == 11


async def test_a_failing_publication_is_logged_and_counted_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Firings):
        async def __call__(self, job: Cron, nominal: float) -> None:
            if job is bad:
                raise RuntimeError("no room")
            await super().__call__(job, nominal)

    bad, good, firings = Cron("* * * * *"), Cron("* * * * *"), Failing()
    async with running(bad, good, fire=firings) as loop:
        await anyio.sleep(3 * MINUTE + 1)
    assert (loop.failed[bad], loop.fired[bad], loop.fired[good]) == (3, 0, 3)
    assert "no room" in caplog.text
    assert "cron(* * * * *)" in caplog.text


class Refusing(Firings):
    """Refuses what comes before some minute after nine."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = NINE + until * MINUTE

    async def __call__(self, job: Cron, nominal: float) -> None:
        if current_clock().now() < self.until:
            raise RuntimeError("no bus")
        await super().__call__(job, nominal)


@pytest.mark.parametrize("jitter", [0.0, 600.0])
async def test_a_firing_that_could_not_be_published_is_tried_again_within_its_grace(jitter: float) -> None:
    firings, job = Refusing(until=10.5 + jitter / MINUTE), Cron("10 * * * *", jitter=jitter, misfire_grace=90)
    async with running(job, fire=firings) as loop:
        await anyio.sleep(HOUR)
    assert firings.minutes() == [10]
    assert (loop.fired[job], loop.failed[job], loop.missed[job]) == (1, 1, 0)


async def test_a_firing_that_cannot_be_published_within_its_grace_is_missed() -> None:
    firings, job = Refusing(until=15), Cron("10 * * * *")
    async with running(job, fire=firings) as loop:
        await anyio.sleep(2 * HOUR)
    assert firings.minutes() == [70]
    assert (loop.fired[job], loop.failed[job], loop.missed[job]) == (1, 1, 1)


async def test_of_several_firings_that_could_not_be_published_the_latest_fires() -> None:
    firings, job = Refusing(until=8.5), Cron("* * * * *", misfire_grace=math.inf)
    async with running(job, fire=firings) as loop:
        await anyio.sleep(10 * MINUTE + 1)
    assert firings.minutes() == [8, 9, 10]
    assert loop.failed[job] == 8


async def test_an_earlier_firing_that_jitter_brings_later_takes_no_other_attempt_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays = iter([90.0, 10.0])
    monkeypatch.setattr("definable.agent.runtime.cron.delay_of", lambda job: next(delays, 0.0))
    firings = Refusing(until=2.4)
    async with running(Cron("1,2 9 * * *", misfire_grace=HOUR), fire=firings):
        await anyio.sleep(HOUR)
    assert sorted(firings.minutes()) == [1, 2]


async def test_ten_thousand_jobs_of_one_second_all_fire_on_time() -> None:
    firings = Firings()
    jobs = [Cron("0 * * * *") for _ in range(10_000)]
    began = time.process_time()
    async with running(*jobs, fire=firings) as loop:
        await anyio.sleep(HOUR + 1)
    assert time.process_time() - began < 5
    assert all(loop.fired[job] == 1 for job in jobs)
    assert max(firings.lateness) < 0.001


async def test_one_pass_lets_other_tasks_take_their_turns_and_takes_few_itself() -> None:
    turns = [(0, 0, 0)]
    firings, jobs = Firings(), [Cron("0 * * * *") for _ in range(1000)]
    loop = CronLoop(jobs, firings)

    def scheduled(hour: int) -> int:
        return sum(loop.next_firing(job) == NINE + hour * HOUR for job in jobs)

    async def turn_taker() -> None:
        while scheduled(2) < 1000:
            turns.append((scheduled(1) + scheduled(2), len(firings.nominal), scheduled(2)))
            await checkpoint()
        tg.cancel_scope.cancel()

    async with anyio.create_task_group() as tg:
        tg.start_soon(turn_taker)
        await tg.start(loop.run)
        virtual_clock().step(HOUR)
    # First times, firings, next times: each for all before the next, and never many at once.
    assert all(reached == 1000 or not following for turn in turns for reached, following in pairwise(turn))
    done = [sum(turn) for turn in (*turns, (1000, 1000, 1000))]
    assert max(later - earlier for earlier, later in pairwise(done)) <= 100
    assert len(turns) <= 400  # one for each of the thousands would make the last ones late


# Late


async def test_a_step_forward_skips_what_is_too_late_and_makes_one_of_many() -> None:
    firings = Firings()
    stale, fresh = Cron("30 9 * * *"), Cron("* * * * *")
    async with running(stale, fresh, fire=firings) as loop:
        await anyio.sleep(10)
        virtual_clock().step(HOUR)
        await anyio.sleep(1)
        assert (loop.missed[stale], loop.fired[stale]) == (1, 0)
        assert (loop.missed[fresh], loop.fired[fresh]) == (59, 1)
        assert firings.minutes() == [60]
        await anyio.sleep(2 * MINUTE)
    assert firings.minutes() == [60, 61, 62]


async def test_what_was_skipped_is_said_once_for_each_pass(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Cron("* * * * *"), fire=Firings()):
        await anyio.sleep(10)
        for minutes in (4, 6):
            virtual_clock().step(minutes * MINUTE)
            await anyio.sleep(1)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == ["skipped 3 cron firings", "skipped 5 cron firings"]


@pytest.mark.parametrize(("late", "grace", "fires"), [(59, 60, True), (61, 60, False), (600, math.inf, True)])
async def test_misfire_grace_decides_whether_a_late_firing_counts(late: float, grace: float, fires: bool) -> None:
    firings, job = Firings(), Cron("30 9 * * *", misfire_grace=grace)
    async with running(job, fire=firings) as loop:
        await anyio.sleep(29 * MINUTE)
        virtual_clock().step(MINUTE + late)
        await anyio.sleep(1)
    assert (loop.fired[job], loop.missed[job]) == ((1, 0) if fires else (0, 1))
    assert firings.nominal == ([NINE + 30 * MINUTE] if fires else [])


async def test_no_grace_still_fires_within_the_second() -> None:
    firings, job = Firings(), Cron("30 9 * * *", misfire_grace=0)
    async with running(job, fire=firings):
        await anyio.sleep(29 * MINUTE)
        virtual_clock().step(MINUTE + 0.9)
        await anyio.sleep(1)
    assert firings.minutes() == [30]


async def test_a_slow_publication_makes_one_of_what_it_held_up() -> None:
    class Slow(Firings):
        async def __call__(self, job: Cron, nominal: float) -> None:
            await super().__call__(job, nominal)
            if len(self.nominal) == 1:
                await anyio.sleep(3.5 * MINUTE)

    firings, job = Slow(), Cron("* * * * *")
    async with running(job, fire=firings) as loop:
        await anyio.sleep(6 * MINUTE)
    assert firings.minutes()[:3] == [1, 4, 5]
    assert loop.missed[job] == 2


async def test_of_two_seconds_that_came_due_at_once_the_latest_fires() -> None:
    firings, job = Firings(), Cron("* * * * * *")
    async with running(job, fire=firings) as loop:
        await anyio.sleep(2.2)
        virtual_clock().step(2.5)
        await anyio.sleep(0.5)
    assert [at - NINE for at in firings.nominal] == [1, 2, 4, 5]
    assert loop.missed[job] == 1


async def test_a_step_of_half_a_century_costs_milliseconds() -> None:
    with use_clock(VirtualClock(0.0, anyio.current_time)):
        firings, job = Firings(), Cron("* * * * * *")
        async with running(job, fire=firings) as loop:
            virtual_clock().step(NINE)
            await anyio.sleep(1.5)
        assert loop.missed[job] >= 10_000
        assert firings.nominal[-1] >= NINE


# Back


async def test_a_step_back_repeats_no_nominal_time() -> None:
    firings, job = Firings(), Cron("*/10 * * * *")
    async with running(job, fire=firings) as loop:
        await anyio.sleep(65 * MINUTE)
        virtual_clock().step(-30 * MINUTE)
        await anyio.sleep(60 * MINUTE)
    assert firings.minutes() == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert not loop.missed


async def test_a_step_back_before_the_first_firing_delays_nothing() -> None:
    firings = Firings()
    async with running(Cron("*/10 * * * *"), fire=firings):
        await anyio.sleep(MINUTE)
        virtual_clock().step(-365 * DAY)
        await anyio.sleep(30 * MINUTE)
    assert [round((at - NINE + 365 * DAY) / MINUTE) for at in firings.nominal] == [10, 20, 30]


async def test_a_step_forward_that_is_taken_back_delays_nothing_and_repeats_nothing() -> None:
    firings, job = Firings(), Cron("*/10 * * * *", misfire_grace=HOUR)
    async with running(job, fire=firings):
        await anyio.sleep(25 * MINUTE)
        virtual_clock().step(DAY)
        await anyio.sleep(10 * MINUTE)
        virtual_clock().step(-DAY)
        await anyio.sleep(30 * MINUTE)
    day = DAY / MINUTE
    assert firings.minutes() == [10, 20, day + 20, day + 30, 40, 50, 60]


async def test_a_step_back_and_forward_again_repeats_nothing_either() -> None:
    firings = Firings()
    async with running(Cron("*/10 * * * *", misfire_grace=HOUR), fire=firings):
        await anyio.sleep(25 * MINUTE)
        virtual_clock().step(-HOUR)
        await anyio.sleep(MINUTE)
        virtual_clock().step(HOUR)
        await anyio.sleep(10 * MINUTE)
    assert firings.minutes() == [10, 20, 30]


async def test_a_step_back_while_a_firing_is_published_is_noticed() -> None:
    class Stepping(Firings):
        async def __call__(self, job: Cron, nominal: float) -> None:
            if not self.nominal:
                virtual_clock().step(-DAY)
            await super().__call__(job, nominal)

    firings = Stepping()
    async with running(Cron("*/10 * * * *"), fire=firings):
        await anyio.sleep(35 * MINUTE)
    assert firings.minutes() == [10, *(minutes - DAY / MINUTE for minutes in (20, 30))]


async def test_a_small_step_back_is_slept_out() -> None:
    firings = Firings()
    async with running(Cron("* * * * *"), fire=firings):
        await anyio.sleep(59.5)
        virtual_clock().step(-0.4)
        await anyio.sleep(2 * MINUTE)
    assert firings.minutes() == [1, 2]
    assert min(firings.lateness) >= 0


@pytest.mark.parametrize("step", [3 * HOUR, -3 * HOUR])
async def test_a_step_of_the_machines_clock_is_noticed_within_a_minute(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = NINE
    monkeypatch.setattr("definable.concurrency.clock.time.time", lambda: offset + anyio.current_time())
    firings = Firings()
    with use_clock(SystemClock()):
        async with running(Cron("30 * * * *", misfire_grace=math.inf), fire=firings) as loop:
            await anyio.sleep(10)
            offset += step
            await anyio.sleep(MINUTE)
            assert loop.next_firing(loop.jobs[0]) == NINE + step + 30 * MINUTE
            await anyio.sleep(HOUR)
    assert firings.minutes()[-1] == step / MINUTE + 30
    assert firings.lateness[-1] < 0.001


# Jitter


async def test_jitter_delays_the_firing_and_leaves_the_nominal_time() -> None:
    firings = Firings()
    async with running(Cron("*/5 * * * *", jitter=60), fire=firings) as loop:
        await anyio.sleep(DAY + MINUTE)
    assert firings.nominal == [NINE + 5 * MINUTE * n for n in range(1, 289)]
    assert 0 <= min(firings.lateness) < 10
    assert 50 < max(firings.lateness) <= 60
    assert not loop.missed


async def test_the_jitter_of_one_job_does_not_delay_another() -> None:
    firings, times = Firings(), Firings()

    class Both(Firings):
        async def __call__(self, job: Cron, nominal: float) -> None:
            await (times if job is punctual else firings)(job, nominal)

    punctual = Cron("* * * * *")
    async with running(Cron("* * * * *", jitter=50), punctual, fire=Both()):
        await anyio.sleep(HOUR + 1)
    assert max(times.lateness) < 0.001
    assert len(times.nominal) == 60


async def test_jitter_longer_than_the_interval_loses_no_firing() -> None:
    firings = Firings()
    async with running(Cron("* * * * *", jitter=600), fire=firings) as loop:
        await anyio.sleep(HOUR + 1)
        assert loop.next_firing(loop.jobs[0]) == NINE + 61 * MINUTE
        await anyio.sleep(HOUR)
    assert sorted(firings.minutes())[:100] == list(range(1, 101))
    assert not loop.missed


async def test_a_firing_that_jitter_holds_back_survives_a_step_back() -> None:
    firings = Firings()
    async with running(Cron("0 10 * * *", jitter=30), fire=firings):
        await anyio.sleep(HOUR + 0.001)
        virtual_clock().step(-2 * HOUR)
        await anyio.sleep(MINUTE)
        assert firings.minutes() == [60]
        await anyio.sleep(3 * HOUR)
    assert firings.minutes() == [60]


async def test_firings_that_a_stop_overtakes_are_published_after_it() -> None:
    class Slow(Firings):
        async def __call__(self, job: Cron, nominal: float) -> None:
            await anyio.sleep(0.1)
            await super().__call__(job, nominal)

    firings = Slow()
    async with running(*(Cron("0 10 * * *") for _ in range(5)), fire=firings) as loop:
        await anyio.sleep(HOUR + 0.15)
    assert firings.minutes() == [60]
    await loop.fire_pending()
    assert firings.minutes() == [60] * 5
    await loop.fire_pending()
    assert firings.minutes() == [60] * 5


async def test_of_several_firings_that_a_stop_overtakes_the_latest_is_published_after_it() -> None:
    class Slow(Firings):
        async def __call__(self, job: Cron, nominal: float) -> None:
            if job is slow and current_clock().now() < NINE + HOUR + MINUTE:
                await anyio.sleep(HOUR)
            await super().__call__(job, nominal)

    slow, often = Cron("0 10 * * *"), Cron("* * * * *")
    firings = Slow()
    async with running(slow, often, fire=firings) as loop:
        await anyio.sleep(HOUR + 3.5 * MINUTE)
    assert firings.minutes() == list(range(1, 60))
    await loop.fire_pending()
    assert sorted(firings.minutes()[59:]) == [60, 63]
    assert loop.missed[often] == 3


# A year


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_of_a_nightly_job_has_one_firing_a_day(backend: str, zone: str) -> None:
    async def a_year() -> list[float]:
        firings = Firings()
        async with running(Cron("30 2 * * *", timezone=zone), fire=firings):
            await anyio.sleep(365 * DAY)
        return firings.nominal

    instants = run(a_year, backend=backend, start=datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)))
    days = [datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in instants]
    assert len(days) == 365
    assert {later - earlier for earlier, later in pairwise(days)} == {timedelta(days=1)}


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_a_year_of_an_hourly_job_has_one_firing_an_hour(backend: str) -> None:
    async def a_year() -> list[float]:
        firings = Firings()
        async with running(Cron("0 * * * *", timezone="Europe/Berlin"), fire=firings):
            await anyio.sleep(365 * DAY + 1)
        return firings.nominal

    instants = run(a_year, backend=backend, start="2026-01-01T00:00:00+01:00")
    assert len(instants) == 8760
    assert {later - earlier for earlier, later in pairwise(instants)} == {HOUR}
