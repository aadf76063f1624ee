"""Behind a real nginx, Caddy and Traefik, configured as `docs/deployment.md` shows.

TLS and HTTP/2 end there, and a Unix socket leads to the agent; from Traefik a port of the loopback interface.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import EventReader, Held, assert_problem
from loopback.proxies import PROXIES, Proxy, proxy_before
from quart import request, websocket
from websockets.sync.client import connect

from definable.agent import Agent
from definable.agent.trigger import Reply, Webhook
from definable.model import OfflineModel
from definable.testing import served

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("name", PROXIES)]


def agent_behind(model: Any = "offline") -> Agent:
    agent = Agent(model)

    @agent.on(Webhook("/hook"))
    def hook(event: Any) -> Reply:
        raw = event.raw
        return Reply({"client": raw.client[0], "scheme": raw.scheme, "size": len(raw.body)})

    agent.on(Webhook("/small", max_body=1_000))(lambda event: None)

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


def another(proxy: Proxy, *, http2: bool) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=proxy.url, trust_env=False, verify=proxy.context, http2=http2, timeout=30)


@asynccontextmanager
async def behind(
    name: str, agent: Agent, directory: Path, *, strips_prefix: bool = False, http2: bool = True
) -> AsyncGenerator[tuple[Proxy, httpx2.AsyncClient]]:
    """A client of a proxy before the agent."""
    uds = directory / "http.sock"
    where: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"]}
    if name != "traefik":
        where = {"trusted_proxies": ["unix"], "uds": uds}
    with anyio.fail_after(60):
        async with served(agent, root_path="/agent", allowed_hosts=["agent.example"], **where) as service:
            target = service.client.base_url.netloc.decode() if name == "traefik" else str(uds)
            async with (
                proxy_before(name, target, directory, strips_prefix=strips_prefix) as proxy,
                another(proxy, http2=http2) as client,
            ):
                yield proxy, client


@pytest.mark.parametrize("strips_prefix", [False, True])
async def test_requests_pass_with_prefix_client_and_slow_bodies(tmp_path: Path, name: str, strips_prefix: bool) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"y" * 1000
            await anyio.sleep(0.005)

    async with behind(name, agent_behind(), tmp_path, strips_prefix=strips_prefix) as (proxy, client):
        health = await client.get("/agent/health")
        assert (health.status_code, health.http_version) == (200, "HTTP/2")
        run = await client.post("/agent/run", json={"input": "hi"}, headers={"prefer": "respond-async"})
        assert run.headers["location"].startswith("/agent/runs/")
        assert (await client.get(run.headers["location"])).status_code == 200
        hook = await client.post("/agent/hook", content=slow())
        assert hook.json() == {"client": "127.0.0.1", "scheme": "https", "size": 20_000}
        large = await client.post("/agent/hook", content=b"x" * 900_000)
        assert large.json()["size"] == 900_000
        assert_problem(await client.post("/agent/small", content=b"x" * 5_000), 413)
        # nginx appends to what a client claims, of which the last counts that is no proxy's; Caddy drops it.
        own = (await client.get("/agent/own", headers={"x-forwarded-for": "203.0.113.7"})).json()
        assert own == {"client": "127.0.0.1", "url": f"{proxy.url}/agent/own"}
        assert (await client.get("/agent/slash")).headers["location"].endswith("/agent/slash/")
        assert_problem(await client.get("/agent/nowhere"), 404)
        page = {"origin": proxy.url}
        assert (await client.post("/agent/run", json={"input": "hi"}, headers=page)).status_code == 200
        evil = {"origin": "https://evil.example"}
        assert_problem(await client.post("/agent/run", json={"input": "hi"}, headers=evil), 403)


async def test_a_websocket_passes(tmp_path: Path, name: str) -> None:
    async with behind(name, agent_behind(), tmp_path) as (proxy, _):

        def talk() -> str | bytes:
            url = f"{proxy.url.replace('https', 'wss')}/agent/ws"
            with connect(url, ssl=proxy.context, proxy=None) as connection:
                connection.send("through a proxy")
                return connection.recv()

        assert await anyio.to_thread.run_sync(talk) == "through a proxy"


@pytest.mark.parametrize("http2", [False, True])
async def test_events_pass_at_once_and_a_client_that_leaves_cancels_its_run(
    tmp_path: Path, name: str, http2: bool
) -> None:
    hold = Held("the end")
    agent = agent_behind(OfflineModel(hold))
    async with behind(name, agent, tmp_path, http2=http2) as (proxy, client):
        body, headers = {"input": "hi"}, {"accept": "text/event-stream"}
        async with client.stream("POST", "/agent/run", json=body, headers=headers) as response:
            reader = EventReader(response)
            first = await anext(reader)
            assert (first.name, hold.ended) == ("run_started", 0)
            hold.go_on.set()
            assert (await reader.all())[-1].name == "run_ended"
        hold.go_on = anyio.Event()
        # Leaves by closing its connection: httpx sends no RST_STREAM for a request that is cancelled.
        async with another(proxy, http2=http2) as leaving, anyio.create_task_group() as group:
            group.start_soon(lambda: leaving.post("/agent/run", json=body))
            await hold.until(lambda held: held.arrived == 2)
            group.cancel_scope.cancel()
        await hold.until(lambda held: held.cancelled == 1)
    assert hold.ended == 1
