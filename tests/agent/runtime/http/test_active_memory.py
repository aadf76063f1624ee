"""What requests and deliveries that are being handled hold in memory is bounded in bytes, however few they are."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import Held, Serve, assert_problem

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

BODY = '{"input": "x", "metadata": {"a": [' + "{}," * 40_000 + "{}]}}"
"""120 KB, and more than 2.5 MB of values."""

JSON = {"content-type": "application/json"}


async def test_runs_under_way_are_refused_beyond_the_bound_and_let_in_again(serve: Serve) -> None:
    hold = Held("done")
    statuses: list[int] = []
    async with serve(Agent(OfflineModel(hold)), max_memory_active=10_000_000) as client:

        async def ask(headers: dict[str, str]) -> None:
            statuses.append((await client.post("/run", content=BODY, headers=JSON | headers)).status_code)

        async with anyio.create_task_group() as clients:
            for accept in ("application/json", "text/event-stream"):
                clients.start_soon(ask, {"accept": accept})
            await hold.until(lambda hold: hold.arrived == 2)
            response = await client.post("/run", content=BODY, headers=JSON)
            assert_problem(response, 503)
            assert response.headers["retry-after"] == "1"
            assert (await client.get("/runs")).status_code == 200
            clients.start_soon(ask, {})  # is refused too
            while not statuses:
                await anyio.sleep(0.005)
            hold.go_on.set()
        assert sorted(statuses) == [200, 200, 503]
        assert (await client.post("/run", content=BODY, headers=JSON)).status_code == 200


async def test_webhooks_under_way_count_too(serve: Serve) -> None:
    handler = Held()
    agent = Agent("offline")
    agent.on(Webhook("/hook"))(handler)
    async with serve(agent, max_memory_active=3_000_000) as client, anyio.create_task_group() as clients:
        clients.start_soon(lambda: client.post("/hook", content=BODY, headers=JSON))
        await handler.until(lambda handler: handler.arrived == 1)
        assert_problem(await client.post("/hook", content=BODY, headers=JSON), 503)
        handler.go_on.set()
        while (answer := await client.post("/hook", content=BODY, headers=JSON)).status_code == 503:
            await anyio.sleep(0.005)
        assert answer.status_code == 200


async def test_small_requests_are_let_in_beside_what_holds_all_there_is(serve: Serve) -> None:
    hold = Held("done")
    async with serve(Agent(OfflineModel(hold)), max_memory_active=1) as client, anyio.create_task_group() as clients:
        clients.start_soon(lambda: client.post("/run", content=BODY, headers=JSON))  # alone it may be larger
        await hold.until(lambda hold: hold.arrived == 1)
        clients.start_soon(lambda: client.post("/run", json={"input": "x"}))
        await hold.until(lambda hold: hold.arrived == 2)
        hold.go_on.set()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_accepted_runs_and_webhooks_wait_for_memory_and_all_are_handled(
    serve: Serve, kind: str, tmp_path: Any
) -> None:
    handler = Held()
    agent = Agent("offline", bus=SQLiteBus(tmp_path / "events.db") if kind == "sqlite" else None)
    agent.on(Webhook("/hook", respond="accept"))(handler)
    async with serve(agent, max_memory_active=10_000_000, event_workers=20) as client:
        for _ in range(5):
            assert (await client.post("/hook", content=BODY, headers=JSON)).status_code == 202
        run = await client.post("/run", content=BODY, headers=JSON | {"prefer": "respond-async"})
        assert run.status_code == 202
        await handler.until(lambda handler: handler.arrived == 2)
        await anyio.wait_all_tasks_blocked()
        assert handler.arrived == 2  # of 5: there is memory for no more
        handler.go_on.set()
        await handler.until(lambda handler: handler.ended == 5)
        while (await shown(client, run.json()["run_id"]))["status"] != "completed":
            await anyio.sleep(0.005)


async def test_a_handler_may_emit_into_a_full_bus_while_others_wait_for_memory(serve: Serve) -> None:
    agent = Agent("offline")
    go_on = anyio.Event()
    done: list[str] = []

    @agent.on(Webhook("/hook", respond="accept"))
    async def hook(event: TriggerEvent) -> None:
        await go_on.wait()
        for _ in range(3):
            await agent.aemit("more")
        done.append("hook")

    @agent.on(EventTrigger("more"))
    async def more(event: TriggerEvent) -> None:
        done.append("more")

    async with serve(agent, max_memory_active=1, event_workers=2, event_buffer=1) as client:
        for _ in range(3):  # one is handled, one waits for memory, one in the bus
            while (await client.post("/hook", content=BODY, headers=JSON)).status_code == 503:
                await anyio.sleep(0.005)
        go_on.set()
        with anyio.fail_after(10):
            while sorted(done) != ["hook"] * 3 + ["more"] * 9:
                await anyio.sleep(0.005)


async def shown(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    return (await client.get(f"/runs/{run_id}")).json()
