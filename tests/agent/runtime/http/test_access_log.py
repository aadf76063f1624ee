"""`serve(access_log=True)`: one line a request, whatever becomes of it, without secrets."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import pytest
from loopback.agent_api import Held, raw_client, raw_run, serve_foreign, serve_ourselves
from quart import websocket
from websockets.sync.client import connect

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.runtime import JSONFormatter
from definable.agent.trigger import Webhook
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

KEY = {"x-api-key": "a-long-random-key"}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "definable.access")
    return caplog


def access(lines: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in lines.records if record.name == "definable.access"]


async def test_every_request_is_one_line(lines: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline", auth=APIKeyAuth(KEY["x-api-key"]))
    agent.on(Webhook("/hook", auth=False))(lambda event: "go")
    agent.on(Webhook("/later", auth=False, respond="accept"))(lambda event: None)
    agent.blueprint.get("/own")(own)
    async with serve_ourselves(agent, access_log=True) as client:
        run = await client.post("/run?token=secret", json={"input": "hi"}, headers=KEY)
        streamed = await client.post("/run", json={"input": "hi"}, headers={**KEY, "accept": "text/event-stream"})
        hook = await client.post("/hook")
        later = await client.post("/later")
        await client.get("/own?api_key=secret", headers=KEY)
        await client.get("/runs")
        await client.get("/no%0Awhere/%C3%A9", headers=KEY)
        await client.head("/health")
    found = access(lines)
    assert [(line.method, line.path, line.status) for line in found] == [
        ("POST", "/run", 200),
        ("POST", "/run", 200),
        ("POST", "/hook", 200),
        ("POST", "/later", 202),
        ("GET", "/own", 200),
        ("GET", "/runs", 401),
        ("GET", "/no%0Awhere/%C3%A9", 404),
        ("HEAD", "/health", 200),
    ]
    started = json.loads(streamed.text.partition("data: ")[2].partition("\n")[0])
    ids = [run.json()["run_id"], started["run_id"], hook.json()["run_id"], later.json()["run_id"]]
    assert [getattr(line, "run_id", "") or "" for line in found] == [*ids, "", "", "", ""]
    assert [line.bytes for line in found[:3]] == [len(each.content) for each in (run, streamed, hook)]
    assert {line.client for line in found} == {"127.0.0.1"}
    assert all(0 <= line.duration_ms < 10_000 for line in found)
    assert "secret" not in "".join(line.getMessage() for line in found)


async def own() -> str:
    return "own"


async def test_a_client_that_leaves_has_a_line(lines: pytest.LogCaptureFixture) -> None:
    hold = Held("done")
    async with serve_ourselves(Agent(OfflineModel(hold)), access_log=True) as client:
        async with raw_client(client) as raw:
            await raw.send(raw_run())
            await hold.until(lambda held: held.arrived == 1)
        while not access(lines):
            await anyio.sleep(0.01)
    [line] = access(lines)
    assert (line.path, line.status, line.bytes) == ("/run", 499, 0)
    assert line.run_id.startswith("run_")


async def test_a_websocket_is_one_line_when_it_ends(lines: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")

    @agent.blueprint.websocket("/ws")
    async def socket() -> None:
        await websocket.send("four")
        await websocket.send(b"six..!")

    async with serve_ourselves(agent, access_log=True) as client:
        url = f"ws://{client.base_url.netloc.decode()}/ws?token=secret"

        def talk() -> list[Any]:
            with connect(url, proxy=None) as connection:
                return [connection.recv(), connection.recv()]

        assert await anyio.to_thread.run_sync(talk) == ["four", b"six..!"]
        while not access(lines):
            await anyio.sleep(0.01)
    [line] = access(lines)
    assert (line.method, line.path, line.status, line.bytes) == ("WEBSOCKET", "/ws", 101, 10)


async def test_as_json_each_value_is_a_field(lines: pytest.LogCaptureFixture) -> None:
    async with serve_ourselves(Agent("offline"), access_log=True) as client:
        await client.get("/health")
    document = json.loads(JSONFormatter().format(access(lines)[0]))
    assert (document["status"], document["path"], document["method"]) == (200, "/health", "GET")
    assert document["message"].startswith("127.0.0.1 GET /health 200, ")


async def test_it_is_off_unless_asked_for_and_the_servers_own_behind_a_foreign_one(
    lines: pytest.LogCaptureFixture, anyio_backend: str
) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        await client.get("/health")
    async with serve_foreign(anyio_backend, Agent("offline"), access_log=True) as client:
        await client.get("/health")
    assert access(lines) == []
