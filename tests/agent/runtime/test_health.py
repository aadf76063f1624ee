"""What `/health` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import MemoryBus, SQLiteBus
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.runtime import FiringCount
from definable.agent.runtime.supervisor import health_of, unused
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent
from definable.testing import VIRTUAL_BACKENDS, virtual_time


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Bot(BaseInterface):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="bot"))
        self.error = error

    async def receive(self, accept: Accept) -> None:
        if self.error is not None:
            raise self.error
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None: ...


def test_a_service_without_children_is_well() -> None:
    assert health_of("joe", False, [], firings=None) == (
        True,
        {"status": "ok", "agent": "joe", "children": {"events": {"state": "running"}}},
    )


def test_a_draining_service_is_not() -> None:
    assert health_of("joe", True, [], firings=FiringCount(3, 1, 0, 2)) == (
        False,
        {
            "status": "draining",
            "agent": "joe",
            "children": {
                "events": {"state": "draining"},
                "cron": {"state": "stopped", "fired": 3, "late": 1, "skipped": 0, "missed": 2},
            },
        },
    )


def test_children_of_one_name_are_told_apart() -> None:
    assert unused("bot", {}) == "bot"
    assert unused("bot", {"bot": 1}) == "bot#2"
    assert unused("bot", {"bot": 1, "bot#2": 1}) == "bot#3"


@pytest.mark.anyio
async def test_a_served_agent_tells_the_truth_from_start_to_stop() -> None:
    agent = Agent("offline", name="joe")

    @agent.on(Cron("@daily"))
    async def daily(event: TriggerEvent) -> None: ...

    @agent.on(EventTrigger("slow"))
    async def slow(event: TriggerEvent) -> None:
        await anyio.sleep(10)

    secret = "123:SECRET"
    broken = Bot(ConnectionError(secret))
    async with agent.running(Bot(), broken, enable_server=False) as runtime:
        await anyio.sleep(0.5)
        assert runtime.health() == (
            True,
            {
                "status": "ok",
                "agent": "joe",
                "children": {
                    "events": {"state": "running"},
                    "cron": {"state": "running", "fired": 0, "late": 0, "skipped": 0, "missed": 0},
                    "bot": {"state": "running"},
                    "bot#2": {"state": "restarting"},
                },
            },
        )
        await anyio.sleep(150)
        well, document = runtime.health()
        assert (well, document["status"]) == (False, "degraded")
        assert secret not in str(document)
        agent.emit("slow")
        runtime.stop()
        await anyio.sleep(5)
        well, document = runtime.health()
        assert (well, document["status"], document["children"]["bot"]) == (False, "draining", {"state": "stopped"})
    assert runtime.report is not None
    assert {"bot", "bot#2"} <= runtime.report.sources.keys()


@pytest.mark.anyio
@pytest.mark.parametrize("make", [lambda path: None, SQLiteBus], ids=["memory", "sqlite"])
async def test_what_waits_and_for_how_long_is_told(make: Any, tmp_path: Path) -> None:
    agent, go_on = Agent("offline", bus=make(tmp_path / "events.db")), anyio.Event()

    @agent.on(EventTrigger("limited", max_concurrency=1))
    @agent.on(EventTrigger("slow"))
    async def hold(event: TriggerEvent) -> None:
        await go_on.wait()

    async with agent.running(enable_server=False, event_workers=3) as runtime:
        assert await runtime.backlog() == {"waiting": 0, "oldest_seconds": 0.0}
        for name in ("limited", "slow"):
            for _ in range(4):
                await agent.aemit(name)
            await anyio.sleep(10)
        backlog = await runtime.backlog()
        assert backlog["waiting"] == 8 - 3
        assert backlog["oldest_seconds"] == pytest.approx(20, abs=1)
        go_on.set()
    assert runtime.report is not None and runtime.report.completed == 8


class BrokenBus(MemoryBus):
    """Works, and says that it does not."""

    broken: Exception | None = None

    @property
    def failure(self) -> Exception | None:
        return self.broken


@pytest.mark.anyio
async def test_a_bus_that_fails_makes_the_service_degraded_until_it_works_again() -> None:
    bus = BrokenBus()
    async with Agent("offline", name="joe", bus=bus).running(enable_server=False) as runtime:
        fine = runtime.health()
        assert fine == (True, {"status": "ok", "agent": "joe", "children": {"events": {"state": "running"}}})
        bus.broken = OSError("disk is full")
        assert runtime.health() == (
            False,
            {"status": "degraded", "agent": "joe", "children": {"events": {"state": "failing"}}},
        )
        bus.broken = None
        assert runtime.health() == fine
        bus.broken = OSError("disk is full")
    well, document = runtime.health()
    assert (well, document["status"], document["children"]["events"]["state"]) == (False, "draining", "failing")
