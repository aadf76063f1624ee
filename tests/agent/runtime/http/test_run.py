"""`POST /run`: whole, in a session, refused, failed, saturated, abandoned."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from loopback.agent_api import Held, Serve, assert_problem, raw_client, raw_run, serve_ourselves
from pydantic import BaseModel

from definable.agent import Agent, RunContext, RunStatus, tool
from definable.agent.runtime import WorkCount
from definable.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from definable.model import ModelReply, OfflineModel, ToolCall, Usage
from definable.testing import served

pytestmark = pytest.mark.anyio


async def test_a_run_is_answered_whole(serve: Serve) -> None:
    @tool
    def add(a: int, b: int) -> int:
        return a + b

    calls = ModelReply(tool_calls=(ToolCall("add", {"a": 1, "b": 2}),))
    async with serve(Agent(OfflineModel([calls, "3"]), tools=[add])) as client:
        response = await client.post("/run", json={"input": "1 + 2?"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document["content"] == "3"
    assert (document["status"], document["user_id"], document["model"]) == ("completed", None, "offline")
    assert document["run_id"].startswith("run_")
    [execution] = document["tool_calls"]
    assert (execution["name"], execution["arguments"], execution["result"]) == ("add", '{"a": 1, "b": 2}', "3")
    assert document["usage"]["total_tokens"] > 0
    assert document["finish_reason"] == "stop"


async def test_runs_of_one_session_share_their_history(serve: Serve) -> None:
    model = OfflineModel()
    async with serve(Agent(model)) as client:
        first = (await client.post("/run", json={"input": "one", "user_id": "ann"})).json()
        same = {"session_id": first["session_id"], "user_id": "ann"}
        second = (await client.post("/run", json={"input": "two", **same})).json()
    assert second["session_id"] == first["session_id"]
    assert [message.content for message in model.requests[1].messages] == ["one", "one", "two"]


async def test_metadata_reaches_hooks_and_stays_the_runs_own() -> None:
    agent = Agent("offline")
    seen: list[dict[str, Any]] = []

    @agent.before_request
    def look(context: RunContext) -> None:
        seen.append(context.metadata)

    async with serve_ourselves(agent) as client:
        await client.post("/run", json={"input": "hi", "metadata": {"tag": [1, None]}})
    assert seen == [{"tag": [1, None]}]


async def test_an_output_type_is_json_in_the_answer() -> None:
    class City(BaseModel):
        name: str
        warmth: float

    model = OfflineModel('{"name": "Rome", "warmth": 21.5}')
    async with serve_ourselves(Agent(model, output_type=City)) as client:
        response = await client.post("/run", json={"input": "where?"})
    assert response.json()["content"] == {"name": "Rome", "warmth": 21.5}


@pytest.mark.parametrize("body", [b"", b"{", b"hi", b'{"input": "hi"}x', b'{"input": NaN}', b"\xff", b"[" * 100_000])
async def test_malformed_json_is_a_400(serve: Serve, body: bytes) -> None:
    async with serve(Agent("offline")) as client:
        response = await client.post("/run", content=body, headers={"content-type": "application/json"})
    assert "not valid JSON" in assert_problem(response, 400)["detail"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["input"]),
        ([], ["body"]),
        ("hi", ["body"]),
        ({"input": 1}, ["input"]),
        ({"input": "hi", "session_id": ""}, ["session_id"]),
        ({"input": "hi", "session_id": "s" * 257, "user_id": 7}, ["session_id", "user_id"]),
        ({"input": "hi", "metadata": "none"}, ["metadata"]),
        ({"input": "hi", "<script>": 1}, ["<script>"]),
    ],
)
async def test_wrong_fields_are_a_422_with_their_names(body: Any, fields: list[str]) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        problem = assert_problem(await client.post("/run", json=body), 422)
    assert [error["field"] for error in problem["errors"]] == fields
    assert all(field in problem["detail"] for field in fields)


async def test_of_many_unknown_fields_ten_are_named_and_the_others_counted(serve: Serve) -> None:
    body = {"metadata": 5} | {f"field{number}": None for number in range(50_000)} | {"x" * 1_000: 1}
    async with serve(Agent("offline")) as client:
        response = await client.post("/run", json=body)
        problem = assert_problem(response, 422)
        assert len(response.content) < 3_000
        named = [error["field"] for error in problem["errors"]]
        assert sorted(named) == sorted(["input", "metadata", *(f"field{number}" for number in range(10))])
        assert problem["detail"].endswith(" and 49,991 more")
        [error] = assert_problem(await client.post("/run", json={"input": "hi", "x" * 1_000: 1}), 422)["errors"]
        assert error["field"] == "x" * 100 + "…"


@pytest.mark.parametrize("field", ["session_id", "user_id"])
async def test_an_id_has_1_to_256_characters(field: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        for length, status in [(0, 422), (1, 200), (256, 200), (257, 422)]:
            response = await client.post("/run", json={"input": "hi", field: "é" * length})
            assert response.status_code == status
            if status == 422:
                assert [error["field"] for error in assert_problem(response, 422)["errors"]] == [field]


async def test_a_body_has_a_mebibyte_at_most() -> None:
    body = b'{"input": "hi"}'
    async with serve_ourselves(Agent("offline")) as client:
        for length, status in [(2**20, 200), (2**20 + 1, 413)]:
            response = await client.post(
                "/run", content=body.ljust(length), headers={"content-type": "application/json"}
            )
            assert response.status_code == status


async def test_another_media_type_is_a_415(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        response = await client.post("/run", content=b"input=hi", headers={"content-type": "text/plain"})
        assert_problem(response, 415)
        for accepted in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"):
            body, headers = b'{"input": "hi"}', {"content-type": accepted}
            assert (await client.post("/run", content=body, headers=headers)).status_code == 200


async def test_unknown_paths_are_404_and_wrong_methods_405_with_allow(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        assert_problem(await client.get("/nowhere"), 404)
        assert_problem(await client.get("/run/"), 404)
        for method, path, allowed in [
            ("GET", "/run", {"POST"}),
            ("POST", "/runs", {"GET", "HEAD"}),
            ("PUT", "/runs/x", {"GET", "HEAD", "DELETE"}),
            ("POST", "/sessions/x", {"GET", "HEAD", "DELETE"}),
            ("POST", "/health", {"GET", "HEAD"}),
        ]:
            response = await client.request(method, path)
            assert_problem(response, 405)
            assert set(response.headers["allow"].replace(" ", "").split(",")) == allowed


JSON = b"content-type: application/json"


async def test_a_body_beyond_the_limit_is_a_413_whether_or_not_it_is_declared(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        for head, body in [
            (b"content-length: 1048577", b""),
            (b"content-length: 1000000000", b" " * 1000),
            (b"transfer-encoding: chunked", b"".join(b"10000\r\n%b\r\n" % (b" " * 65_536) for _ in range(17))),
        ]:
            async with raw_client(client) as raw:
                await raw.send(b"POST /run HTTP/1.1\r\nhost: x\r\n%b\r\n%b\r\n\r\n%b" % (JSON, head, body))
                answer = await raw.until(b"}")
            assert b" 413 " in answer
            assert b"application/problem+json" in answer
            assert b"connection: close" in answer.lower()
        assert (await client.post("/run", json={"input": "still there"})).status_code == 200


async def test_headers_that_are_too_large_are_a_431() -> None:
    async with serve_ourselves(Agent("offline")) as client, raw_client(client) as raw:
        await raw.send(b"GET /health HTTP/1.1\r\nx: %b\r\n" % (b"y" * 70_000))
        answer = await raw.rest()
    assert b" 431 " in answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelError("secret"), 502),
        (ModelAuthenticationError("key sk-secret is wrong"), 502),
        (ModelRateLimitError("secret"), 502),
        (ModelConnectionError("secret"), 502),
        (ModelTimeoutError("secret"), 504),
        (ZeroDivisionError("secret"), 500),
    ],
)
async def test_a_failure_is_told_without_internals_and_logged_with_them(
    serve: Serve, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(Agent(OfflineModel([error, error]))) as client:
        response = await client.post("/run", json={"input": "hi"})
        assert "secret" not in response.text
        assert_problem(response, status)
        [run] = (await client.get("/runs")).json()["runs"]
    assert (run["status"], run["problem"]["status"]) == ("failed", status)
    assert "secret" in caplog.text


NO_ANSWERS = {
    "length": (
        ModelReply("The ans", finish_reason="length", usage=Usage(4, 2)),
        "cut off at its limit of output tokens",
    ),
    "content_filter": (ModelReply(finish_reason="content_filter", usage=Usage(4, 2)), "withheld the reply"),
    "empty": (ModelReply(usage=Usage(2, 1)), "the model's reply was empty"),
    "error": (ModelReply("The ans", finish_reason="error", usage=Usage(2, 1)), "the model provider failed"),
}
"""Replies, and what a caller is told of them; what fails as a whole reply is asked for twice."""


@pytest.mark.parametrize("kind", sorted(NO_ANSWERS))
async def test_a_reply_that_is_no_answer_is_a_failed_run_with_its_usage(serve: Serve, kind: str) -> None:
    reply, said = NO_ANSWERS[kind]
    async with serve(Agent(OfflineModel(reply))) as client:
        response = await client.post("/run", json={"input": "hi"})
        assert_problem(response, 502)
        assert said in response.json()["detail"]
        streamed = await client.post("/run", json={"input": "hi"}, headers={"accept": "text/event-stream"})
        assert "event: run_failed" in streamed.text
        assert said in streamed.text
        listed = (await client.get("/runs")).json()["runs"]
        run = (await client.get(f"/runs/{listed[1]['run_id']}")).json()
    assert [run["status"], run["usage"]["input_tokens"], run["usage"]["output_tokens"]] == ["failed", 4, 2]
    assert said in run["problem"]["detail"]
    assert all(summary["usage"]["input_tokens"] in (2, 4) for summary in listed)


async def test_a_run_beyond_its_deadline_is_a_504() -> None:
    async with serve_ourselves(Agent(OfflineModel(latency=10), run_timeout=0.05)) as client:
        problem = assert_problem(await client.post("/run", json={"input": "hi"}), 504)
    assert "run_timeout=0.05" in problem["detail"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_beyond_max_concurrent_runs_a_run_is_refused_with_retry_after(
    serve: Serve, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent, hold = Agent("offline"), Held()
    agent.before_request(hold)
    async with serve(agent, max_concurrent_runs=2) as client, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(lambda: client.post("/run", json={"input": "hi"}))
        await hold.until(lambda hold: hold.arrived == 2)
        response = await client.post("/run", json={"input": "one too many"}, headers={"accept": accept})
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        hold.go_on.set()
    assert "Traceback" not in caplog.text  # no failure of ours, and it may come ten thousand times a second


async def test_a_client_that_leaves_cancels_the_run_that_it_waits_for(serve: Serve) -> None:
    agent, hold = Agent("offline"), Held()
    agent.before_request(hold)
    async with serve(agent) as client:
        async with raw_client(client) as raw:
            await raw.send(raw_run())
            await hold.until(lambda hold: hold.arrived == 1)
        await hold.until(lambda hold: hold.cancelled == 1)
        [run] = (await client.get("/runs")).json()["runs"]
    assert (run["status"], run["problem"]["status"]) == ("cancelled", 409)


async def test_a_run_that_is_cancelled_by_its_id_is_a_409_to_its_caller() -> None:
    agent, hold = Agent("offline"), Held()
    agent.before_request(hold)
    async with serve_ourselves(agent) as client, anyio.create_task_group() as group:

        async def run() -> None:
            assert_problem(await client.post("/run", json={"input": "hi"}), 409)

        group.start_soon(run)
        await hold.until(lambda hold: hold.arrived == 1)
        [run_document] = (await client.get("/runs")).json()["runs"]
        assert run_document["status"] == "running"
        assert (await client.delete(f"/runs/{run_document['run_id']}")).status_code == 202


@pytest.mark.parametrize("accept", [b"application/json", b"text/event-stream"])
async def test_the_report_tells_runs_that_their_callers_gave_up_from_completed_ones(accept: bytes) -> None:
    agent, hold = Agent("offline"), Held()
    agent.before_request(hold)
    with anyio.fail_after(30):
        async with served(agent) as service, anyio.create_task_group() as group:
            async with raw_client(service.client) as raw:
                await raw.send(raw_run(b'{"input":"hi"}', b"accept: " + accept))
                await hold.until(lambda hold: hold.arrived == 1)
            await hold.until(lambda hold: hold.cancelled == 1)

            async def asked(expected: int, *headers: tuple[str, str]) -> None:
                answer = await service.client.post("/run", json={"input": "hi"}, headers=dict(headers))
                assert answer.status_code == expected

            for number, wait in ((2, "wait"), (3, "respond-async")):
                group.start_soon(asked, 202 if number == 3 else 409, ("prefer", wait))
                await hold.until(lambda hold, number=number: hold.arrived == number)
                runs = service.runtime.registry.records()
                [run_id] = [run.run_id for run in runs if run.status is RunStatus.RUNNING]
                assert (await service.client.delete(f"/runs/{run_id}")).status_code == 202
                await hold.until(lambda hold, number=number: hold.cancelled == number)
    report = service.runtime.report
    assert report is not None
    assert report.sources["http"] == WorkCount(completed=3, withdrawn=2)  # what is left: two DELETEs and a 202
    assert report.sources["event"] == WorkCount(withdrawn=1)


async def test_a_path_in_the_log_stays_on_its_line(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")

    class Failing:
        def authenticate(self, request: Any) -> None:
            raise ZeroDivisionError

    agent.auth = Failing()
    async with serve_ourselves(agent) as client:
        assert_problem(await client.get("/runs/a%0Ab"), 500)
    assert not any("a\nb" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
