"""Runs in the background and `/runs`; `/sessions`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import EventReader, Held, Serve, assert_problem, raw_client, serve_ourselves

from definable.agent import Agent
from definable.agent.runtime import run_log, runs, workers
from definable.agent.trigger import EventTrigger, Reply, TriggerEvent, Webhook
from definable.concurrency.backoff import Backoff
from definable.errors import ModelError
from definable.model import ModelReply, ModelRequest, OfflineModel, ToolCall

pytestmark = pytest.mark.anyio


async def accepted(client: httpx2.AsyncClient, input: str = "hi", **fields: Any) -> str:
    """Asks for a run in the background; its id."""
    response = await client.post("/run", json={"input": input, **fields}, headers={"prefer": "respond-async"})
    assert response.status_code == 202, response.text
    assert response.json()["status"] == "queued"
    return response.json()["run_id"]


async def show(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    response = await client.get(f"/runs/{run_id}")
    assert response.status_code == 200
    return response.json()


async def ended(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    while (document := await show(client, run_id))["status"] in ("queued", "running"):
        await anyio.sleep(0.005)
    return document


async def events_of(
    client: httpx2.AsyncClient, run_id: str, last_id: int | None = None
) -> list[tuple[int | None, str]]:
    headers = {} if last_id is None else {"last-event-id": str(last_id)}
    async with client.stream("GET", f"/runs/{run_id}/events", headers=headers) as response:
        if response.status_code == 204:
            return []
        assert response.status_code == 200
        return [(event.id, event.name) for event in await EventReader(response).all() if not event.comment]


async def test_a_run_in_the_background_goes_from_queued_to_completed(serve: Serve) -> None:
    blocker, hold = Held(), Held("done")
    agent = Agent(OfflineModel(hold))
    agent.on(EventTrigger("block"))(blocker)
    async with serve(agent, event_workers=1) as client:
        agent.emit("block")
        await blocker.until(lambda blocker: blocker.arrived == 1)
        response = await client.post(
            "/run", json={"input": "hi", "user_id": "ann"}, headers={"prefer": "wait=1, Respond-Async"}
        )
        run_id = response.json()["run_id"]
        assert response.status_code == 202
        assert response.headers["location"] == f"/runs/{run_id}"
        assert response.headers["preference-applied"] == "respond-async"
        assert (await show(client, run_id))["status"] == "queued"
        blocker.go_on.set()
        await hold.until(lambda hold: hold.arrived == 1)
        assert (await show(client, run_id))["status"] == "running"
        hold.go_on.set()
        document = await ended(client, run_id)
    assert (document["status"], document["content"], document["user_id"]) == ("completed", "done", "ann")
    assert document["source"] == "POST /run"


async def test_a_run_in_the_background_that_fails_says_why_without_internals(serve: Serve) -> None:
    async with serve(Agent(OfflineModel(ZeroDivisionError("secret")))) as client:
        run_id = await accepted(client)
        document = await ended(client, run_id)
        assert (document["status"], document["problem"]["status"]) == ("failed", 500)
        assert "secret" not in str(document)
        assert await events_of(client, run_id) == [(1, "run_started"), (2, "run_failed")]
        assert await events_of(client, run_id, 2) == []


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_run_in_the_background_is_cancelled(serve: Serve, state: str) -> None:
    blocker, hold = Held(), Held("done")
    agent = Agent(OfflineModel(hold))
    agent.on(EventTrigger("block"))(blocker)
    async with serve(agent, event_workers=1) as client:
        if state == "queued":
            agent.emit("block")
            await blocker.until(lambda blocker: blocker.arrived == 1)
        run_id = await accepted(client)
        if state == "running":
            await hold.until(lambda hold: hold.arrived == 1)
        assert (await client.delete(f"/runs/{run_id}")).status_code == 202
        document = await ended(client, run_id)
        assert (document["status"], document["problem"]["status"]) == ("cancelled", 409)
        assert_problem(await client.delete(f"/runs/{run_id}"), 409)
        assert (await events_of(client, run_id))[-1][1] == "run_failed"
        blocker.go_on.set()
        next_one = await accepted(client)
        hold.go_on.set()
        assert (await ended(client, next_one))["status"] == "completed"
        assert (await show(client, run_id))["status"] == "cancelled"
    assert hold.arrived == (1 if state == "queued" else 2)


async def test_events_can_be_followed_from_the_beginning_and_resumed(serve: Serve) -> None:
    blocker = Held()
    agent = Agent("offline")
    agent.on(EventTrigger("block"))(blocker)
    whole = [(1, "run_started"), (2, "text_delta"), (3, "text_delta"), (4, "run_ended")]
    async with serve(agent, event_workers=1) as client:
        agent.emit("block")
        await blocker.until(lambda blocker: blocker.arrived == 1)
        run_id = await accepted(client, "a b")
        async with client.stream("GET", f"/runs/{run_id}/events") as response:  # before there is any
            blocker.go_on.set()
            events = [event for event in await EventReader(response).all() if not event.comment]
        assert [(event.id, event.name) for event in events] == whole
        assert events[-1].data["content"] == "a b"
        for last_id in range(5):
            assert await events_of(client, run_id, last_id) == whole[last_id:]
        assert await events_of(client, run_id, 10**30) == []


@pytest.mark.parametrize("last_id", ["-1", "x", "1.0", "\u00b2".encode().decode("latin-1"), "1 2"])
async def test_a_last_event_id_that_is_none_is_a_400(last_id: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        run_id = await accepted(client)
        headers = [(b"last-event-id", last_id.encode("latin-1"))]
        assert_problem(await client.get(f"/runs/{run_id}/events", headers=headers), 400)


async def test_an_empty_last_event_id_is_none_at_all(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        run_id = await accepted(client)
        response = await client.get(f"/runs/{run_id}/events", headers={"last-event-id": ""})
        assert (response.status_code, "run_started" in response.text) == (200, True)


@pytest.mark.parametrize("preference", ["handling=lenient", "wait=1", "respond", "x-respond-async", "respond-async-x"])
async def test_who_prefers_something_else_waits(preference: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        response = await client.post("/run", json={"input": "hi"}, headers={"prefer": preference})
        assert (response.status_code, "preference-applied" in response.headers) == (200, False)


async def test_a_last_event_id_of_thousands_of_digits_is_past_the_end_too() -> None:
    async with serve_ourselves(Agent("offline")) as client:
        run_id = await accepted(client)
        await ended(client, run_id)
        for last_id in ("9" * 5_000, "0" * 17 + "1"):  # Python refuses to read more than 4,300 digits
            headers = {"last-event-id": last_id}
            response = await client.get(f"/runs/{run_id}/events", headers=headers)
            assert response.status_code == (204 if last_id[0] == "9" else 200)
            assert "run_started" not in response.text


async def test_who_asks_for_events_sends_no_body() -> None:
    async with serve_ourselves(Agent("offline")) as client:
        run_id = await accepted(client)
        await ended(client, run_id)
        assert_problem(await client.request("GET", f"/runs/{run_id}/events", content=b"x"), 413)


async def test_the_100_newest_runs_are_listed() -> None:
    async with serve_ourselves(Agent("offline")) as client:
        ids = [(await client.post("/run", json={"input": "hi"})).json()["run_id"] for _ in range(102)]
        listed = [run["run_id"] for run in (await client.get("/runs")).json()["runs"]]
    assert listed == ids[:1:-1]


async def test_the_oldest_events_of_a_long_run_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MAX_LOGGED", 3)
    async with serve_ourselves(Agent("offline")) as client:
        run_id = await accepted(client, "a b c d")
        await ended(client, run_id)
        assert await events_of(client, run_id) == [(4, "text_delta"), (5, "text_delta"), (6, "run_ended")]


async def test_of_runs_that_ended_long_ago_the_end_alone_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_RECENT_LOGS", 1)
    async with serve_ourselves(Agent(OfflineModel(["a b", ZeroDivisionError(), "a b"]))) as client:
        ids = [await accepted(client) for _ in range(3)]
        for run_id in ids:
            await ended(client, run_id)
        assert await events_of(client, ids[0]) == [(4, "run_ended")]
        assert await events_of(client, ids[0], 4) == []
        assert await events_of(client, ids[1]) == [(1, "run_started"), (2, "run_failed")]
        assert await events_of(client, ids[1], 2) == []
        assert len(await events_of(client, ids[2])) == 4


async def test_a_run_that_somebody_waited_for_has_its_end_alone(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        run_id = (await client.post("/run", json={"input": "hi"})).json()["run_id"]
        assert await events_of(client, run_id) == [(1, "run_ended")]
        assert await events_of(client, run_id, 1) == []


async def test_a_streamed_run_that_lost_its_last_event_gives_it_again(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        response = await client.post("/run", json={"input": "a b"}, headers={"accept": "text/event-stream"})
        assert "id: 4\nevent: run_ended" in response.text
        run_id = (await client.get("/runs")).json()["runs"][0]["run_id"]
        assert await events_of(client, run_id) == [(4, "run_ended")]  # the others were only counted
        assert await events_of(client, run_id, 3) == [(4, "run_ended")]
        assert await events_of(client, run_id, 4) == []


async def test_a_streamed_run_that_failed_has_one_number_for_its_failure(serve: Serve) -> None:
    async with serve(Agent(OfflineModel(ZeroDivisionError()))) as client:
        response = await client.post("/run", json={"input": "hi"}, headers={"accept": "text/event-stream"})
        assert "id: 2\nevent: run_failed" in response.text
        run_id = (await client.get("/runs")).json()["runs"][0]["run_id"]
        assert await events_of(client, run_id) == [(2, "run_failed")]
        assert await events_of(client, run_id, 1) == [(2, "run_failed")]
        assert await events_of(client, run_id, 2) == []


async def test_a_streamed_run_that_was_cancelled_has_one_number_for_its_end(serve: Serve) -> None:
    hold = Held("done")
    async with (
        serve(Agent(OfflineModel(hold))) as client,
        client.stream("POST", "/run", json={"input": "hi"}, headers={"accept": "text/event-stream"}) as response,
    ):
        await hold.until(lambda hold: hold.arrived == 1)
        run_id = (await client.get("/runs")).json()["runs"][0]["run_id"]
        assert (await client.delete(f"/runs/{run_id}")).status_code == 202
        *_, last = await EventReader(response).all()
        assert (last.id, last.name) == (2, "run_failed")
        assert await events_of(client, run_id, 1) == [(2, "run_failed")]
        assert await events_of(client, run_id, 2) == []


async def test_somebody_who_only_looks_on_may_leave(serve: Serve) -> None:
    hold = Held("done")
    async with serve(Agent(OfflineModel(hold))) as client:
        run_id = await accepted(client)
        async with raw_client(client) as raw:
            await raw.send(b"GET /runs/%b/events HTTP/1.1\r\nhost: x\r\n\r\n" % run_id.encode())
            await raw.until(b"run_started")
        hold.go_on.set()
        assert (await ended(client, run_id))["status"] == "completed"


async def test_an_accepted_webhook_keeps_its_promise_of_a_run(serve: Serve) -> None:
    agent = Agent("offline")
    results: dict[str, Any] = {"run": "hi", "none": None, "reply": Reply("x")}

    @agent.on(Webhook("/{what}/hook", respond="accept"))
    async def handle(event: Any) -> Any:
        what = event.raw.path_params["what"]
        if what == "fail":
            raise ZeroDivisionError("secret")
        return results[what]

    async with serve(agent) as client:
        ids = {what: (await client.post(f"/{what}/hook")).json()["run_id"] for what in ("run", "none", "reply", "fail")}
        documents = {what: await ended(client, run_id) for what, run_id in ids.items()}
        last_events = {what: (await events_of(client, run_id))[-1] for what, run_id in ids.items()}
        for what, run_id in ids.items():
            assert await events_of(client, run_id, last_events[what][0]) == []
    assert [documents[what]["status"] for what in ids] == ["completed", "completed", "completed", "failed"]
    assert documents["run"]["content"] == "hi"
    assert [last_events[what][1] for what in ids] == ["run_ended", "run_ended", "run_ended", "run_failed"]


async def test_events_of_a_retry_follow_those_of_the_attempt_that_failed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RETRY_BACKOFF", Backoff(0.001))
    agent = Agent(OfflineModel([ModelError("away"), ModelError("still away"), "a b"]))
    agent.on(Webhook("/hook", respond="accept", retries=2))(lambda event: "hi")
    last = [(5, "run_started"), (6, "text_delta"), (7, "text_delta"), (8, "run_ended")]
    async with serve(agent) as client:
        run_id = (await client.post("/hook")).json()["run_id"]
        while (await show(client, run_id))["status"] != "completed":
            await anyio.sleep(0.005)
        for last_id in (None, 2, 4):  # the one that was told of the first failure, or of the second
            assert await events_of(client, run_id, last_id) == last
        assert await events_of(client, run_id, 8) == []


async def test_runs_are_listed_newest_first_and_bounded(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        for number in range(105):
            await client.post("/run", json={"input": "hi", "session_id": str(number)})
        runs = (await client.get("/runs")).json()["runs"]
    assert [run["session_id"] for run in runs] == [str(number) for number in range(104, 4, -1)]


async def test_a_run_that_nobody_knows_is_a_404(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        for method, path in [("GET", "/runs/x"), ("GET", "/runs/x/events"), ("DELETE", "/runs/x")]:
            assert_problem(await client.request(method, path), 404)


async def test_beyond_its_room_the_service_accepts_no_run(serve: Serve) -> None:
    hold = Held("done")
    async with serve(Agent(OfflineModel(hold)), event_workers=1, event_buffer=2) as client:
        headers = {"prefer": "respond-async"}
        responses = [await client.post("/run", json={"input": "hi"}, headers=headers) for _ in range(5)]
        refused = [response for response in responses if response.status_code != 202]
        assert 1 <= len(refused) <= 3
        for response in refused:
            assert_problem(response, 503)
            assert int(response.headers["retry-after"]) > 0
        assert len((await client.get("/runs")).json()["runs"]) == 5 - len(refused)
        hold.go_on.set()


async def test_a_session_is_shown_and_forgotten(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        await client.post("/run", json={"input": "hi", "session_id": "a b/c?"})
        assert_problem(await client.get("/sessions/a"), 404)
        await client.post("/run", json={"input": "hi", "session_id": "a b"})
        document = (await client.get("/sessions/a%20b")).json()
        assert [message["content"] for message in document["messages"]] == ["hi", "hi"]
        response = await client.delete("/sessions/a%20b")
        assert (response.status_code, response.content) == (204, b"")
        assert "content-length" not in response.headers
        assert_problem(await client.get("/sessions/a%20b"), 404)
        assert_problem(await client.delete("/sessions/a%20b"), 404)


async def test_a_session_with_a_slash_in_its_id_is_shown_and_forgotten(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        await client.post("/run", json={"input": "hi", "session_id": "repo/7%2F"})
        document = (await client.get("/sessions/repo%2F7%252F")).json()
        assert document["session_id"] == "repo/7%2F"
        assert_problem(await client.get("/sessions/repo/7%252F"), 404)
        assert_problem(refusal := await client.put("/sessions/repo%2F7%252F"), 405)
        assert refusal.headers["allow"] == "DELETE, GET, HEAD"
        assert (await client.delete("/sessions/repo%2f7%252F")).status_code == 204
        assert_problem(await client.get("/sessions/repo%2F7%252F"), 404)


async def test_head_is_answered_like_get_without_a_body(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        for path in ("/health", "/runs"):
            response = await client.head(path)
            assert (response.status_code, response.content) == (200, b"")


async def test_head_of_events_waits_for_none(serve: Serve) -> None:
    hold = Held("done")
    async with serve(Agent(OfflineModel(hold))) as client:
        run_id = await accepted(client)
        await hold.until(lambda hold: hold.arrived == 1)
        with anyio.fail_after(5):
            response = await client.head(f"/runs/{run_id}/events")
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["content-type"].startswith("text/event-stream")
            assert (await client.get("/health")).status_code == 200  # the connection is free
        hold.go_on.set()


async def test_text_that_utf8_cannot_hold_breaks_no_answer(serve: Serve) -> None:
    def listed() -> dict[str, str]:
        """Name of a file that is not UTF-8."""
        return {"caf\udce9": "half \ud83d"}

    def answer(request: ModelRequest) -> ModelReply | str:
        asked = request.messages[-1].role == "user"
        return ModelReply(tool_calls=(ToolCall("listed", {}),)) if asked else "cut \ud83d"

    agent = Agent(OfflineModel(answer), tools=[listed])
    agent.on(Webhook("/text"))(lambda event: Reply("cut \ud83d"))
    agent.on(Webhook("/json"))(lambda event: ["cut \ud83d", float("nan"), b"\xff"])

    @agent.on(EventTrigger("message"))
    def from_chat(event: TriggerEvent) -> dict[str, Any]:
        return {"input": "look \ud83d", "session_id": "s", "user_id": "half \ud83d"}

    async with serve(agent) as client:
        await agent.aemit("message")
        while not (runs := (await client.get("/runs")).json()["runs"]) or runs[0]["status"] != "completed":
            await anyio.sleep(0.005)
        assert runs[0]["user_id"] == "half \ufffd"
        history = (await client.get("/sessions/s")).json()["messages"]
        assert [message["content"] for message in history] == [
            "look \ufffd",
            "",
            '{"caf\ufffd":"half \ufffd"}',
            "cut \ufffd",
        ]
        assert (await client.post("/run", json={"input": "hi"})).json()["content"] == "cut \ufffd"
        run_id = await accepted(client)
        assert (await ended(client, run_id))["content"] == "cut \ufffd"
        assert [name for _, name in await events_of(client, run_id)][-1] == "run_ended"
        assert (await client.post("/text")).text == "cut \ufffd"
        assert (await client.post("/json")).json() == ["cut \ufffd", None, "/w=="]


async def pages_of(client: httpx2.AsyncClient, limit: int) -> list[list[str]]:
    """The ids of all runs, page by page."""
    pages: list[list[str]] = []
    after: dict[str, str] = {}
    while not pages or after:
        document = (await client.get("/runs", params={"limit": limit, **after})).json()
        pages.append([run["run_id"] for run in document["runs"]])
        after = {} if document["next"] is None else {"after": document["next"]}
    return pages


async def test_runs_are_listed_in_pages_without_what_was_said_in_them(serve: Serve) -> None:
    blocker, hold = Held(), Held("secret reply")
    agent = Agent(OfflineModel(hold))
    agent.on(EventTrigger("block"))(blocker)
    async with serve(agent, event_workers=2) as client:
        hold.go_on.set()
        over = [(await client.post("/run", json={"input": "secret question"})).json()["run_id"] for _ in range(3)]
        hold.go_on = anyio.Event()
        agent.emit("block")
        await blocker.until(lambda blocker: blocker.arrived == 1)
        waiting = [await accepted(client) for _ in range(3)]  # one is begun, two are queued
        await hold.until(lambda hold: hold.arrived == 4)
        expected = [waiting[2], waiting[1], waiting[0], *reversed(over)]
        for limit in (1, 2, 3, 5, 6, 7):
            assert await pages_of(client, limit) == [expected[i : i + limit] for i in range(0, 6, limit)]
        whole = await client.get("/runs")
        assert (whole.json()["next"], "secret" in whole.text) == (None, False)
        assert whole.json()["runs"][-1]["usage"]["output_tokens"] > 0
        blocker.go_on.set()
        hold.go_on.set()


async def test_a_run_that_goes_on_between_two_pages_is_not_missed(serve: Serve) -> None:
    hold = Held("done")
    async with serve(Agent(OfflineModel(hold)), event_workers=1) as client:
        ids = [await accepted(client) for _ in range(4)]
        await hold.until(lambda hold: hold.arrived == 1)
        first = (await client.get("/runs", params={"limit": 2})).json()
        hold.go_on.set()
        for run_id in ids:
            await ended(client, run_id)
        second = (await client.get("/runs", params={"limit": 10, "after": first["next"]})).json()
        assert {run["run_id"] for page in (first, second) for run in page["runs"]} == set(ids)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=-1", "limit=", "limit=x", "limit=%D9%A3", "limit=1e2", f"limit={9:09999}"]
)
async def test_a_limit_that_is_none_is_a_422(query: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        document = assert_problem(await client.get(f"/runs?{query}"), 422)
        assert document["errors"][0]["field"] == "limit"


@pytest.mark.parametrize("after", ["", "x", "3.1", "0.-1", "1", "run_1", "0.\u0663", "0." + "9" * 30])
async def test_an_after_that_no_page_has_named_is_a_422(after: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        document = assert_problem(await client.get("/runs", params={"after": after}), 422)
        assert document["errors"][0]["field"] == "after"


async def test_what_waits_is_bounded_in_bytes_and_nothing_is_lost(serve: Serve) -> None:
    blocker = Held()
    agent = Agent("offline")
    agent.on(EventTrigger("block"))(blocker)
    hooked: list[int] = []
    agent.on(Webhook("/later", respond="accept"))(lambda event: hooked.append(len(event.raw.body)))
    async with serve(agent, event_workers=1, max_memory_queued=2_000_000) as client:
        agent.emit("block")
        await blocker.until(lambda blocker: blocker.arrived == 1)
        body = {"input": "x" * 600_000, "metadata": {"a": []}}
        ids = [await accepted(client, **body) for _ in range(3)]
        for response in (
            await client.post("/run", json=body, headers={"prefer": "respond-async"}),
            await client.post("/later", content=b"x" * 600_000),
        ):
            assert_problem(response, 503)
            assert response.headers["retry-after"] == "1"
        assert (await client.post("/run", json=body)).status_code == 200  # who waits holds his own
        blocker.go_on.set()
        for run_id in ids:
            assert len((await ended(client, run_id))["content"]) == 600_000
        assert (await client.post("/later", content=b"x" * 600_000)).status_code == 202  # there is room again
        while hooked != [600_000]:
            await anyio.sleep(0.005)


async def test_what_is_remembered_of_runs_is_bounded_in_bytes(serve: Serve) -> None:
    async with serve(Agent("offline"), max_memory_runs=1_000_000) as client:
        ids = [(await client.post("/run", json={"input": "x" * 100_000})).json()["run_id"] for _ in range(20)]
        found = [(await client.get(f"/runs/{run_id}")).status_code for run_id in ids]
        assert found == sorted(found, reverse=True)  # the oldest are forgotten
        assert 3 <= found.count(200) <= 10
        big = await accepted(client, "y" * 800_000)  # more than there is room for: the newest is kept in any case
        assert len((await ended(client, big))["content"]) == 800_000
        assert (await events_of(client, big))[-1][1] == "run_ended"
        assert [run["run_id"] for run in (await client.get("/runs")).json()["runs"]] == [big]


async def test_large_answers_that_nobody_reads_are_bounded_in_bytes(serve: Serve) -> None:
    """A client that does not read holds its answer; others are told to come later, and a run's own answer is given."""
    async with serve(Agent("offline"), max_memory_answers=30_000_000) as client:
        run_id = (await client.post("/run", json={"input": "x" * 1_000_000})).json()["run_id"]
        request = b"GET /runs/%b HTTP/1.1\r\nhost: x\r\n\r\n" % run_id.encode()
        async with AsyncExitStack() as idle:
            statuses: list[int] = []
            for _ in range(16):
                raw = await idle.enter_async_context(raw_client(client))
                await raw.send(request * 20)  # more than what the operating system buffers
            while 503 not in statuses:
                statuses.append((await client.get(f"/runs/{run_id}")).status_code)
            refused = await client.get(f"/runs/{run_id}")
            assert_problem(refused, 503)
            assert refused.headers["retry-after"] == "5"
            assert (await client.post("/run", json={"input": "y" * 100_000})).status_code == 200
            assert (await client.get("/health")).status_code == 200
        while (await client.get(f"/runs/{run_id}")).status_code != 200:
            await anyio.sleep(0.01)
