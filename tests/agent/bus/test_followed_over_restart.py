"""A run that was promised on a durable bus, followed over a restart: its follower is cut off and goes on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import EventReader, Held, ServerEvent, assert_problem
from loopback.redis import RedisServer

from definable.agent import Agent
from definable.agent.bus import EventBus, RedisBus, SQLiteBus
from definable.agent.runtime.runs import ATTEMPT_IDS
from definable.agent.trigger import TriggerEvent, Webhook
from definable.model import OfflineModel
from definable.testing import Served, served

pytestmark = pytest.mark.anyio

LIMIT = 20.0
"""Seconds that a test may hang."""


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, path: Path) -> str:
    return str(path) if request.param == "sqlite" else request.getfixturevalue("redis").url


def bus_at(place: str) -> EventBus:
    return RedisBus(place, lease=1.0) if place.startswith("redis://") else SQLiteBus(place)


def agent_at(place: str, model: Any) -> Agent:
    agent = Agent(OfflineModel(model), name="agent", bus=bus_at(place))

    @agent.on(Webhook("/later", respond="accept"))
    async def later(event: TriggerEvent) -> str:
        return "from a webhook"

    return agent


@asynccontextmanager
async def life(place: str, model: Any, **options: Any) -> AsyncIterator[Served]:
    """One life of the service, which has one worker and is stopped soon after it is told so."""
    with anyio.fail_after(LIMIT):
        async with served(agent_at(place, model), event_workers=1, shutdown_timeout=0.5, **options) as service:
            yield service


async def promised(client: httpx2.AsyncClient, **fields: Any) -> str:
    response = await client.post("/run", json={"input": "hi", **fields}, headers={"prefer": "respond-async"})
    assert response.status_code == 202
    return response.json()["run_id"]


async def follow(client: httpx2.AsyncClient, run_id: str, last_id: int, into: list[ServerEvent]) -> None:
    """Follow a run until its stream ends, however it ends; by a client of its own, which outlives the service."""
    headers = {"last-event-id": f"{last_id}"} if last_id else {}
    async with httpx2.AsyncClient(base_url=client.base_url, timeout=LIMIT, trust_env=False, verify=False) as own:
        with contextlib.suppress(httpx2.TransportError):
            async with own.stream("GET", f"/runs/{run_id}/events", headers=headers) as response:
                assert response.status_code == 200
                async for event in EventReader(response):
                    into += [] if event.comment else [event]


def last_name(events: list[ServerEvent]) -> str:
    return events[-1].name if events else ""


def followed(service: Served) -> int:
    """How many requests are being answered, those of followers, beside the one run that is held."""
    return service.runtime.tracker.active() - 1


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.005)


async def test_the_follower_of_a_run_that_a_restart_cuts_off_goes_on(place: str) -> None:
    hold = Held("done")
    before: list[ServerEvent] = []
    waiting: list[ServerEvent] = []
    async with anyio.create_task_group() as followers, life(place, hold) as service:
        begun, queued = [await promised(service.client, user_id="ann") for _ in range(2)]
        hooked = (await service.client.post("/later")).json()["run_id"]
        await hold.until(lambda hold: hold.arrived == 1)
        followers.start_soon(follow, service.client, begun, 0, before)
        followers.start_soon(follow, service.client, queued, 0, waiting)
        await until(lambda: bool(before) and followed(service) == 2)
    assert [(event.id, event.name) for event in before] == [(1, "run_started")]  # and no failure
    assert waiting == []

    hold = Held("done")
    async with anyio.create_task_group() as followers, life(place, hold) as service:
        await hold.until(lambda hold: hold.arrived == 1)
        running = begun if (await service.client.get(f"/runs/{begun}")).json()["status"] == "running" else None
        for run_id in {begun, queued, hooked} - {running}:
            document = (await service.client.get(f"/runs/{run_id}")).json()
            if document["status"] == "queued":
                assert document["user_id"] == (None if run_id == hooked else "ann")
                assert document["source"] == ("POST /later" if run_id == hooked else "POST /run")
        listed = (await service.client.get("/runs")).json()["runs"]
        assert {run["run_id"] for run in listed} == {begun, queued, hooked}
        after: list[ServerEvent] = []
        late: list[ServerEvent] = []
        followers.start_soon(follow, service.client, begun, before[-1].id or 0, after)
        followers.start_soon(follow, service.client, queued, 0, late)
        await until(lambda: followed(service) == 2)
        hold.go_on.set()
        await until(lambda: [*map(last_name, (after, late))] == ["run_ended"] * 2)
    ids = [event.id or 0 for event in after]
    assert ids == list(range(ATTEMPT_IDS + 1, ATTEMPT_IDS + 1 + len(ids)))  # beyond those of the attempt before
    assert after[0].name == "run_started"
    assert (late[0].name, late[-1].data["content"]) == ("run_started", "done")


async def test_who_follows_a_queued_run_does_not_hold_up_a_stop_for_long(path: Path) -> None:
    hold = Held("done")
    seen: list[ServerEvent] = []
    async with anyio.create_task_group() as followers:
        with anyio.fail_after(LIMIT):
            async with served(agent_at(str(path), hold), event_workers=1, shutdown_timeout=2) as service:
                await promised(service.client)
                queued = await promised(service.client)
                await hold.until(lambda hold: hold.arrived == 1)
                followers.start_soon(follow, service.client, queued, 0, seen)
                await until(lambda: followed(service) == 1)
                service.runtime.stop()
                await until(lambda: followed(service) == 0)  # before the stop's end, which cuts off whoever is left
                assert hold.cancelled == 0
                hold.go_on.set()
    assert seen == []
    assert service.runtime.report.completed > 0


async def test_on_memory_the_follower_of_a_run_that_is_lost_is_told_so() -> None:
    hold = Held("done")
    seen: list[ServerEvent] = []
    async with anyio.create_task_group() as followers:
        with anyio.fail_after(LIMIT):
            async with served(Agent(OfflineModel(hold)), shutdown_timeout=0.2, enable_server=True) as service:
                run_id = await promised(service.client)
                await hold.until(lambda hold: hold.arrived == 1)
                followers.start_soon(follow, service.client, run_id, 0, seen)
                await until(lambda: bool(seen))
    assert [event.name for event in seen] == ["run_started", "run_failed"]


async def test_a_run_that_its_trigger_cut_off_is_told_failed_once_it_is_given_up(path: Path) -> None:
    hold = Held("done")
    agent = Agent(OfflineModel(hold), bus=SQLiteBus(path))
    agent.on(Webhook("/slow", respond="accept", timeout=0.2))(lambda event: "hi")
    with anyio.fail_after(LIMIT):
        async with served(agent) as service:
            run_id = (await service.client.post("/slow")).json()["run_id"]
            seen: list[ServerEvent] = []
            await follow(service.client, run_id, 0, seen)
            document = (await service.client.get(f"/runs/{run_id}")).json()
            assert_problem(await service.client.delete(f"/runs/{run_id}"), 409)
    assert [event.name for event in seen] == ["run_started", "run_failed"]
    assert (document["status"], document["problem"]["status"]) == ("failed", 504)


async def test_a_bus_of_a_users_own_need_not_know_promised_runs(path: Path) -> None:
    class Plain(SQLiteBus):
        waiting_runs: Any = None

    async with served(Agent("offline", bus=Plain(path))) as service:
        assert (await service.client.get("/runs")).json()["runs"] == []


async def test_a_redis_bus_lists_runs_that_wait_for_their_next_attempt(redis: RedisServer) -> None:
    bus = RedisBus(redis.url)
    async with bus.open():
        for number in range(250):
            data = {"run_id": f"r{number}", "source": "POST /run", "timestamp": float(number), "user_id": None}
            await bus.publish("POST /run" if number % 2 else "event", data)
        async with bus.consume() as deliveries:
            first = await anext(deliveries)
            second = await anext(deliveries)
            await second.nack(60)
            await first.ack()
        await bus.dead_letters()  # what was settled is told
        with anyio.fail_after(LIMIT):
            while (found := await bus.waiting_runs(["POST /run"], 1_000))[-1].run_id != "r1":
                await anyio.sleep(0.01)
        assert [run.run_id for run in found] == [*[f"r{number}" for number in range(3, 250, 2)], "r1"]
        assert len(await bus.waiting_runs(["POST /run"], 7)) == 7
