"""`agent.asgi()`: the lifespan, and what is mounted below a prefix."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import assert_problem, serve_foreign

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import EventTrigger, Webhook

pytestmark = pytest.mark.anyio


class Lifespan:
    """A server's side of the lifespan protocol."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.to_app = anyio.create_memory_object_stream[dict[str, Any]](1)
        self.from_app = anyio.create_memory_object_stream[dict[str, Any]](10)

    async def run(self) -> None:
        with self.to_app[0], self.to_app[1], self.from_app[0], self.from_app[1]:
            await self.app({"type": "lifespan"}, self.to_app[1].receive, self.from_app[0].send)

    async def say(self, what: str) -> dict[str, Any]:
        await self.to_app[0].send({"type": f"lifespan.{what}"})
        return await self.from_app[1].receive()


async def test_before_its_lifespan_the_application_says_what_is_missing(anyio_backend: str) -> None:
    transport = httpx2.ASGITransport(Agent("offline").asgi())
    async with httpx2.AsyncClient(base_url="http://x", transport=transport) as client:
        assert "lifespan" in assert_problem(await client.get("/health"), 503)["detail"]


async def test_a_start_that_fails_is_told_to_the_server_in_one_line() -> None:
    agent = Agent("offline")

    @agent.blueprint.before_app_serving
    async def fail() -> None:
        raise ZeroDivisionError("no database")

    lifespan = Lifespan(agent.asgi())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lifespan.run)
            message = await lifespan.say("startup")
    assert message == {"type": "lifespan.startup.failed", "message": "ZeroDivisionError: no database"}
    assert agent.runtime is None


async def test_an_application_that_failed_to_start_may_be_started_again() -> None:
    agent = Agent("offline")
    app = agent.asgi()
    async with agent.running(enable_server=False), anyio.create_task_group() as group:
        lifespan = Lifespan(app)
        group.start_soon(lifespan.run)
        assert "being served already" in (await lifespan.say("startup"))["message"]
    async with anyio.create_task_group() as group:
        lifespan = Lifespan(app)
        group.start_soon(lifespan.run)
        assert (await lifespan.say("startup"))["type"] == "lifespan.startup.complete"
        assert (await lifespan.say("shutdown"))["type"] == "lifespan.shutdown.complete"
    assert agent.runtime is None


async def test_an_end_that_fails_is_told_to_the_server() -> None:
    agent = Agent("offline")

    @agent.blueprint.after_app_serving
    async def fail() -> None:
        raise ZeroDivisionError("no database")

    lifespan = Lifespan(agent.asgi())
    async with anyio.create_task_group() as group:
        group.start_soon(lifespan.run)
        await lifespan.say("startup")
        message = await lifespan.say("shutdown")
    assert message["type"] == "lifespan.shutdown.failed"
    assert agent.runtime is None


async def test_events_are_handled_while_the_lifespan_is_on() -> None:
    agent = Agent("offline")
    handled: list[Any] = []
    agent.on(EventTrigger("e"))(lambda event: handled.append(event.body))
    agent.emit("e", {"n": 1})
    lifespan = Lifespan(agent.asgi())
    async with anyio.create_task_group() as group:
        group.start_soon(lifespan.run)
        await lifespan.say("startup")
        agent.emit("e", {"n": 2})
        await lifespan.say("shutdown")
    assert sorted(event["n"] for event in handled) == [1, 2]  # in threads, which take any order


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("path", ["/hook", "/once", "/run", "/own"])
async def test_a_request_whose_task_the_server_cancels_ends_there_and_is_not_tried_again(path: str) -> None:
    agent = Agent("offline")
    began: list[str] = []

    async def hang(what: object) -> None:
        began.append(path)
        await anyio.sleep_forever()

    agent.before_request(hang)
    agent.on(Webhook("/hook", retries=3))(hang)
    agent.on(Webhook("/once", retries=3, dedupe="x-id"))(hang)

    @agent.blueprint.post("/own")
    async def own() -> str:
        await hang(None)
        return "own"

    app = agent.asgi()
    async with app.lifespan():
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(base_url="http://x", transport=transport) as client:
            with anyio.move_on_after(3) as too_long, pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.post(path, json={"input": "hi"}, headers={"x-id": "1"})
    assert (began, too_long.cancel_called) == ([path], False)


async def test_behind_a_prefix_paths_and_links_are_right(anyio_backend: str) -> None:
    agent = Agent("offline")
    events: list[Any] = []
    agent.on(Webhook("/hook/{name}", respond="accept"))(events.append)

    @agent.blueprint.get("/own")
    async def own() -> str:
        return "own"

    async with serve_foreign(anyio_backend, agent, root_path="/my agent") as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/own")).text == "own"
        assert_problem(await client.get("/run"), 405)
        assert_problem(await client.get("/nowhere"), 404)
        response = await client.post("/run", json={"input": "hi"}, headers={"prefer": "respond-async"})
        assert response.headers["location"] == f"/my%20agent/runs/{response.json()['run_id']}"
        response = await client.post("/hook/x")
        assert response.headers["location"] == f"/my%20agent/runs/{response.json()['run_id']}"
    [event] = events
    assert (event.source, event.raw.path_params) == ("POST /hook/{name}", {"name": "x"})


async def test_mounted_in_another_application_the_prefix_is_not_part_of_the_path() -> None:
    app = Agent("offline").asgi()

    async def mounting(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/agent"} if scope["path"].startswith("/agent") else scope, receive, send)

    lifespan = Lifespan(app)
    async with anyio.create_task_group() as group:
        group.start_soon(lifespan.run)
        await lifespan.say("startup")
        transport = httpx2.ASGITransport(mounting)
        async with httpx2.AsyncClient(base_url="http://x", transport=transport) as client:
            assert (await client.get("/agent/health")).status_code == 200
            response = await client.post("/agent/run", json={"input": "hi"}, headers={"prefer": "respond-async"})
            assert response.headers["location"].startswith("/agent/runs/")
            assert (await client.get(response.headers["location"])).status_code == 200
            assert_problem(await client.get("/agentx/health"), 404)
        await lifespan.say("shutdown")


MINIMAL: dict[str, Any] = {"http_version": "1.1", "path": "/hook", "query_string": b"", "headers": []}
"""What a scope must have; all else a server may leave out."""


async def answer_of(app: Any, scope: dict[str, Any], *received: dict[str, Any]) -> list[dict[str, Any]]:
    """What an application sends that receives these messages, and no more."""
    coming, sent = iter(received), list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return next(coming, None) or await anyio.sleep_forever()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with anyio.fail_after(5):
        await app(MINIMAL | {"asgi": {"version": "3.0"}} | scope, receive, send)
    return sent


async def test_a_server_may_leave_out_what_asgi_lets_it_leave_out() -> None:
    agent = Agent("offline")
    events: list[Any] = []
    agent.on(Webhook("/hook"))(events.append)
    app = agent.asgi()
    async with app.lifespan():
        start, body = await answer_of(app, {"type": "http", "method": "POST"}, {"type": "http.request"})
    assert (start["status"], body["body"], body.get("more_body", False)) == (200, b'{"status":"ok"}', False)
    [event] = events
    assert (event.body, event.raw.body, event.raw.client, event.raw.query) == (None, b"", None, {})


async def test_a_run_is_made_behind_a_server_whose_extensions_are_none() -> None:
    app = Agent("offline").asgi()
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/run", "extensions": None, "headers": headers}
    async with app.lifespan():
        start, _ = await answer_of(app, scope, {"type": "http.request", "body": b'{"input": "hi"}'})
    assert start["status"] == 200


@pytest.mark.parametrize(("is_serving", "code"), [(False, 1013), (True, 1008)])
async def test_a_websocket_is_refused_by_a_code_where_the_server_takes_no_response(is_serving: bool, code: int) -> None:
    app = Agent("offline", auth=APIKeyAuth("k")).asgi()
    async with app.lifespan() if is_serving else nullcontext():
        sent = await answer_of(app, {"type": "websocket", "subprotocols": []}, {"type": "websocket.connect"})
    assert sent == [{"type": "websocket.close", "code": code}]


MODULE = """
from definable.agent import Agent
from definable.agent.trigger import Webhook
agent = Agent("offline")
agent.on(Webhook("/hook"))(lambda event: "hi")
app = agent.asgi()
{extra}
"""

FAILING = """
@agent.blueprint.before_app_serving
async def fail():
    raise RuntimeError("no database")
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_uvicorn_does_not_start_when_the_agent_does_not(tmp_path: Path, anyio_backend: str) -> None:
    (tmp_path / "app.py").write_text(MODULE.format(extra=FAILING))
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "app:app"]
    done = await anyio.run_process(command, cwd=tmp_path, check=False, stderr=subprocess.STDOUT)
    assert done.returncode != 0
    assert b"RuntimeError: no database" in done.stdout
    assert b"Application startup failed" in done.stdout
