"""Two callers of one service: neither gets at the other's sessions and runs, or can tell that there are any."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from loopback.agent_api import Serve

from definable.agent import Agent, RunContext
from definable.agent.auth import APIKey, APIKeyAuth, AuthContext, CompositeAuth, GitHubSignature, JWTAuth
from definable.agent.auth.providers import user_id_of
from definable.agent.bus import SQLiteBus
from definable.agent.session import Session, SQLiteSessionStore
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.model import Message

pytestmark = pytest.mark.anyio

SECRET = "s" * 32

KEYS = {"a": "key-a", "b": "key-b", "operator": APIKey("key-o", scopes={"admin"})}

A, B, ADMIN = ({"X-API-Key": f"key-{letter}"} for letter in "abo")


def bearer(sub: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt.encode({'sub': sub, **claims}, SECRET, 'HS256')}"}


ANN, BOB = bearer("ann"), bearer("bob")

PAIRS = [(A, B), (A, ANN), (ANN, A), (ANN, BOB)]


def auth() -> CompositeAuth:
    return CompositeAuth(APIKeyAuth(KEYS), JWTAuth(SECRET))


@asynccontextmanager
async def served(serve: Serve, **options: Any) -> AsyncIterator[tuple[Agent, httpx2.AsyncClient]]:
    agent = Agent("offline", auth=auth(), **options)
    async with serve(agent) as client:
        yield agent, client


async def ran(client: httpx2.AsyncClient, who: dict[str, str], text: str, **body: Any) -> dict[str, Any]:
    response = await client.post("/run", json={"input": text, **body}, headers=who)
    assert response.status_code == 200, response.text
    return response.json()


def acting(who: dict[str, str], user_id: str | None) -> dict[str, Any]:
    return {"user_id": user_id} if "X-API-Key" in who and user_id is not None else {}


@pytest.mark.parametrize("user_id", [None, "ann", "carl"])
@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_the_same_session_id_of_two_callers_is_two_sessions(
    serve: Serve, one: dict[str, str], other: dict[str, str], user_id: str | None
) -> None:
    async with served(serve) as (_, client):
        first = await ran(client, one, "my secret", session_id="s", **acting(one, user_id))
        assert first["session_id"] == "s"
        free, taken = [
            await client.request(method, f"/sessions/{name}", headers=other)
            for name in ("free", "s")
            for method in ("GET",)
        ]
        assert (free.status_code, free.content) == (taken.status_code, taken.content) == (404, taken.content)
        assert (await client.delete("/sessions/s", headers=other)).status_code == 404
        await ran(client, other, "mine", session_id="s", **acting(other, user_id))
        for who, text in ((one, "my secret"), (other, "mine")):
            session = (await client.get("/sessions/s", headers=who)).json()
            assert session["session_id"] == "s"
            assert [message["content"] for message in session["messages"]] == [text, text]
        assert (await client.delete("/sessions/s", headers=other)).status_code == 204
        assert (await client.get("/sessions/s", headers=one)).status_code == 200


@pytest.mark.parametrize("user_id", [None, "ann", "carl"])
@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_runs_are_listed_shown_followed_and_cancelled_by_their_caller_alone(
    serve: Serve, one: dict[str, str], other: dict[str, str], user_id: str | None
) -> None:
    async with served(serve) as (_, client):
        run_id = (await ran(client, one, "my secret", **acting(one, user_id)))["run_id"]
        later = await client.post(
            "/run", json={"input": "later", **acting(one, user_id)}, headers={**one, "prefer": "respond-async"}
        )
        ids = {run_id, later.json()["run_id"]}
        assert (await client.get("/runs", headers=other)).json()["runs"] == []
        assert {run["run_id"] for run in (await client.get("/runs", headers=one)).json()["runs"]} == ids
        for each in ids:
            for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
                response = await client.request(method, f"/runs/{each}{path}", headers=other)
                assert response.status_code == 404
            assert (await client.get(f"/runs/{each}", headers=one)).status_code == 200


async def test_an_admin_sees_everything(serve: Serve) -> None:
    async with served(serve) as (_, client):
        ids = [(await ran(client, who, "hi", session_id=f"of {n}"))["run_id"] for n, who in enumerate((A, B, ANN))]
        runs = (await client.get("/runs", headers=ADMIN)).json()["runs"]
        assert {run["run_id"] for run in runs} == set(ids)
        assert {run["session_id"] for run in runs} == {"of 0", "of 1", "of 2"}
        for number in range(3):
            response = await client.get(f"/sessions/of {number}", headers=ADMIN)
            assert [each["content"] for each in response.json()["messages"]] == ["hi", "hi"]
        assert (await client.delete("/sessions/of 0", headers=ADMIN)).status_code == 204
        assert (await client.get("/sessions/of 0", headers=A)).status_code == 404


async def test_an_admin_is_told_which_sessions_an_id_may_mean(serve: Serve) -> None:
    async with served(serve) as (_, client):
        for who in (A, ANN):
            await ran(client, who, "hi", session_id="s")
        response = await client.get("/sessions/s", headers=ADMIN)
        assert response.status_code == 409
        for name in (f"service~{user_id_of('key-a')}~s", "user~ann~s"):
            assert name in response.json()["detail"]
            assert (await client.get(f"/sessions/{name}", headers=ADMIN)).json()["session_id"] == name
            for who in (B, BOB):
                assert (await client.get(f"/sessions/{name}", headers=who)).status_code == 404


@pytest.mark.parametrize("who", [A, ANN])
@pytest.mark.parametrize("headers", [{}, {"accept": "text/event-stream"}, {"prefer": "respond-async"}])
async def test_a_session_that_was_begun_without_an_id_goes_on(
    serve: Serve, who: dict[str, str], headers: dict[str, str]
) -> None:
    async with served(serve) as (_, client):
        user = acting(who, "carl")
        response = await client.post("/run", json={"input": "one", **user}, headers=who | headers)
        if "accept" in headers:
            run_id = response.text.split('"run_id":"')[1].split('"')[0]
        else:
            run_id = response.json()["run_id"]
        events = (await client.get(f"/runs/{run_id}/events", headers=who)).text if "prefer" in headers else ""
        session_id = (await client.get(f"/runs/{run_id}", headers=who)).json()["session_id"]
        assert session_id.startswith("session_")
        for text in (response.text, events):
            assert "~" not in text
        await ran(client, who, "two", session_id=session_id, **user)
        messages = (await client.get(f"/sessions/{session_id}", headers=who)).json()["messages"]
        assert [message["content"] for message in messages] == ["one", "one", "two", "two"]


# --- what was stored before there were namespaces


@pytest.mark.parametrize(
    ("owner", "who", "body", "is_found"),
    [
        ("ann", ANN, {}, True),
        (user_id_of("key-a"), A, {}, True),
        ("ann", A, {"user_id": "ann"}, True),
        ("ann", BOB, {}, False),
        (user_id_of("key-a"), B, {}, False),
        ("ann", A, {"user_id": "bob"}, False),
        ("ann", A, {}, False),
        (None, ANN, {}, False),
        (None, A, {}, False),
        ("telegram:42", bearer("42"), {}, False),
    ],
)
async def test_a_stored_session_stays_its_owners(
    serve: Serve, owner: str | None, who: dict[str, str], body: dict[str, str], is_found: bool
) -> None:
    async with served(serve) as (agent, client):
        await agent.sessions.save(Session("s", owner, (Message("user", "long ago"),)))
        query = "?user_id=" + body["user_id"] if body else ""
        status = (await client.get(f"/sessions/s{query}", headers=who)).status_code
        assert status == (200 if is_found else 404)
        await ran(client, who, "now", session_id="s", **body)
        stored = await agent.sessions.load("s")
        assert stored is not None
        assert len(stored.messages) == (3 if is_found else 1)
        assert (await client.delete(f"/sessions/s{query}", headers=who)).status_code == 204


@pytest.mark.parametrize("who", [BOB, A, B])
async def test_an_id_as_the_store_has_it_opens_nothing_to_others(serve: Serve, who: dict[str, str]) -> None:
    async with served(serve) as (_, client):
        await ran(client, ANN, "my secret", session_id="s")
        for query in ("", "?user_id=ann"):
            assert (await client.get(f"/sessions/user~ann~s{query}", headers=who)).status_code == 404
        answer = await ran(client, who, "hello", session_id="user~ann~s", **acting(who, "ann"))
        assert answer["session_id"] == "user~ann~s"
        assert len((await client.get("/sessions/s", headers=ANN)).json()["messages"]) == 2


@pytest.mark.parametrize("name", ["a~b", "a/b", "ä b", "%7E", "user~x~", "..", "a" * 200])
async def test_no_two_callers_have_one_namespace(name: str) -> None:
    contexts = [AuthContext(name), AuthContext(name, may_act_for_others=True), AuthContext("a"), AuthContext("b")]
    contexts += [AuthContext(name, {"auth_method": "signature"}), AuthContext(f"{name}~"), AuthContext(f"~{name}")]
    keys = [context.session_key(rest) for context in contexts for rest in ("s", "~s", "b~s")]
    assert len(set(keys)) == len(keys)


# --- scopes


@pytest.mark.parametrize(
    ("scopes", "read", "run"), [({"read"}, 200, 403), ({"run"}, 403, 200), ({"admin"}, 200, 200), (None, 200, 200)]
)
async def test_a_key_does_what_its_scopes_say(serve: Serve, scopes: set[str] | None, read: int, run: int) -> None:
    key = APIKey("key") if scopes is None else APIKey("key", scopes=scopes)
    agent = Agent("offline", auth=APIKeyAuth({"it": key}))
    agent.on(Webhook("/hook"))(lambda event: None)
    agent.on(Webhook("/look", method="GET"))(lambda event: None)

    @agent.blueprint.route("/own", methods=["GET", "POST"])
    async def own() -> str:
        return "own"

    async with serve(agent) as client:
        client.headers["X-API-Key"] = "key"
        for path in ("/runs", "/own"):
            assert (await client.get(path)).status_code == read
        for method, path in (("POST", "/run"), ("POST", "/hook"), ("GET", "/look"), ("POST", "/own")):
            response = await client.request(method, path, json={"input": "hi"} if method == "POST" else None)
            assert response.status_code == run
        assert (await client.delete("/runs/unknown")).status_code == (404 if run == 200 else 403)


# --- what a run knows of its caller


@asynccontextmanager
async def noting(serve: Serve, directory: Path | None) -> AsyncIterator[tuple[httpx2.AsyncClient, list[RunContext]]]:
    bus = None if directory is None else SQLiteBus(directory / "events.db")
    store = None if directory is None else SQLiteSessionStore(directory / "sessions.db")
    agent = Agent("offline", auth=CompositeAuth(auth(), GitHubSignature("s")), bus=bus, sessions=store)
    seen: list[RunContext] = []
    agent.before_request(seen.append)

    async def run(event: TriggerEvent) -> str:
        return "run"

    for webhook in (Webhook("/wait"), Webhook("/accept", respond="accept"), Webhook("/open", auth=False)):
        agent.on(webhook)(run)
    agent.on(EventTrigger("thing"))(run)
    async with serve(agent) as client:
        yield client, seen
        agent.emit("thing")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/run", {}),
        ("/run", {"accept": "text/event-stream"}),
        ("/run", {"prefer": "respond-async"}),
        ("/wait", {}),
        ("/accept", {}),
    ],
)
async def test_a_run_knows_the_claims_of_its_caller_and_not_what_the_caller_wrote(
    serve: Serve, tmp_path: Path, path: str, headers: dict[str, str], durable: bool
) -> None:
    who = bearer("ann", role="user", exp=int(time.time()) + 60)
    async with noting(serve, tmp_path if durable else None) as (client, seen):
        body = {"input": "hi", "metadata": {"role": "admin", "auth": {"user_id": "root"}}}
        response = await client.post(path, json=body, headers=who | headers)
        assert response.status_code in (200, 202)
        if response.status_code == 202:
            await client.get(f"/runs/{response.json()['run_id']}/events", headers=who)
    of_caller, of_event = seen
    assert of_caller.auth is not None
    assert (of_caller.auth.user_id, of_caller.user_id) == ("ann", "ann")
    assert of_caller.auth.metadata["role"] == "user"
    assert not of_caller.auth.is_admin
    assert of_event.auth is None


async def test_scopes_go_through_the_bus(serve: Serve, tmp_path: Path) -> None:
    async with noting(serve, tmp_path) as (client, seen):
        response = await client.post("/accept", headers=ADMIN)
        await client.get(f"/runs/{response.json()['run_id']}/events", headers=ADMIN)
    assert seen[0].auth is not None
    assert seen[0].auth.is_admin
    assert seen[0].auth.metadata == {"auth_method": "api_key", "key": "operator"}


async def test_nobody_was_asked_on_an_open_agent_and_a_public_webhook(serve: Serve) -> None:
    async with noting(serve, None) as (client, seen):
        await client.post("/open")
    assert [context.auth for context in seen] == [None, None]
    agent = Agent("offline")
    agent.before_request(seen.append)
    async with serve(agent) as client:
        await client.post("/run", json={"input": "hi", "metadata": {"auth": "root"}})
    assert seen[-1].auth is None


async def test_a_handler_goes_on_with_a_session_of_its_caller(serve: Serve) -> None:
    agent = Agent("offline", auth=auth())

    @agent.on(Webhook("/more"))
    async def more(event: TriggerEvent) -> dict[str, Any]:
        assert event.raw is not None
        return {"input": "more", "session_id": event.raw.auth.session_key("trip")}

    async with serve(agent) as client:
        for who in (A, ANN):
            await ran(client, who, "begin", session_id="trip")
            assert (await client.post("/more", headers=who)).json()["session_id"] == "trip"
            assert len((await client.get("/sessions/trip", headers=who)).json()["messages"]) == 4


async def test_a_session_that_a_handler_names_stays_as_it_is_named(serve: Serve) -> None:
    """What a handler returns are the arguments of `arun`, and its ids are the service's own."""
    agent = Agent("offline", auth=auth())
    agent.on(Webhook("/hook"))(lambda event: {"input": "hi", "session_id": "daily"})
    async with serve(agent) as client:
        assert (await client.post("/hook", headers=A)).json()["session_id"] == "daily"
        stored = await agent.sessions.load("daily")
        assert stored is not None
        assert stored.user_id == user_id_of("key-a")
        assert (await client.get("/sessions/daily", headers=A)).status_code == 200
        assert (await client.get("/sessions/daily", headers=B)).status_code == 404
