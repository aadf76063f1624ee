"""`Webhook(coalesce=...)`: a burst of deliveries about one thing is one event; on every bus, and over replicas."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from loopback.agent_api import Held

from definable.agent import Agent
from definable.agent.bus import EventBus, MemoryBus, SQLiteBus
from definable.agent.bus.queue import QueueBus
from definable.agent.trigger import TriggerEvent, Webhook
from definable.errors import ConfigurationError
from definable.testing import Served, served

pytestmark = pytest.mark.anyio

LIMIT = 60.0
"""Seconds that a test may hang."""

HOUR = 3600.0


class Pulls:
    """An agent that is told of pull requests."""

    def __init__(self, bus: EventBus, seconds: float, **options: Any) -> None:
        self.agent = Agent("offline", bus=bus)
        self.seen: list[dict[str, Any]] = []
        self.came = anyio.Event()
        webhook = Webhook("/pulls", respond="accept", coalesce=(self.about, seconds), **options)
        self.agent.on(webhook)(self.on_pull)

    def about(self, event: TriggerEvent) -> Any:
        return event.body.get("pull")

    async def on_pull(self, event: TriggerEvent) -> None:
        self.seen.append(event.body)
        self.came.set()

    async def of(self, pull: int) -> list[dict[str, Any]]:
        """The events about a pull request, once there is one."""
        with anyio.fail_after(LIMIT):
            while not (found := [body for body in self.seen if body.get("pull") == pull]):
                self.came = anyio.Event()
                await self.came.wait()
        return found


async def deliver(service: Served, **body: Any) -> dict[str, Any]:
    response = await service.client.post("/pulls", json=body)
    assert response.status_code == 202, response.text
    return response.json()


async def test_of_a_burst_the_last_delivery_is_handled(bus: EventBus) -> None:
    pulls = Pulls(bus, 1.0)
    async with served(pulls.agent) as service:
        for push in range(5):
            assert await deliver(service, pull=7, push=push) == {"status": "accepted"}
        await deliver(service, pull=8, push=0)
        assert (await deliver(service, push=9)).keys() == {"status", "run_id"}  # about nothing: handled by itself
        [seven, *more] = await pulls.of(7)
        [eight] = await pulls.of(8)
    assert eight["push"] == 0
    assert {"push": 9} in pulls.seen
    assert [seven, *more][-1]["push"] == 4
    assert len(more) < 4  # on a machine that takes longer than the second, a burst is several


async def test_a_burst_over_replicas_is_handled_by_one_of_them(replicas: Sequence[QueueBus]) -> None:
    services = [Pulls(bus, 1.0) for bus in replicas]
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(served(pulls.agent)) for pulls in services]
        for push in range(6):
            await deliver(running[push % 3], pull=7, push=push)
        with anyio.fail_after(LIMIT):
            while not any(body["push"] == 5 for pulls in services for body in pulls.seen):
                await anyio.sleep(0.02)
        handled = [body["push"] for pulls in services for body in pulls.seen]
    assert max(handled) == 5 and len(handled) == len({*handled}) < 6


async def test_what_waits_outlives_a_restart_and_is_joined_by_what_comes_after_it(path: Path) -> None:
    def later() -> float:
        return time.time() + 2 * HOUR

    services = [Pulls(bus, HOUR) for bus in (SQLiteBus(path), SQLiteBus(path), SQLiteBus(path, clock=later))]
    for push, pulls in enumerate(services[:2]):
        async with served(pulls.agent) as service:
            await deliver(service, pull=7, push=push)
    async with served(services[2].agent):
        assert await services[2].of(7) == [{"pull": 7, "push": 1}]
    assert [pulls.seen for pulls in services[:2]] == [[], []]


async def test_a_delivery_while_the_last_burst_is_handled_begins_another(bus: EventBus) -> None:
    pulls = Pulls(bus, 0.05)
    hold = Held()
    pulls.agent.on(Webhook("/held", respond="accept", coalesce=(lambda event: "all", 0.05)))(hold)
    async with served(pulls.agent) as service:
        assert (await service.client.post("/held", json=1)).status_code == 202
        await hold.until(lambda hold: hold.arrived == 1)
        assert (await service.client.post("/held", json=2)).status_code == 202
        await hold.until(lambda hold: hold.arrived == 2)
        hold.go_on.set()
        await hold.until(lambda hold: hold.ended == 2)


async def test_a_repeat_takes_no_place(bus: EventBus) -> None:
    pulls = Pulls(bus, 0.3, dedupe=lambda event: event.body.get("id"))
    async with served(pulls.agent) as service:
        await deliver(service, pull=7, id="a")
        await deliver(service, pull=7, id="b")
        repeat = await service.client.post("/pulls", json={"pull": 7, "id": "a"})
        assert (repeat.status_code, repeat.json()) == (200, {"status": "duplicate"})
        handled = await pulls.of(7)
    assert handled[-1]["id"] == "b"


async def test_what_waits_in_memory_is_bounded_in_bytes_and_replacements_hold_nothing() -> None:
    pulls = Pulls(MemoryBus(), HOUR)
    async with served(pulls.agent, max_memory_queued=300_000, shutdown_timeout=1) as service:
        for push in range(10):  # a tenth of them would fit
            await deliver(service, pull=7, push=push, text="x" * 100_000)
        await deliver(service, pull=8, text="x" * 100_000)
        refused = await service.client.post("/pulls", json={"pull": 9, "text": "x" * 100_000})
        assert refused.status_code == 503
        runs = (await service.client.get("/runs")).json()["runs"]
        assert [run["status"] for run in runs] == ["queued", "queued"]


async def test_a_bus_that_keeps_nothing_for_later_is_refused_at_the_start() -> None:
    class Plain:
        """A bus of somebody's own: what it lacks, `MemoryBus` has."""

        def __init__(self) -> None:
            self.bus = MemoryBus()

        def __getattr__(self, name: str) -> Any:
            if name in ("publish_many", "submit_nowait", "cancel"):
                raise AttributeError(name)
            return getattr(self.bus, name)

    pulls = Pulls(Plain(), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="keeps no events for later"):
        async with served(pulls.agent):
            pass
