"""Nobody gets at another user's sessions and runs, whatever they put in path, body, query or headers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import Held, Serve, assert_problem

from definable.agent import Agent
from definable.agent.auth import AuthContext, AuthRequest
from definable.agent.trigger import Webhook
from definable.model import ModelRequest, OfflineModel

pytestmark = pytest.mark.anyio

SECRET = "the code is 4711"


class Named:
    """The caller is who it says in one header; services may act for others."""

    immediate = True

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        name = request.header("x-me")
        return None if name is None else AuthContext(name, may_act_for_others=name.startswith("service"))


@dataclass
class World:
    """Ann's session and runs: one completed, one queued, one running; and a session and run of nobody."""

    client: httpx2.AsyncClient
    model: OfflineModel
    ids: dict[str, str]

    async def send(self, who: str, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"x-me": who, **options.pop("headers", {})}
        return await self.client.request(method, path.format_map(self.ids), headers=headers, **options)


@asynccontextmanager
async def world(serve: Serve) -> AsyncIterator[World]:
    held = Held("done")

    def answer(request: ModelRequest) -> Any:
        return held() if request.messages[-1].content == "hold" else "ok"

    model = OfflineModel(answer)
    agent = Agent(model, auth=Named())
    agent.on(Webhook("/public", auth=False))(lambda event: {"input": SECRET, "session_id": "nobodys"})
    async with serve(agent, event_workers=1) as client:
        it = World(client, model, {})
        later = {"prefer": "respond-async"}
        for name, body, headers in [
            ("done", {"input": SECRET, "session_id": "anns"}, {}),
            ("running", {"input": "hold"}, later),
            ("queued", {"input": "hold"}, later),
        ]:
            response = await it.send("ann", "POST", "/run", json=body, headers=headers)
            it.ids[name] = response.json()["run_id"]
        await held.until(lambda held: held.arrived == 1)
        it.ids["nobodys_run"] = (await client.post("/public")).json()["run_id"]
        yield it
        held.go_on.set()


RUNS = ["done", "running", "queued", "nobodys_run"]

READS = [
    *[("GET", f"/runs/{{{name}}}", {}) for name in RUNS],
    *[("GET", f"/runs/{{{name}}}/events", {}) for name in RUNS],
    *[("DELETE", f"/runs/{{{name}}}", {}) for name in RUNS],
    ("GET", "/runs/{done}", {"params": {"user_id": "ann"}}),
    ("GET", "/runs/{done}", {"headers": {"x-user-id": "ann"}}),
    ("GET", "/runs/{done}/events", {"headers": {"last-event-id": "0"}}),
    ("GET", "/sessions/anns", {}),
    ("HEAD", "/sessions/anns", {}),
    ("GET", "/sessions/anns", {"params": {"user_id": "ann", "x-me": "ann"}}),
    ("GET", "/sessions/anns", {"headers": {"x-user-id": "ann", "x-forwarded-user": "ann"}}),
    ("GET", "/sessions/%61nns", {}),
    ("DELETE", "/sessions/anns", {}),
    ("DELETE", "/sessions/anns", {"params": {"user_id": "ann"}}),
    ("GET", "/sessions/nobodys", {}),
    ("DELETE", "/sessions/nobodys", {}),
]

MODES: list[dict[str, str]] = [{}, {"accept": "text/event-stream"}, {"prefer": "respond-async"}]


@pytest.mark.parametrize(("method", "path", "options"), READS)
async def test_what_belongs_to_others_is_not_there(serve: Serve, method: str, path: str, options: Any) -> None:
    async with world(serve) as it:
        response = await it.send("eve", method, path, **options)
        assert response.status_code == 404
        for name in RUNS:
            path = path.replace(f"{{{name}}}", "no-such-run")
        unknown = await it.send("eve", method, path.replace("anns", "x").replace("nobodys", "x"), **options)
        assert unknown.status_code == 404
        assert response.content == unknown.content
        assert response.headers.keys() == unknown.headers.keys()
        assert (await it.send("ann", "GET", "/sessions/anns")).status_code == 200
        assert (await it.send("ann", "GET", "/runs/{running}")).json()["status"] == "running"


@pytest.mark.parametrize("headers", MODES)
@pytest.mark.parametrize("session_id", ["anns", "nobodys"])
async def test_a_session_id_that_others_use_begins_a_session_of_the_callers_own(
    serve: Serve, headers: dict[str, str], session_id: str
) -> None:
    async with world(serve) as it:
        body = {"input": "what is the code?", "session_id": session_id, "metadata": {"user_id": "ann"}}
        response = await it.send("eve", "POST", "/run", json=body, headers=headers)
        assert response.status_code in (200, 202)
        assert SECRET not in response.text
        assert [run["user_id"] for run in (await it.send("eve", "GET", "/runs")).json()["runs"]] == ["eve"]
        for request in it.model.requests:
            said = [message.content for message in request.messages]
            assert "what is the code?" not in said or SECRET not in said
        assert SECRET in (await it.send("ann", "GET", "/sessions/anns")).text


@pytest.mark.parametrize("headers", MODES)
@pytest.mark.parametrize("user_id", ["ann", "eve2", "service"])
async def test_a_user_does_not_act_for_another(serve: Serve, headers: dict[str, str], user_id: str) -> None:
    async with world(serve) as it:
        for extra in ({}, {"session_id": "anns"}):
            body = {"input": "hi", "user_id": user_id, **extra}
            assert_problem(await it.send("eve", "POST", "/run", json=body, headers=headers), 403)


async def test_lists_show_the_callers_own_alone(serve: Serve) -> None:
    async with world(serve) as it:
        await it.send("eve", "POST", "/run", json={"input": "hi", "user_id": "eve"})
        for params in ({}, {"user_id": "ann"}):
            runs = (await it.send("eve", "GET", "/runs", params=params)).json()["runs"]
            assert [run["user_id"] for run in runs] == ["eve"]
        assert len((await it.send("ann", "GET", "/runs")).json()["runs"]) == 3


async def test_the_owner_gets_it_all(serve: Serve) -> None:
    async with world(serve) as it:
        assert SECRET in (await it.send("ann", "GET", "/sessions/anns")).text
        assert (await it.send("ann", "GET", "/runs/{queued}")).json()["status"] == "queued"
        assert (await it.send("ann", "DELETE", "/runs/{running}")).status_code == 202
        assert "run_failed" in (await it.send("ann", "GET", "/runs/{running}/events")).text
        for headers in MODES:
            body = {"input": "go on", "session_id": "anns", "user_id": "ann"}
            response = await it.send("ann", "POST", "/run", json=body, headers=headers)
            assert response.status_code in (200, 202)
        assert (await it.send("ann", "DELETE", "/sessions/anns")).status_code == 204


async def test_a_service_acts_for_the_user_it_names_and_for_no_other(serve: Serve) -> None:
    async with world(serve) as it:
        body = {"input": "go on", "session_id": "anns"}
        assert_problem(await it.send("service", "GET", "/sessions/anns"), 404)
        response = await it.send("service", "POST", "/run", json={**body, "user_id": "ann"})
        assert (response.status_code, response.json()["user_id"]) == (200, "ann")
        assert_problem(await it.send("service", "POST", "/run", json={**body, "user_id": "bob"}), 404)
        assert_problem(await it.send("service", "POST", "/run", json=body), 404)
        begun = await it.send("service", "GET", "/sessions/anns")
        assert SECRET not in begun.text, "ann began hers without this service"
        assert begun.json()["user_id"] == "ann"
        own = await it.send("service", "POST", "/run", json={"input": "hi"})
        assert own.json()["user_id"] == "service"


async def test_a_session_id_that_nobody_uses_begins_a_session_of_the_callers_own(serve: Serve) -> None:
    async with world(serve) as it:
        assert (await it.send("eve", "POST", "/run", json={"input": "hi", "session_id": "eves"})).status_code == 200
        assert (await it.send("eve", "GET", "/sessions/eves")).json()["user_id"] == "eve"
        assert_problem(await it.send("ann", "GET", "/sessions/eves"), 404)


async def test_on_an_open_agent_a_session_belongs_to_whom_it_was_begun_for(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        for body, status in [
            ({"user_id": "ann"}, 200),
            ({"user_id": "bob"}, 404),
            ({}, 404),
            ({"user_id": "ann"}, 200),
        ]:
            for headers in MODES:
                response = await client.post("/run", json={"input": "hi", "session_id": "s", **body}, headers=headers)
                assert response.status_code == (202 if status == 200 and "prefer" in headers else status)
                with anyio.CancelScope():
                    await response.aread()
