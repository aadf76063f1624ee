"""Which endpoint a path leads to, and what that costs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback.agent_api import Serve, assert_problem, raw_client

from definable.agent import Agent
from definable.agent.runtime.http.router import Router, parameters_of, segment_pattern
from definable.agent.trigger import Reply, Webhook


def routes_of(*paths: str) -> Router[str]:
    routes: Router[str] = Router()
    for path in paths:
        routes.add("POST", path, path)
    return routes


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/gh", "/gh"),
        ("/gh/", "/gh/"),
        ("/gh/x", "/gh/{a}"),
        ("/gh/x-y", "/gh/{a}-{b}"),
        ("/gh/v-y", "/gh/v-{b}"),
        ("/gh/v", "/gh/v"),
        ("/gh/v/", None),
        ("/gh/-y", "/gh/{a}"),
        ("/gh/x/end", "/{a}/{b}/end"),
        ("/gh//end", None),
        ("gh", None),
        ("", None),
        ("/", None),
        ("*", None),
        ("/gh/x/end/more", None),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_most_specific_path_wins_whatever_the_order(path: str, leads_to: str | None, order: int) -> None:
    paths = ["/gh", "/gh/", "/gh/{a}", "/gh/{a}-{b}", "/gh/v-{b}", "/gh/v", "/{a}/{b}/end"]
    assert routes_of(*paths[::order]).match("POST", path).endpoint == leads_to


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("path", ["/x", "/{x}"])
def test_get_answers_head_unless_another_does(order: int, path: str) -> None:
    routes: Router[str] = Router()
    routes.add("GET", "/other", "get")
    for method in ["GET", "HEAD"][::order]:
        routes.add(method, path, method.lower())
    found = [routes.match(method, path).endpoint for method in ("GET", "HEAD")]
    assert [*found, routes.match("HEAD", "/other").endpoint] == ["get", "head", "get"]


TEXT = st.text("-.a", max_size=2)


@given(st.lists(TEXT, min_size=2, max_size=4), st.text("-.ab", max_size=12))
def test_a_segment_is_split_as_a_regular_expression_splits_it(texts: list[str], segment: str) -> None:
    """The expression is the definition; what stands in its place takes no more than linear time."""
    names = [f"{{p{number}}}" for number in range(len(texts) - 1)]
    pattern = "".join(map("".join, zip(texts, [*names, ""], strict=True)))
    expected = re.fullmatch("([^/]+)".join(map(re.escape, texts)), segment)
    found = segment_pattern(pattern)
    assert found == tuple(texts)
    assert parameters_of(found, segment) == (expected and expected.groups())


def steps(function: Callable[[], object]) -> int:
    """Lines of Python that a call takes: the same on any machine, whatever else it does."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # pyright: ignore[reportArgumentType] - any object may be the local trace function
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("template", ["/t{}/{{a}}", "/x/h{}-{{a}}", "/x/{{a}}-h{}", "/{{a}}/x{}/y"])
def test_five_thousand_webhooks_cost_as_much_as_one(template: str) -> None:
    path = template.format(0).replace("{a}", "value")
    one, many = (routes_of(*map(template.format, range(count))) for count in (1, 5_000))
    assert one.match("POST", path).endpoint == many.match("POST", path).endpoint == template.format(0)
    assert steps(lambda: many.match("POST", path)) <= 1.2 * steps(lambda: one.match("POST", path))
    assert steps(lambda: many.match("POST", "/nothing/there")) <= 1.2 * steps(
        lambda: one.match("POST", "/nothing/there")
    )


@pytest.mark.anyio
async def test_a_parameter_of_a_webhook_holds_no_slash_however_it_is_written(serve: Serve) -> None:
    agent = Agent("offline")
    for path in ("/files/{name}", "/files/{folder}/{name}", "/fixed/path"):
        agent.on(Webhook(path, method="GET"))(lambda event: Reply(dict(event.raw.path_params)))
    async with serve(agent) as client:
        for path, expected in [
            ("/files/a.txt", b'{"name":"a.txt"}'),
            ("/files/a%252fb", b'{"name":"a%2fb"}'),
            ("/files/a/%62", b'{"folder":"a","name":"b"}'),
            ("/fixed/path", b"{}"),
            ("/files/..%2fsecret.txt", None),
            ("/files/..%2Fsecret.txt", None),
            ("/files/%2e%2e%2fsecret.txt", None),
            ("/files/a/..%2f..%2fsecret.txt", None),
            ("/fixed%2fpath", None),
        ]:
            async with raw_client(client) as raw:  # a client's own idea of a path stays out of it
                await raw.send(f"GET {path} HTTP/1.1\r\nhost: {client.base_url.netloc.decode()}\r\n\r\n".encode())
                answer = await raw.until(b"}")
            status = b" 404 " if expected is None else b" 200 "
            assert status in answer.split(b"\r\n")[0], path
            assert expected is None or answer.endswith(expected)


@pytest.mark.anyio
async def test_head_and_options_may_be_methods_of_ones_own(serve: Serve) -> None:
    agent = Agent("offline")
    for method in ("GET", "HEAD", "OPTIONS"):
        agent.on(Webhook("/hook", method=method))(lambda event: Reply(headers={"x-method": event.source}))
    async with serve(agent) as client:
        for method in ("GET", "HEAD", "OPTIONS"):
            response = await client.request(method, "/hook")
            assert (response.status_code, response.headers["x-method"]) == (200, f"{method} /hook")


@pytest.mark.anyio
async def test_an_id_with_a_slash_is_found(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        for session_id, path in [("a/b", "a%2Fb"), ("x/events", "x%2fevents")]:
            assert (await client.post("/run", json={"input": "hi", "session_id": session_id})).status_code == 200
            async with raw_client(client) as raw:
                host = client.base_url.netloc.decode()
                await raw.send(f"GET /sessions/{path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
                assert b" 200 " in (await raw.until(b'"messages"')).split(b"\r\n")[0]


@pytest.mark.anyio
async def test_a_path_and_the_same_with_a_slash_are_two(serve: Serve) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/gh"))(lambda event: Reply("without"))
    agent.on(Webhook("/gh/"))(lambda event: Reply("with"))
    agent.on(Webhook("/one"))(lambda event: None)
    async with serve(agent) as client:
        assert (await client.post("/gh")).text == "without"
        assert (await client.post("/gh/")).text == "with"
        assert_problem(await client.post("/one/"), 404)
