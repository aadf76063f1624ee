"""Intervals and one-shots of a served agent, in virtual time: through the bus, as cron jobs go."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.runtime import AgentRuntime, WorkCount
from definable.agent.runtime.banner import banner
from definable.agent.trigger import BaseTrigger, Cron, Interval, OneShot, TriggerEvent
from definable.concurrency.clock import current_clock
from definable.testing import VIRTUAL_BACKENDS, virtual_clock, virtual_time

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp()
MINUTE, HOUR = 60.0, 3600.0

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param, start=NINE) as backend:
        yield backend


class Noted:
    """An agent whose handler notes when each event was meant to come, and when it came, in seconds after nine."""

    def __init__(self, *triggers: BaseTrigger, bus: SQLiteBus | None = None) -> None:
        self.agent = Agent("offline", bus=bus)
        self.events: list[TriggerEvent] = []
        self.came: list[float] = []
        for trigger in triggers:
            self.agent.on(trigger)(self.note)

    async def note(self, event: TriggerEvent) -> None:
        self.events.append(event)
        self.came.append(round(current_clock().now() - NINE, 3))

    @property
    def meant(self) -> list[float]:
        return [event.timestamp - NINE for event in self.events]


async def served(noted: Noted, seconds: float) -> AgentRuntime:
    async with noted.agent.running(enable_server=False) as runtime:
        await anyio.sleep(seconds)
    return runtime


async def test_late_and_missed_firings_are_counted_apart_in_health_and_in_the_report() -> None:
    noted = Noted(Cron("0 * * * *"), Cron("0 0 * * *"))
    async with noted.agent.running(enable_server=False) as runtime:
        await anyio.sleep(HOUR + 1)
        virtual_clock().step(HOUR + 30 - 1)
        await anyio.sleep(HOUR)
        virtual_clock().step(2 * HOUR + MINUTE)
        await anyio.sleep(1)
        counts = {"fired": 3, "late": 1, "skipped": 0, "missed": 2}
        assert runtime.health()[1]["children"]["cron"] == {"state": "running", **counts}
    assert runtime.report is not None
    assert asdict(runtime.report.firings) == counts
    assert runtime.report.sources["cron"] == WorkCount(completed=3, skipped=2)
    assert runtime.report.clean


async def test_an_interval_fires_through_the_bus_for_as_long_as_the_agent_is_served() -> None:
    noted = Noted(Interval(90))
    runtime = await served(noted, 10 * MINUTE)
    assert noted.meant == [90.0, 180.0, 270.0, 360.0, 450.0, 540.0]  # nine o'clock is a multiple of 90 s
    assert noted.came == noted.meant
    event = noted.events[0]
    assert (event.source, event.body, event.headers, event.attempt) == ("interval(90s)", None, None, 1)
    assert runtime.report is not None and runtime.report.sources["cron"].completed == 6


async def test_an_interval_of_less_than_a_second_fires_as_often_as_it_says() -> None:
    noted = Noted(Interval(0.25, overlap="queue"))
    await served(noted, 2.1)
    assert noted.meant == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]


async def test_jitter_delays_a_firing_and_not_the_next() -> None:
    noted = Noted(Interval(60, jitter=30, overlap="queue"))
    await served(noted, 10 * MINUTE + 31)
    assert noted.meant == [number * 60.0 for number in range(1, 11)]
    late = [came - meant for came, meant in zip(noted.came, noted.meant, strict=True)]
    assert all(0 <= each <= 30 for each in late) and max(late) > 0


@pytest.mark.parametrize(
    ("trigger", "comes"),
    [(OneShot(NINE + HOUR), HOUR), (OneShot("2026-01-05T11:30:00+01:00"), 1.5 * HOUR), (OneShot(delay=45), 45.0)],
)
async def test_a_one_shot_fires_once(trigger: OneShot, comes: float) -> None:
    noted = Noted(OneShot(trigger.at, delay=trigger.delay), Cron("0 * * * *"))
    await served(noted, 5 * HOUR + 1)
    one_shots = [event.timestamp - NINE for event in noted.events if event.source.startswith("oneshot")]
    assert one_shots == [comes]
    assert len(noted.events) == 6


async def test_a_loop_that_has_nothing_left_to_fire_goes_on_waiting_for_its_stop() -> None:
    noted = Noted(OneShot(delay=0))
    runtime = await served(noted, 24 * HOUR)
    assert noted.came == [0.0]
    assert runtime.report is not None and runtime.report.clean


async def test_a_one_shot_that_was_missed_fires_late_within_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    within, beyond = OneShot(NINE - 50), OneShot(NINE - 70)
    noted = Noted(within, beyond)
    await served(noted, MINUTE)
    assert (noted.meant, noted.came) == ([-50.0], [0.0])
    assert [record.message for record in caplog.records if "skipped 1 cron firings" in record.message]


async def test_a_durable_bus_remembers_that_a_one_shot_has_fired(tmp_path: Path) -> None:
    for serving in range(2):
        noted = Noted(OneShot(NINE + 10), bus=SQLiteBus(tmp_path / "events.db"))
        await served(noted, 15 if serving == 0 else 5)
        assert noted.meant == ([10.0] if serving == 0 else [])


def five_past(**options: Any) -> Cron:
    return Cron("5 9 * * *", **options)


async def test_a_firing_that_came_due_during_a_restart_is_made_at_the_start_once(tmp_path: Path) -> None:
    before = Noted(five_past(), bus=SQLiteBus(tmp_path / "events.db"))
    await served(before, 5 * MINUTE - 1)
    await anyio.sleep(2)
    after = Noted(five_past(), bus=SQLiteBus(tmp_path / "events.db"))
    runtime = await served(after, 10)
    assert (before.meant, after.meant, after.came) == ([], [5 * MINUTE], [5 * MINUTE + 1])
    assert runtime.report is not None
    assert asdict(runtime.report.firings) == {"fired": 1, "late": 1, "skipped": 0, "missed": 0}
    again = Noted(five_past(), bus=SQLiteBus(tmp_path / "events.db"))
    runtime = await served(again, 10)
    assert again.meant == []
    assert runtime.report is not None and runtime.report.firings.fired == 0


@pytest.mark.parametrize(
    ("job", "came"),
    [
        (five_past(misfire_grace=30), []),
        (five_past(misfire_grace=300), [5 * MINUTE]),
        (five_past(misfire_grace=math.inf), [5 * MINUTE]),
        (Cron("* * * * *"), [6 * MINUTE]),
        (Interval(50), [350.0]),
    ],
    ids=str,
)
async def test_of_what_a_long_restart_missed_the_latest_within_its_grace_is_made(
    job: BaseTrigger, came: list[float], tmp_path: Path
) -> None:
    await served(Noted(Cron("@yearly"), bus=SQLiteBus(tmp_path / "events.db")), MINUTE)
    await anyio.sleep(5 * MINUTE + 10)  # it is 9:06:10
    job.handler = None
    noted = Noted(job, bus=SQLiteBus(tmp_path / "events.db"))
    await served(noted, 1)
    assert noted.meant == came


async def test_the_first_start_of_all_makes_up_for_nothing(tmp_path: Path) -> None:
    await anyio.sleep(5 * MINUTE + 10)
    for bus in (SQLiteBus(tmp_path / "events.db"), None):
        noted = Noted(five_past(misfire_grace=math.inf), Cron("* * * * *"), bus=bus)
        await served(noted, 10)
        assert noted.meant == []


@pytest.mark.parametrize("trigger", [OneShot(NINE + 30 * MINUTE), OneShot(delay=30 * MINUTE)])
async def test_a_clock_that_steps_back_fires_no_one_shot_twice(trigger: OneShot) -> None:
    noted = Noted(OneShot(trigger.at, delay=trigger.delay))
    async with noted.agent.running(enable_server=False):
        await anyio.sleep(40 * MINUTE)
        virtual_clock().step(-HOUR)
        await anyio.sleep(3 * HOUR)
    assert len(noted.events) == 1


async def test_a_step_back_leaves_a_delay_as_long_as_it_was() -> None:
    noted, came = Noted(OneShot(delay=10 * MINUTE)), []
    noted.agent.before_request(lambda context: None)
    async with noted.agent.running(enable_server=False):
        began = anyio.current_time()
        await anyio.sleep(MINUTE)
        virtual_clock().step(-HOUR)
        while not noted.events:
            await anyio.sleep(1)
        came.append(anyio.current_time() - began)
    assert came[0] == pytest.approx(10 * MINUTE, abs=2)


async def test_one_shots_and_intervals_can_be_fired_by_hand() -> None:
    one_shot, interval = OneShot(delay=HOUR), Interval(HOUR)
    noted = Noted(one_shot, interval)
    async with noted.agent.running(enable_server=False):
        await noted.agent.fire(one_shot)
        await noted.agent.fire(interval)
        await anyio.sleep(1)
    assert [event.source for event in noted.events] == ["oneshot(+3600s)", "interval(3600s)"]


async def test_the_banner_says_when_each_fires() -> None:
    noted = Noted(Interval(90), OneShot(NINE + HOUR), OneShot(delay=5))
    async with noted.agent.running(enable_server=False) as runtime:
        lines = banner(runtime.summary()).splitlines()[1:4]
    assert lines == [
        "  interval every 90 s  next 2026-01-05 09:01:30 UTC",
        "  once     at 2026-01-05 10:00:00 UTC",
        "  once     5 s after the start",
    ]
