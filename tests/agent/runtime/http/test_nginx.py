"""Behind a real nginx, configured as `docs/http.md` shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import EventReader, Held, RawClient, assert_problem, raw_run
from loopback.nginx import nginx_before
from quart import request, websocket
from websockets.sync.client import connect

from definable.agent import Agent
from definable.agent.trigger import Reply, Webhook
from definable.model import OfflineModel
from definable.testing import served

pytestmark = pytest.mark.anyio

OPTIONS: dict[str, Any] = {"root_path": "/agent", "trusted_proxies": ["127.0.0.1"], "allowed_hosts": ["agent.example"]}


def agent_behind(model: Any = "offline") -> Agent:
    agent = Agent(model)

    @agent.on(Webhook("/hook"))
    def hook(event: Any) -> Reply:
        return Reply({"client": event.raw.client[0], "size": len(event.raw.body)})

    @agent.blueprint.get("/own")
    async def own() -> dict[str, Any]:
        return {"client": request.remote_addr, "url": request.url}

    @agent.blueprint.get("/slash/")
    async def slash() -> str:
        return "slash"

    @agent.blueprint.websocket("/ws")
    async def socket() -> None:
        await websocket.send(await websocket.receive())

    return agent


@pytest.mark.parametrize("strips_prefix", [False, True])
async def test_requests_pass_with_prefix_client_and_slow_bodies(tmp_path: Path, strips_prefix: bool) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"y" * 1000
            await anyio.sleep(0.005)

    with anyio.fail_after(30):
        async with (
            served(agent_behind(), **OPTIONS) as service,
            nginx_before(service.client.base_url.port or 0, tmp_path, strips_prefix=strips_prefix) as port,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client,
        ):
            assert (await client.get("/agent/health")).status_code == 200
            run = await client.post("/agent/run", json={"input": "hi"}, headers={"prefer": "respond-async"})
            assert run.headers["location"].startswith("/agent/runs/")
            assert (await client.get(run.headers["location"])).status_code == 200
            assert (await client.post("/agent/hook", content=slow())).json() == {"client": "127.0.0.1", "size": 20_000}
            large = await client.post("/agent/hook", content=b"x" * 900_000)
            assert large.json()["size"] == 900_000
            named = await client.get("/agent/own", headers={"x-forwarded-for": "203.0.113.7"})
            assert named.json() == {"client": "203.0.113.7", "url": f"http://127.0.0.1:{port}/agent/own"}
            assert (await client.get("/agent/slash")).headers["location"] == "/agent/slash/"
            assert_problem(await client.get("/agent/nowhere"), 404)
            page = {"origin": f"http://127.0.0.1:{port}"}
            assert (await client.post("/agent/run", json={"input": "hi"}, headers=page)).status_code == 200
            evil = {"origin": "https://evil.example"}
            assert_problem(await client.post("/agent/run", json={"input": "hi"}, headers=evil), 403)
            assert (await client.get("/agent/own", headers={"host": "agent.example"})).status_code == 200
            assert_problem(await client.get("/agent/own", headers={"host": "rebound.example"}), 421)

            def talk() -> str | bytes:
                with connect(f"ws://127.0.0.1:{port}/agent/ws", proxy=None) as connection:
                    connection.send("through nginx")
                    return connection.recv()

            assert await anyio.to_thread.run_sync(talk) == "through nginx"


async def test_events_pass_at_once_and_a_client_that_leaves_cancels_its_run(tmp_path: Path) -> None:
    hold = Held("the end")
    with anyio.fail_after(30):
        async with (
            served(agent_behind(OfflineModel(hold)), **OPTIONS) as service,
            nginx_before(service.client.base_url.port or 0, tmp_path) as port,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client,
        ):
            body, headers = {"input": "hi"}, {"accept": "text/event-stream"}
            async with client.stream("POST", "/agent/run", json=body, headers=headers) as response:
                reader = EventReader(response)
                first = await anext(reader)
                assert (first.name, hold.ended) == ("run_started", 0)
                hold.go_on.set()
                assert (await reader.all())[-1].name == "run_ended"
            hold.go_on = anyio.Event()
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await RawClient(stream).send(raw_run().replace(b"/run", b"/agent/run"))
                await hold.until(lambda held: held.arrived == 2)
            await hold.until(lambda held: held.cancelled == 1)
    assert hold.ended == 1
