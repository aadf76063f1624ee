"""`POST /run` with `Accept: text/event-stream`: what is sent, when, and how it ends."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from loopback.agent_api import (
    Held,
    Serve,
    assert_problem,
    raw_client,
    raw_run,
    serve_ourselves,
    stream_run,
)

from definable.agent import Agent, tool
from definable.agent.auth import APIKeyAuth
from definable.agent.runtime.http import sse
from definable.errors import ModelConnectionError
from definable.model import ModelDelta, ModelReply, ModelRequest, OfflineModel, ToolCall

pytestmark = pytest.mark.anyio

EVENTS = {"accept": "text/event-stream"}


async def test_a_run_is_sent_as_it_happens(serve: Serve) -> None:
    @tool
    def add(a: int, b: int) -> int:
        return a + b

    calls = ModelReply(tool_calls=(ToolCall("add", {"a": 1, "b": 2}, id="c1"),))
    async with serve(Agent(OfflineModel([calls, "that is 3"]), tools=[add])) as client:
        async with stream_run(client) as reader:
            events = [event for event in await reader.all() if not event.comment]
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert [event.name for event in events] == [
        "run_started",
        "tool_call_started",
        "tool_call_ended",
        "text_delta",
        "text_delta",
        "text_delta",
        "run_ended",
    ]
    started, called, answered, *deltas, ended = (event.data for event in events)
    assert called == {"id": "c1", "name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert (answered["id"], answered["result"], answered["error"]) == ("c1", "3", None)
    assert "".join(delta["text"] for delta in deltas) == "that is 3"
    assert (ended["run_id"], ended["content"], ended["status"]) == (started["run_id"], "that is 3", "completed")


async def test_line_breaks_and_any_text_come_through(serve: Serve) -> None:
    text = 'a\nb\r\nc\u2028d "e" \x00 data: x\n\nid: 7 😀'
    async with serve(Agent("offline")) as client, stream_run(client, text) as reader:
        assert (await reader.all())[-1].data["content"] == text


async def test_a_run_that_fails_ends_with_its_problem(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(Agent(OfflineModel(ModelConnectionError("secret host")))) as client:
        async with stream_run(client) as reader:
            events = await reader.all()
        [record] = (await client.get("/runs")).json()["runs"]
    assert [event.name for event in events] == ["run_started", "run_failed"]
    assert (events[-1].id, events[-1].data["status"]) == (2, 502)
    assert "secret" not in str(events)
    assert "secret host" in caplog.text
    assert (record["status"], record["problem"]["status"]) == ("failed", 502)


async def test_a_run_that_is_cancelled_by_its_id_says_so(serve: Serve) -> None:
    hold = Held()
    async with serve(Agent(OfflineModel(hold))) as client, stream_run(client) as reader:
        started = await anext(reader)
        assert (await client.delete(f"/runs/{started.data['run_id']}")).status_code == 202
        [failed] = await reader.all()
    assert (failed.name, failed.data["status"]) == ("run_failed", 409)


async def test_a_run_that_cannot_begin_is_a_plain_problem(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        await client.post("/run", json={"input": "hi", "session_id": "s", "user_id": "ann"})
        body = {"input": "hi", "session_id": "s", "user_id": "bob"}
        assert_problem(await client.post("/run", json=body, headers=EVENTS), 404)
        assert_problem(
            await client.post("/run", content=b"{", headers={**EVENTS, "content-type": "application/json"}), 400
        )
        assert_problem(await client.post("/run", json={}, headers=EVENTS), 422)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json, TEXT/Event-Stream;q=0.5"])
async def test_the_client_asks_for_a_stream_by_accept(accept: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        response = await client.post("/run", json={"input": "hi"}, headers={"accept": accept})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")


@pytest.mark.parametrize("accept", ["text/event-streams", 'application/json;profile="text/event-stream"', "text/*"])
async def test_what_is_like_it_does_not_ask_for_a_stream(accept: str) -> None:
    async with serve_ourselves(Agent("offline")) as client:
        response = await client.post("/run", json={"input": "hi"}, headers={"accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["status"] == "completed"


class SteppedModel:
    """A model that gives a word for each step."""

    id = "stepped"

    def __init__(self) -> None:
        self.steps, self.deltas = anyio.create_memory_object_stream[str](10)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> Any:
        async with aclosing(self._deltas()) as deltas:
            yield deltas

    async def _deltas(self) -> Any:
        async for word in self.deltas:
            yield ModelDelta(word)
        yield ModelDelta(reply=ModelReply("done"))

    async def reply(self, request: ModelRequest) -> ModelReply:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.steps.close()
        self.deltas.close()


async def test_every_delta_is_out_as_soon_as_the_model_gives_it(serve: Serve) -> None:
    model = SteppedModel()
    async with serve(Agent(model)) as client, stream_run(client) as reader:
        assert (await anext(reader)).name == "run_started"
        for word in ("one", "two"):
            await model.steps.send(word)
            with anyio.fail_after(5):
                assert (await anext(reader)).data == {"text": word}
        model.steps.close()
        assert [event.name for event in await reader.all()] == ["run_ended"]


async def test_silence_becomes_comments_and_nothing_is_lost(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.01)
    hold = Held("done")
    async with serve(Agent(OfflineModel(hold))) as client, stream_run(client) as reader:
        await anext(reader)
        for _ in range(3):
            assert (await anext(reader)).comment == "keep-alive"
        hold.go_on.set()
        events = [event for event in await reader.all() if not event.comment]
    assert [(event.id, event.name) for event in events] == [(2, "text_delta"), (3, "run_ended")]


async def test_a_run_whose_turn_is_long_in_coming_keeps_its_client_awake(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.02)
    hold = Held("first")
    async with serve(Agent(OfflineModel([hold, "second"]))) as client, anyio.create_task_group() as group:
        group.start_soon(lambda: client.post("/run", json={"input": "1", "session_id": "s"}))
        await hold.until(lambda hold: hold.arrived == 1)
        async with stream_run(client, session_id="s") as reader:
            assert (await anext(reader)).comment == "keep-alive"
            hold.go_on.set()
            events = [event for event in await reader.all() if not event.comment]
    assert [(event.id, event.name) for event in events] == [(1, "run_started"), (2, "text_delta"), (3, "run_ended")]


async def test_a_run_that_is_cancelled_before_its_turn_has_one_event(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.02)
    hold = Held("first")
    async with serve(Agent(OfflineModel([hold, "second"]))) as client, anyio.create_task_group() as group:
        group.start_soon(lambda: client.post("/run", json={"input": "1", "session_id": "s"}))
        await hold.until(lambda hold: hold.arrived == 1)
        async with stream_run(client, session_id="s") as reader:
            assert (await anext(reader)).comment == "keep-alive"
            waiting = (await client.get("/runs")).json()["runs"][0]["run_id"]
            assert (await client.delete(f"/runs/{waiting}")).status_code == 202
            events = [event for event in await reader.all() if not event.comment]
        hold.go_on.set()
    assert [(event.id, event.name) for event in events] == [(1, "run_failed")]


async def test_a_client_that_leaves_cancels_the_run(serve: Serve) -> None:
    hold = Held()
    async with serve(Agent(OfflineModel(hold))) as client:
        async with raw_client(client) as raw:
            await raw.send(raw_run(b'{"input":"hi"}', b"accept: text/event-stream"))
            await raw.until(b"run_started")
        await hold.until(lambda hold: hold.cancelled == 1)
        [record] = (await client.get("/runs")).json()["runs"]
    assert record["status"] == "cancelled"


async def test_a_client_that_stops_reading_holds_up_nobody_else() -> None:
    async with serve_ourselves(Agent(OfflineModel("word " * 200_000))) as client:
        async with raw_client(client) as raw:
            await raw.send(raw_run(b'{"input":"hi"}', b"accept: text/event-stream"))
            await raw.until(b"run_started")
            with anyio.fail_after(5):
                assert (await client.get("/health")).status_code == 200
        with anyio.fail_after(5):
            while (await client.get("/runs")).json()["runs"][0]["status"] == "running":
                await anyio.sleep(0.01)


async def test_an_event_that_is_no_json_ends_the_stream_with_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline", output_type=bytes)
    agent.runner.model = OfflineModel('"x"')

    circular: list[Any] = []
    circular.append(circular)

    async def spoil(output: Any) -> None:
        object.__setattr__(output, "content", circular)

    agent.after_response(spoil)
    async with serve_ourselves(agent) as client, stream_run(client) as reader:
        last = (await reader.all())[-1]
    assert (last.name, last.data["status"]) == ("run_failed", 500)


async def test_http_1_0_clients_get_the_events_until_the_connection_ends() -> None:
    async with serve_ourselves(Agent("offline")) as client, raw_client(client) as raw:
        body = b'{"input":"hi"}'
        head = b"content-type: application/json\r\ncontent-length: 14\r\naccept: text/event-stream\r\n\r\n"
        await raw.send(b"POST /run HTTP/1.0\r\n" + head + body)
        answer = await raw.rest()
    assert b"transfer-encoding" not in answer.lower()
    assert b"event: run_ended" in answer


async def test_a_client_that_reconnects_by_post_is_led_to_its_run_and_begins_none(serve: Serve) -> None:
    agent, began = Agent("offline"), list[str]()
    agent.before_request(lambda context: began.append(context.run_id))
    async with serve(agent) as client:
        async with stream_run(client, "twice") as reader:
            events = await reader.all()
        run_id = events[0].data["run_id"]
        for headers in ({**EVENTS, "last-event-id": "2"}, {"last-event-id": "2"}, {"last-event-id": "x"}):
            response = await client.post("/run", json={"input": "twice"}, headers=headers)
            document = assert_problem(response, 409)
            assert document["run_id"] == run_id
            assert document["events"] == response.headers["location"] == f"/runs/{run_id}/events"
        followed = await client.get(document["events"], headers={"last-event-id": "2"})
        assert "event: run_ended" in followed.text
        unknown = {**EVENTS, "last-event-id": "7"}
        document = assert_problem(await client.post("/run", json={"input": "another"}, headers=unknown), 409)
        assert "/runs/{run_id}/events" in document["detail"]
        assert began == [run_id]
        empty = {**EVENTS, "last-event-id": ""}
        assert (await client.post("/run", json={"input": "twice"}, headers=empty)).status_code == 200
    assert len(began) == 2


async def test_the_run_of_another_caller_is_told_to_nobody(serve: Serve) -> None:
    async with serve(Agent("offline", auth=APIKeyAuth({"one-long-key", "another-long-key"}))) as client:
        one, another = {"x-api-key": "one-long-key"}, {"x-api-key": "another-long-key", "last-event-id": "1"}
        await client.post("/run", json={"input": "hi"}, headers={**EVENTS, **one})
        document = assert_problem(await client.post("/run", json={"input": "hi"}, headers=another), 409)
    assert "run_id" not in document
