"""Webhooks: what their senders are told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from loopback.agent_api import Held, Recorder, Serve, agent_with, assert_problem, serve_ourselves

from definable.agent import Agent, RunContext
from definable.agent.trigger import Reply, TriggerEvent, Webhook
from definable.errors import ConfigurationError
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio


async def given(result: Any) -> Any:
    return result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, {"status": "ok"}),
        (7, 7),
        ([1, {"a": 2}], [1, {"a": 2}]),
        (True, True),
        (float("nan"), None),
        ({"a"}, ["a"]),
        (Reply(None), b""),
        (Reply({"a": 1}), {"a": 1}),
        (Reply("text"), b"text"),
        (Reply(b"\xff"), b"\xff"),
    ],
)
async def test_what_starts_no_run_is_the_answer(serve: Serve, result: Any, expected: Any) -> None:
    async with serve(agent_with(Webhook("/hook"), lambda event: given(result))) as client:
        response = await client.post("/hook")
    assert response.status_code == 200
    assert (response.content if isinstance(expected, bytes) else response.json()) == expected


@pytest.mark.parametrize(
    "handler",
    [
        lambda event: "hi",
        lambda event: {"input": "hi", "session_id": "s", "user_id": "ann"},
        lambda event: given("hi"),
        lambda event: given(given({"input": "hi"})),
    ],
)
async def test_a_string_a_dict_or_an_awaitable_of_one_is_a_run(handler: Any) -> None:
    contexts: list[RunContext] = []
    agent = agent_with(Webhook("/hook"), handler)
    agent.before_request(contexts.append)
    async with serve_ourselves(agent) as client:
        document = (await client.post("/hook")).json()
    [context] = contexts
    assert document == {"content": "hi", "run_id": context.run_id, "session_id": context.session_id}
    assert context.trigger is not None
    assert context.trigger.source == "POST /hook"


@pytest.mark.parametrize("result", [{"text": "hi"}, {}, {"input": 5}, ZeroDivisionError("secret")])
async def test_a_handler_that_fails_is_a_500_and_never_a_200(
    serve: Serve, result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder(result)
    async with serve(agent_with(Webhook("/hook"), handler)) as client:
        response = await client.post("/hook")
    assert_problem(response, 500)
    assert "secret" not in response.text
    assert "Traceback" in caplog.text


async def test_a_handler_that_takes_too_long_is_a_504(serve: Serve) -> None:
    hold = Held()
    async with serve(agent_with(Webhook("/hook", timeout=0.05), hold)) as client:
        problem = assert_problem(await client.post("/hook"), 504)
    assert hold.cancelled == 1
    assert "0.05" in problem["detail"]


async def test_max_concurrency_holds_and_everybody_gets_a_turn(serve: Serve) -> None:
    active = most = 0

    async def handle(event: TriggerEvent) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await anyio.sleep(0.01)
        active -= 1

    async with serve(agent_with(Webhook("/hook", max_concurrency=3), handle)) as client:
        statuses: Counter[int] = Counter()

        async def post() -> None:
            statuses[(await client.post("/hook")).status_code] += 1

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(post)
    assert (most, statuses) == (3, {200: 20})


async def test_a_run_of_a_webhook_beyond_max_concurrent_runs_is_a_503() -> None:
    hold = Held("done")
    agent = agent_with(Webhook("/hook"), Recorder("hi"), OfflineModel(hold))
    async with serve_ourselves(agent, max_concurrent_runs=1) as client, anyio.create_task_group() as group:
        group.start_soon(client.post, "/hook")
        await hold.until(lambda hold: hold.arrived == 1)
        response = await client.post("/hook")
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        hold.go_on.set()


# --- Reply


async def test_a_reply_may_set_several_cookies(serve: Serve) -> None:
    reply = Reply("hi", headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("Content-Type", "text/html")])
    async with serve(agent_with(Webhook("/hook"), Recorder(reply))) as client:
        response = await client.post("/hook")
    assert response.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert response.headers["content-type"] == "text/html"


async def test_a_reply_is_sent_as_is(serve: Serve) -> None:
    reply = Reply("moved", status=307, headers={"Location": "/there", "X-A": " b ", "Content-Type": "text/html"})
    async with serve(agent_with(Webhook("/hook", method="GET"), Recorder(reply))) as client:
        response = await client.get("/hook")
    assert (response.status_code, response.text) == (307, "moved")
    assert (response.headers["location"], response.headers["x-a"]) == ("/there", "b")
    assert response.headers["content-type"] == "text/html"


@pytest.mark.parametrize("status", [201, 204, 205, 304, 404, 418, 599])
async def test_a_reply_has_any_final_status(serve: Serve, status: int) -> None:
    async with serve(
        agent_with(Webhook("/hook"), Recorder(Reply("x" * (status not in (204, 205, 304)), status)))
    ) as client:
        for _ in range(2):  # on one connection: nothing of the first answer must be left in it
            response = await client.post("/hook")
            assert response.status_code == status


async def test_a_body_where_there_must_be_none_is_left_out(serve: Serve) -> None:
    async with serve(agent_with(Webhook("/hook"), Recorder(Reply({"a": 1}, 204)))) as client:
        for _ in range(2):
            response = await client.post("/hook")
            assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "b\r\nSet-Cookie: admin=1"},
        {"X-A": "b\nc"},
        {"X-A": "b\0c"},
        {"X-A\r\nX-B": "c"},
        {"X A": "b"},
        {"X-A:": "b"},
        {"": "b"},
        {"X-A": "\u20ac"},
    ],
)
async def test_a_header_that_would_break_out_of_its_line_is_a_500(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/hook"))(lambda event: Reply("x", headers=headers))
    async with serve_ourselves(agent) as client:
        response = await client.post("/hook")
    assert_problem(response, 500)
    assert "set-cookie" not in response.headers
    assert "POST '/hook' failed" in caplog.text


async def test_how_the_message_travels_is_not_the_handlers_to_say(serve: Serve) -> None:
    headers = {"Content-Length": "1", "Transfer-Encoding": "chunked", "Connection": "close", "X-A": "b"}
    async with serve(agent_with(Webhook("/hook"), Recorder(Reply("text", headers=headers)))) as client:
        for _ in range(2):
            response = await client.post("/hook")
            assert (response.text, response.headers["x-a"]) == ("text", "b")
            assert response.headers["content-length"] == "4"


async def test_a_reply_may_write_its_body_as_it_goes(serve: Serve) -> None:
    async def write(send: Any) -> None:
        for number in range(3):
            await send(b"%d\n" % number)

    reply = Reply(write, 201, {"Content-Type": "text/x-numbers"})
    async with serve(agent_with(Webhook("/hook", method=["GET", "POST"]), lambda event: reply)) as client:
        for method, body in (("GET", b"0\n1\n2\n"), ("POST", b"0\n1\n2\n"), ("HEAD", b"")):
            response = await client.request(method, "/hook")
            assert (response.status_code, response.headers["content-type"]) == (201, "text/x-numbers")
            assert response.content == body


async def test_a_reply_that_writes_is_cancelled_when_its_client_leaves(serve: Serve) -> None:
    hold = Held()

    async def write(send: Any) -> None:
        await send(b"first\n")
        await hold()

    async with serve(agent_with(Webhook("/hook", method="GET"), lambda event: Reply(write))) as client:
        async with await anyio.connect_tcp("127.0.0.1", client.base_url.port or 0) as stream:
            await stream.send(b"GET /hook HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            seen = b""
            while b"first" not in seen:
                seen += await stream.receive()
        await hold.until(lambda held: held.cancelled == 1)


FOREIGN_PAGE = {"origin": "https://other.example", "sec-fetch-site": "cross-site", "sec-fetch-dest": "script"}


async def test_pages_of_other_sites_load_what_is_embeddable_alone() -> None:
    agent = Agent("offline")
    agent.on(Webhook("/script.js", method="GET", embeddable=True))(lambda event: Reply("script"))
    agent.on(Webhook("/closed.js", method="GET"))(lambda event: Reply("closed"))
    async with serve_ourselves(agent) as client:
        statuses = [(await client.get(path, headers=FOREIGN_PAGE)).status_code for path in ("/script.js", "/closed.js")]
    assert statuses == [200, 403]
    with pytest.raises(ConfigurationError, match="method='GET'"):
        Webhook("/hook", embeddable=True)
