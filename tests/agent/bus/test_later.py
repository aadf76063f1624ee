"""Events that wait for their time: emitted with a delay, at a time, under a key by which they are withdrawn."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from definable.agent import Agent
from definable.agent.bus import EventBus, MemoryBus, SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

START = "2026-01-01T00:00:00+00:00"


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param, start=START) as backend:
        yield backend


@pytest.fixture(params=["memory", "sqlite"])
def bus(request: pytest.FixtureRequest, path: Path) -> EventBus:
    return MemoryBus() if request.param == "memory" else SQLiteBus(path)


class Reminders:
    def __init__(self, bus: EventBus) -> None:
        self.agent = Agent("offline", bus=bus)
        self.came: list[tuple[str, float]] = []
        self.agent.on(EventTrigger("remind.*"))(self.on_event)

    async def on_event(self, event: TriggerEvent) -> None:
        self.came.append((event.body["text"], round(anyio.current_time() - self.began, 1)))

    def running(self) -> Any:
        self.began = anyio.current_time()
        return self.agent.running(enable_server=False, shutdown_timeout=5)


async def test_an_event_comes_after_its_delay_or_at_its_time(bus: EventBus) -> None:
    reminders = Reminders(bus)
    emit = reminders.agent.emit
    emit("remind.early", {"text": "from before"}, delay=30)
    async with reminders.running():
        emit("remind.me", {"text": "at"}, at=datetime.fromisoformat(START) + timedelta(hours=1))
        emit("remind.me", {"text": "unix"}, at=datetime.fromisoformat(START).timestamp() + 7200)
        await reminders.agent.aemit("remind.me", {"text": "delay"}, delay=60)
        await to_thread.run_sync(lambda: emit("remind.me", {"text": "thread"}, delay=90))
        emit("remind.me", {"text": "past"}, at=datetime(2020, 1, 1, tzinfo=UTC))
        await anyio.sleep(10_000)
    came = dict(reminders.came)
    assert list(came) == ["past", "from before", "delay", "thread", "at", "unix"]
    assert list(came.values()) == pytest.approx([0, 30, 60, 90, 3600, 7200], abs=1)


async def test_a_key_replaces_what_waits_under_it_and_withdraws_it(bus: EventBus) -> None:
    reminders = Reminders(bus)
    agent = reminders.agent
    agent.emit("remind.me", {"text": "early"}, delay=10, key="early")
    agent.emit("remind.me", {"text": "replaced early"}, delay=10, key="early")
    agent.emit("remind.me", {"text": "never"}, delay=10, key="cancelled early")
    assert await agent.cancel("cancelled early")
    async with reminders.running():
        agent.emit("remind.me", {"text": "first"}, delay=60, key="a")
        agent.emit("remind.me", {"text": "second"}, delay=90, key="a")
        agent.emit("remind.me", {"text": "other"}, delay=100, key="b")
        await anyio.sleep(20)
        assert await agent.cancel("b")
        assert not await agent.cancel("b")
        await anyio.sleep(100)
        assert not await agent.cancel("a")
    assert [text for text, _ in reminders.came] == ["replaced early", "second"]


async def test_what_waits_outlives_a_restart_on_a_durable_bus(path: Path) -> None:
    before, after = Reminders(SQLiteBus(path)), Reminders(SQLiteBus(path))
    async with before.running() as runtime:
        await before.agent.aemit("remind.me", {"text": "later"}, delay=3600)
        await before.agent.aemit("remind.me", {"text": "withdrawn"}, delay=3600, key="k")
    assert runtime.report.clean
    async with after.running():
        assert await after.agent.cancel("k")
        await anyio.sleep(4000)
    assert [text for text, _ in after.came] == ["later"]


async def test_a_clock_that_is_an_hour_behind_at_boot_and_set_later_holds_up_nothing(path: Path) -> None:
    """A machine without a battery: what an earlier opening left is due by the time of day, what is new by its delay."""
    wall = [0.0]

    def clock() -> float:
        return datetime.fromisoformat(START).timestamp() + anyio.current_time() - origin + wall[0]

    origin = anyio.current_time()
    before = Reminders(SQLiteBus(path, clock=clock))
    async with before.running():
        await before.agent.aemit("remind.me", {"text": "earlier"}, delay=60)
    wall[0] = -3600.0
    after = Reminders(SQLiteBus(path, clock=clock))
    async with after.running():
        await after.agent.aemit("remind.me", {"text": "new"}, delay=600)
        await anyio.sleep(100)
        assert after.came == []
        wall[0] = 0.0
        await anyio.sleep(1000)
    came = dict(after.came)
    assert list(came) == ["earlier", "new"]
    assert came["earlier"] == pytest.approx(100, abs=10)
    assert came["new"] == pytest.approx(600, abs=10)


async def test_what_came_due_twice_since_a_process_died_in_between_is_handled_once(path: Path) -> None:
    reminders = Reminders(SQLiteBus(path))
    async with reminders.running():
        for id in ("a", "a", "b"):  # as its delivery is repeated of which nothing was settled
            await reminders.agent.emitter.aemit_once("remind.me", {"text": id}, id)
        await anyio.sleep(10)
    assert sorted(text for text, _ in reminders.came) == ["a", "b"]


async def test_what_waits_in_memory_holds_up_no_stop_and_is_counted() -> None:
    reminders = Reminders(MemoryBus())
    async with reminders.running() as runtime:
        reminders.agent.emit("remind.me", {"text": "later"}, delay=3600)
        reminders.agent.emit("remind.me", {"text": "soon"}, delay=2)
        began = anyio.current_time()
    assert anyio.current_time() - began < 5
    assert [text for text, _ in reminders.came] == ["soon"]
    assert (runtime.report.never_started, runtime.report.clean) == (1, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": 1, "at": 2}, "not both"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": float("inf")}, "finite"),
        ({"at": datetime(2026, 1, 1)}, "with a time zone"),
    ],
)
async def test_a_time_that_is_none_is_refused_where_it_is_emitted(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Agent("offline").emit("remind.me", {}, **options)
