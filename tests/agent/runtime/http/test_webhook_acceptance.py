"""Webhooks whose work is done later, and deliveries that come twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import Held, Recorder, Serve, agent_with, assert_problem, serve_ourselves

from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import Reply, Webhook
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio


async def test_accepted_work_is_answered_at_once_and_done_later(serve: Serve) -> None:
    hold = Held("done")
    agent = agent_with(Webhook("/hook", respond="accept"), Recorder("hi"), OfflineModel(hold))
    async with serve(agent) as client:
        response = await client.post("/hook")
        assert response.status_code == 202
        run_id = response.json()["run_id"]
        assert response.headers["location"] == f"/runs/{run_id}"
        await hold.until(lambda hold: hold.arrived == 1)
        assert (await client.get(f"/runs/{run_id}")).json()["status"] == "running"
        hold.go_on.set()
        while (document := (await client.get(f"/runs/{run_id}")).json())["status"] == "running":
            await anyio.sleep(0.005)
    assert (document["content"], document["source"]) == ("done", "POST /hook")


async def test_accepted_work_without_room_is_a_503(serve: Serve) -> None:
    hold = Held()
    agent = agent_with(Webhook("/hook", respond="accept", max_concurrency=1), hold)
    async with serve(agent, event_buffer=1, event_workers=1) as client:
        responses = [await client.post("/hook") for _ in range(6)]
        statuses = Counter(response.status_code for response in responses)
        assert set(statuses) == {202, 503}
        for response in responses:
            if response.status_code == 503:
                assert_problem(response, 503)
        hold.go_on.set()
        await hold.until(lambda hold: hold.ended == statuses[202])


# --- dedupe


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize(
    "dedupe", ["X-Delivery", lambda event: event.headers.get("x-delivery")], ids=["header", "call"]
)
async def test_a_repeat_is_answered_and_not_run_again(serve: Serve, respond: Any, dedupe: Any) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook", respond=respond, dedupe=dedupe), handler)) as client:
        for name in ("a", "a", "b", "a", None, None, "", ""):
            response = await client.post("/hook", headers={} if name is None else {"x-delivery": name})
            repeated = response.json() == {"status": "duplicate"}
            assert response.status_code == (200 if respond == "wait" or repeated else 202)
    names = [event.headers.get("x-delivery") for event in handler.events]
    assert sorted(names, key=str) == ["", "", None, None, "a", "b"]


REPEATS = 300


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize("dedupe", ["X-Delivery", lambda event: event.body["id"]], ids=["header", "call"])
async def test_of_hundreds_of_repeats_at_once_exactly_one_runs(respond: Any, dedupe: Any) -> None:
    handler = Recorder("hi")
    agent = agent_with(Webhook("/hook", respond=respond, dedupe=dedupe), handler, OfflineModel(latency=0.05))
    statuses: Counter[str | int] = Counter()
    async with serve_ourselves(agent, shutdown_timeout=10) as client:
        limit = anyio.CapacityLimiter(100)

        async def post() -> None:
            async with limit:
                response = await client.post("/hook", json={"id": "7"}, headers={"x-delivery": "7"})
            statuses[response.json().get("status", "run")] += 1
            if response.status_code == 409:
                assert_problem(response, 409)
                assert response.headers["retry-after"] == "5"

        async with anyio.create_task_group() as group:
            for _ in range(REPEATS):
                group.start_soon(post)
        repeated = await client.post("/hook", json={"id": "7"}, headers={"x-delivery": "7"})
        assert repeated.json() == {"status": "duplicate"}
    assert statuses.pop("run" if respond == "wait" else "accepted") == 1
    assert statuses.total() == REPEATS - 1
    assert set(statuses) <= ({"duplicate", 409} if respond == "wait" else {"duplicate"})
    assert respond == "accept" or statuses[409]
    assert len(handler.events) == 1


@pytest.mark.parametrize(
    "failure",
    [
        ZeroDivisionError(),
        Reply("again, please", 503),
        Reply("not like this", 400),
        Reply(status=302, headers={"location": "/elsewhere"}),
        TimeoutError(),
    ],
)
async def test_a_delivery_that_failed_may_come_again(failure: Any) -> None:
    handler = Recorder(failure, "hi")
    async with serve_ourselves(agent_with(Webhook("/hook", dedupe="X-Delivery"), handler)) as client:
        responses = [await client.post("/hook", headers={"x-delivery": "7"}) for _ in range(3)]
    assert responses[0].status_code // 100 != 2
    assert [response.status_code for response in responses[1:]] == [200, 200]
    assert responses[1].json()["content"] == "hi"
    assert responses[2].json() == {"status": "duplicate"}


@pytest.mark.parametrize("failure", [ZeroDivisionError(), Reply("not like this", 400)])
async def test_an_accepted_delivery_that_failed_may_come_again(failure: Any) -> None:
    handler = Recorder(failure, None)
    async with serve_ourselves(agent_with(Webhook("/hook", dedupe="X-D", respond="accept"), handler)) as client:

        async def post() -> httpx2.Response:
            return await client.post("/hook", headers={"x-d": "7"})

        run_id = (await post()).json()["run_id"]
        while (await client.get(f"/runs/{run_id}")).json()["status"] == "queued":
            await anyio.sleep(0.005)
        await anyio.sleep(0.01)
        assert (await post()).status_code == 202
        assert (await post()).json() == {"status": "duplicate"}
    assert len(handler.events) == 2


async def test_a_retried_delivery_is_tried_again_while_its_sender_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from definable.agent.runtime import dispatch
    from definable.concurrency.backoff import Backoff

    monkeypatch.setattr(dispatch, "RETRY_BACKOFF", Backoff(initial=0.01, maximum=0.01, jitter=0.0))
    handler = Recorder(ZeroDivisionError(), ZeroDivisionError(), "hi")
    async with serve_ourselves(agent_with(Webhook("/hook", retries=2, dedupe="X-D"), handler)) as client:
        response = await client.post("/hook", headers={"x-d": "7"})
    assert response.json()["content"] == "hi"
    assert [event.attempt for event in handler.events] == [1, 2, 3]
    assert len({event.id for event in handler.events}) == 1


async def test_one_callers_names_are_not_anothers() -> None:
    handler = Recorder()
    agent = agent_with(Webhook("/hook", dedupe="Idempotency-Key", auth=APIKeyAuth({"k1", "k2"})), handler)
    async with serve_ourselves(agent) as client:
        for key, status in [("k1", "ok"), ("k2", "ok"), ("k1", "duplicate")]:
            response = await client.post("/hook", headers={"x-api-key": key, "idempotency-key": "7"})
            assert response.json() == {"status": status}
