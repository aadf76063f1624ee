"""Every answer that the service gives is one of those in its OpenAPI document."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import Any

import httpx2
import jwt
import pytest
from openapi_schema_validator import OAS31Validator

from definable.agent import Agent, RunOutput, RunStatus
from definable.agent.auth import APIKeyAuth, CompositeAuth, GitHubSignature, JWTAuth
from definable.agent.run.output import ToolExecution
from definable.agent.runtime import FiringCount
from definable.agent.runtime.http import documents
from definable.agent.runtime.runs import RunRecord
from definable.agent.runtime.supervisor import health_of
from definable.agent.session import Session
from definable.agent.trigger import Reply, Webhook
from definable.errors import ModelError
from definable.json_text import json_bytes
from definable.model import Message, ModelRequest, OfflineModel, ToolCall, Usage
from definable.server.problem import Problem
from definable.testing import served

KEY, SECRET = "a-long-random-key", "s" * 32
BY_KEY = {"X-API-Key": KEY}
BY_TOKEN = {"Authorization": f"Bearer {jwt.encode({'sub': 'alice', 'exp': time.time() + 3600}, SECRET, 'HS256')}"}


def as_documented(model: type[documents.Document], document: dict[str, Any], *, absent: Collection[str] = ()) -> None:
    """A document has the fields of its schema: all but those that may be absent, and no others."""
    assert set(document) == set(model.model_fields) - set(absent)
    model.model_validate_json(json_bytes(document), strict=True, extra="forbid")


EXECUTION = ToolExecution("1", "add", '{"a": 1}', "2", None, 0.1)
OUTPUT = RunOutput("run_1", "session_1", "alice", {"any": ["thing"]}, tool_calls=(EXECUTION,), model="offline")


def record(**state: Any) -> RunRecord:
    return RunRecord("run_1", "POST /run", None, None, 1.0, **state)


@pytest.mark.anyio
async def test_the_schemas_are_those_of_the_documents() -> None:
    as_documented(documents.Run, documents.run_document(OUTPUT))
    as_documented(documents.CompletedRun, documents.record_document(record(output=OUTPUT)))
    as_documented(documents.RunSummary, documents.summary_document(record(output=OUTPUT)), absent={"problem"})
    as_documented(documents.RunState, documents.record_document(record()), absent={"problem", "usage"})
    failure = ModelError("no")
    failed = record(status=RunStatus.FAILED, failure=failure)
    as_documented(documents.RunState, documents.record_document(failed), absent={"usage"})
    failure.usage = Usage(2, 1)  # by the run that it ended
    as_documented(documents.RunState, documents.record_document(failed))
    as_documented(documents.ToolExecution, documents.ToolExecution.of(EXECUTION))
    messages = (Message("assistant", "", (ToolCall("add", {"a": 1}),)), Message("tool", "2", tool_call_id="1"))
    as_documented(documents.Session, documents.session_document(Session("session_1", "alice", messages)))
    as_documented(documents.Message, documents.message_document(messages[0]), absent={"tool_call_id"})
    as_documented(documents.Message, documents.message_document(messages[1]), absent={"tool_calls"})
    as_documented(documents.Health, health_of("agent", False, [], firings=FiringCount(3, 1, 0, 2))[1])
    problem = Problem(422, "wrong", errors=[{"field": "input", "message": "missing"}])
    as_documented(documents.Problem, json.loads(problem.body()))


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return document["components"]["responses"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def assert_documented(document: dict[str, Any], name: str, response: httpx2.Response) -> None:
    """An answer is one of those that the document gives to an operation."""
    operations = {each["operationId"]: each for item in document["paths"].values() for each in item.values()}
    found = resolved(document, operations[name]["responses"][str(response.status_code)])
    assert [header for header in found.get("headers", {}) if header not in response.headers] == []
    content: dict[str, Any] = found.get("content", {})
    assert bool(content) == bool(response.content)
    if content:
        media = response.headers["content-type"].partition(";")[0]
        validator = OAS31Validator(content[media]["schema"] | {"components": document["components"]})
        for value in events(response) if media == "text/event-stream" else [response.json()]:
            validator.validate(value)


def events(response: httpx2.Response) -> list[dict[str, str]]:
    """The events of a stream, each by its fields."""
    blocks = [block for block in response.text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def answer(request: ModelRequest) -> str:
    """A model that fails as it is told to."""
    failures = {"502": ModelError("down"), "504": TimeoutError(), "500": RuntimeError("bug")}
    text = request.messages[-1].content
    if text in failures:
        raise failures[text]
    return text


def agent_with_webhooks() -> Agent:
    agent = Agent(OfflineModel(answer), auth=CompositeAuth(APIKeyAuth(KEY), JWTAuth(SECRET)))
    agent.on(Webhook("/text"))(lambda event: event.body["input"])
    agent.on(Webhook("/none", dedupe="X-Delivery"))(lambda event: None)
    agent.on(Webhook("/list", method="GET"))(lambda event: [1, 2])
    agent.on(Webhook("/later", respond="accept", dedupe="X-Delivery", auth=False))(lambda event: None)
    agent.on(Webhook("/small", max_body=10, auth=GitHubSignature("secret")))(lambda event: None)
    agent.on(Webhook("/teapot", method="PUT"))(lambda event: Reply({"short": "stout"}, status=418))
    return agent


RUN_ANSWERS: list[tuple[int, dict[str, Any]]] = [
    (200, {"json": {"input": "hi", "session_id": "s", "metadata": {"a": 1}}}),
    (200, {"json": {"input": "hi"}, "headers": BY_KEY | {"Accept": "text/event-stream"}}),
    (200, {"json": {"input": "hi there"}, "headers": BY_TOKEN}),
    (202, {"json": {"input": "hi"}, "headers": BY_KEY | {"Prefer": "respond-async"}}),
    (400, {"content": b"{", "headers": BY_KEY | {"Content-Type": "application/json"}}),
    (401, {"json": {"input": "hi"}, "headers": {}}),
    (403, {"json": {"input": "hi", "user_id": "mallory"}, "headers": BY_TOKEN}),
    (404, {"json": {"input": "hi", "session_id": "s", "user_id": "bob"}}),
    (413, {"json": {"input": "x" * 2**20}}),
    (415, {"content": b"hi", "headers": BY_KEY | {"Content-Type": "text/plain"}}),
    (421, {"json": {"input": "hi"}, "headers": BY_KEY | {"Host": "rebound.example"}}),
    (422, {"json": {"inputs": "hi", "session_id": ""}}),
    (500, {"json": {"input": "500"}}),
    (502, {"json": {"input": "502"}}),
    (504, {"json": {"input": "504"}}),
]


@pytest.mark.anyio
async def test_what_a_run_is_answered_is_documented() -> None:
    async with served(agent_with_webhooks(), dev=True) as service:
        document = (await service.client.get("/openapi.json")).json()
        for status, request in RUN_ANSWERS:
            options: dict[str, Any] = {"headers": BY_KEY, **request}
            response = await service.client.post("/run", **options)
            assert response.status_code == status, (request, response.text)
            assert_documented(document, "run", response)


@pytest.mark.anyio
async def test_what_is_answered_about_runs_and_sessions_is_documented() -> None:
    async with served(agent_with_webhooks(), dev=True) as service:
        client = service.client
        client.headers.update(BY_KEY)
        document = (await client.get("/openapi.json")).json()
        promised = await client.post("/run", json={"input": "hi"}, headers={"Prefer": "respond-async"})
        path = promised.headers["location"]
        session = (await client.post("/run", json={"input": "hi"})).json()["session_id"]
        await client.post("/run", json={"input": "502"})
        steps: list[tuple[str, int, str, str, dict[str, str]]] = [
            ("follow_run", 200, "GET", f"{path}/events", {}),
            ("follow_run", 204, "GET", f"{path}/events", {"Last-Event-ID": "1000000"}),
            ("follow_run", 400, "GET", f"{path}/events", {"Last-Event-ID": "x"}),
            ("follow_run", 404, "GET", "/runs/no/events", {}),
            ("show_run", 200, "GET", path, {}),
            ("show_run", 404, "GET", "/runs/no", {}),
            ("list_runs", 200, "GET", "/runs", {}),
            ("list_runs", 422, "GET", "/runs?limit=0", {}),
            ("cancel_run", 404, "DELETE", "/runs/no", {}),
            ("cancel_run", 409, "DELETE", path, {}),
            ("show_session", 200, "GET", f"/sessions/{session}", {}),
            ("show_session", 404, "GET", "/sessions/no", {}),
            ("forget_session", 204, "DELETE", f"/sessions/{session}", {}),
            ("forget_session", 404, "DELETE", f"/sessions/{session}", {}),
            ("health", 200, "GET", "/health", {}),
        ]
        for name, status, method, target, headers in steps:
            response = await client.request(method, target, headers=headers)
            assert response.status_code == status, (name, response.text)
            assert_documented(document, name, response)


@pytest.mark.anyio
async def test_what_a_webhook_is_answered_is_documented() -> None:
    async with served(agent_with_webhooks(), dev=True) as service:
        client = service.client
        document = (await client.get("/openapi.json")).json()
        named = BY_KEY | {"X-Delivery": "1"}
        steps: list[tuple[str, int, str, str, dict[str, Any]]] = [
            ("post_text", 200, "POST", "/text", {"json": {"input": "hi"}, "headers": BY_KEY}),
            (
                "post_text",
                400,
                "POST",
                "/text",
                {"content": b"{", "headers": BY_KEY | {"Content-Type": "text/json+json"}},
            ),
            ("post_text", 401, "POST", "/text", {"json": {"input": "hi"}}),
            ("post_text", 500, "POST", "/text", {"json": {}, "headers": BY_KEY}),
            ("post_text", 502, "POST", "/text", {"json": {"input": "502"}, "headers": BY_KEY}),
            ("post_text", 504, "POST", "/text", {"json": {"input": "504"}, "headers": BY_KEY}),
            ("post_none", 200, "POST", "/none", {"headers": named}),
            ("post_none", 200, "POST", "/none", {"headers": named}),
            ("get_list", 200, "GET", "/list", {"headers": BY_KEY}),
            ("post_later", 202, "POST", "/later", {"headers": {"X-Delivery": "1"}}),
            ("post_later", 200, "POST", "/later", {"headers": {"X-Delivery": "1"}}),
            ("post_small", 401, "POST", "/small", {"content": b"x"}),
            ("post_small", 413, "POST", "/small", {"content": b"x" * 11}),
        ]
        for name, status, method, path, request in steps:
            response = await client.request(method, path, **request)
            assert response.status_code == status, (name, response.text)
            assert_documented(document, name, response)
        teapot = await client.put("/teapot", headers=BY_KEY)
        assert teapot.status_code == 418
        assert "default" in document["paths"]["/teapot"]["put"]["responses"]


@pytest.mark.anyio
async def test_a_saturated_service_answers_as_documented() -> None:
    async with served(agent_with_webhooks(), dev=True, max_concurrent_runs=1) as service:
        document = (await service.client.get("/openapi.json")).json()
        async with service.runtime.registry._places:  # pyright: ignore[reportPrivateUsage]
            response = await service.client.post("/run", json={"input": "hi"}, headers=BY_KEY)
    assert response.status_code == 503
    assert_documented(document, "run", response)


@pytest.mark.anyio
async def test_no_method_is_served_that_is_not_in_it() -> None:
    agent = agent_with_webhooks()
    agent.auth = None
    async with served(agent, dev=True) as service:
        paths = (await service.client.get("/openapi.json")).json()["paths"]
        for path, item in paths.items():
            documented = {method.upper() for method in item}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - documented:
                response = await service.client.request(method, path.replace("{", "").replace("}", ""))
                assert response.status_code == 405, (method, path)
                assert set(response.headers["allow"].split(", ")) - {"HEAD"} == documented
