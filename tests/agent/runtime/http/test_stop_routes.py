"""What a stop does to WebSockets and event streams of routes, in virtual time: the idle ones end, work is finished."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import anyio
import pytest
from quart import Blueprint, websocket

from definable.agent.runtime.http.quart_app import create_quart_app, drain_routes
from definable.agent.runtime.http.quart_lifespan import quart_lifespan

pytestmark = pytest.mark.anyio

CLOSED = {"type": "websocket.close", "code": 1012, "reason": "server restart"}

SCOPE: dict[str, Any] = {
    "type": "websocket",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "scheme": "ws",
    "path": "/ws",
    "raw_path": b"/ws",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"x")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
    "subprotocols": [],
    "extensions": {},
}


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Client:
    """The other end, with the time at which everything came."""

    def __init__(self) -> None:
        self._said, self.heard = anyio.create_memory_object_stream[dict[str, Any]](100)
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.began = 0.0
        self.ended = anyio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        self.events.append((round(anyio.current_time() - self.began, 3), message))

    def say(self, text: str) -> None:
        self._said.send_nowait({"type": "websocket.receive", "text": text})

    def texts(self) -> list[tuple[float, str]]:
        return [(at, message["text"]) for at, message in self.events if message["type"] == "websocket.send"]


@asynccontextmanager
async def connected(
    blueprint: Blueprint, scope: dict[str, Any] = SCOPE, first: str = "websocket.connect"
) -> AsyncIterator[tuple[Client, Any]]:
    app = create_quart_app("an agent", [blueprint])
    client = Client()

    async def serve() -> None:
        await app(scope, client.heard.receive, client.send)  # pyright: ignore[reportArgumentType]
        client.ended.set()

    with anyio.fail_after(1000):
        async with quart_lifespan(app), anyio.create_task_group() as group:
            client._said.send_nowait({"type": first})
            group.start_soon(serve)
            await anyio.wait_all_tasks_blocked()  # may take some virtual time
            client.began = anyio.current_time()
            with client._said, client.heard:
                yield client, app
                client._said.send_nowait({"type": f"{scope['type']}.disconnect", "code": 1006})
                await client.ended.wait()


@pytest.fixture
def blueprint() -> Blueprint:
    return Blueprint("users", __name__)


async def test_a_websocket_on_which_nothing_has_happened_is_closed_at_once(blueprint: Blueprint) -> None:
    @blueprint.websocket("/ws")
    async def echo() -> None:
        while True:
            await websocket.send(await websocket.receive())

    async with connected(blueprint) as (client, app):
        await anyio.sleep(100)
        drain_routes(app)
        await client.ended.wait()
        assert client.events[-1] == (100.0, CLOSED)


async def test_a_websocket_that_has_been_quiet_is_closed_at_once(blueprint: Blueprint) -> None:
    @blueprint.websocket("/ws")
    async def echo() -> None:
        while True:
            await websocket.send(await websocket.receive())

    async with connected(blueprint) as (client, app):
        client.say("hello")
        await anyio.sleep(100)
        drain_routes(app)
        await client.ended.wait()
        assert client.texts() == [(0.0, "hello")]
        assert client.events[-1] == (100.0, CLOSED)


async def test_work_on_a_message_is_finished_first(blueprint: Blueprint) -> None:
    @blueprint.websocket("/ws")
    async def slow() -> None:
        while True:
            text = await websocket.receive()
            await anyio.sleep(20)
            await websocket.send(text)

    async with connected(blueprint) as (client, app):
        client.say("one")
        client.say("two")
        await anyio.sleep(1)
        drain_routes(app)
        await client.ended.wait()
        assert client.texts() == [(20.0, "one"), (40.0, "two")]
        assert client.events[-1] == (41.0, CLOSED)


async def test_a_reply_in_pieces_is_not_cut_while_the_route_waits_for_the_next_message(blueprint: Blueprint) -> None:
    async def reply() -> None:
        await anyio.sleep(4)
        for number in range(10):
            await anyio.sleep(0.9)
            await websocket.send(str(number))

    @blueprint.websocket("/ws")
    async def chat() -> None:
        async with anyio.create_task_group() as group:
            while True:
                await websocket.receive()
                group.start_soon(reply)

    async with connected(blueprint) as (client, app):
        client.say("tell me")
        await anyio.sleep(0.1)
        drain_routes(app)
        await client.ended.wait()
        assert [text for _, text in client.texts()] == [str(number) for number in range(10)]
        assert client.events[-1] == (14.0, CLOSED)


async def test_a_message_that_nobody_answers_holds_nothing(blueprint: Blueprint) -> None:
    @blueprint.websocket("/ws")
    async def swallow() -> None:
        while True:
            await websocket.receive()

    async with connected(blueprint) as (client, app):
        client.say("are you there?")
        await anyio.sleep(2)
        drain_routes(app)
        await client.ended.wait()
        assert client.events[-1] == (5.0, CLOSED)


async def test_unread_messages_are_bounded_in_bytes(blueprint: Blueprint) -> None:
    go_on = anyio.Event()

    @blueprint.websocket("/ws")
    async def slow() -> None:
        await websocket.accept()
        await go_on.wait()
        while True:
            await websocket.send(str(len(await websocket.receive())))

    async with connected(blueprint) as (client, _):
        for _ in range(5):
            client.say("x" * 200_000)
        await anyio.wait_all_tasks_blocked()
        assert client.heard.statistics().current_buffer_used == 3
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        assert [text for _, text in client.texts()] == ["200000"] * 5


def stream_route(blueprint: Blueprint, method: str, media_type: str, seconds: float) -> None:
    @blueprint.route("/ws", methods=[method])
    async def ticks() -> Any:  # pyright: ignore[reportUnusedFunction] - Quart calls it
        async def stream() -> AsyncIterator[bytes]:
            began = anyio.current_time()
            while anyio.current_time() < began + seconds:
                yield b"data: tick\n\n"
                await anyio.sleep(1)

        return stream(), 200, {"content-type": media_type}


def asked(method: str) -> dict[str, Any]:
    return {**SCOPE, "type": "http", "method": method, "scheme": "http"}


async def test_an_event_stream_without_end_is_ended_after_a_while(blueprint: Blueprint, caplog: Any) -> None:
    caplog.set_level("INFO")
    stream_route(blueprint, "GET", "text/event-stream; charset=utf-8", inf)
    async with connected(blueprint, asked("GET"), "http.request") as (client, app):
        await anyio.sleep(99.5)
        drain_routes(app)
        await client.ended.wait()
        assert client.events[-1] == (104.5, {"type": "http.response.body", "body": b"", "more_body": False})
    assert "ended the event stream of GET '/ws', for the stop" in caplog.text


async def test_an_event_stream_that_begins_while_a_stop_goes_on_is_ended_too(blueprint: Blueprint) -> None:
    begin = anyio.Event()

    @blueprint.before_request
    async def wait() -> None:  # pyright: ignore[reportUnusedFunction] - Quart calls it
        await begin.wait()

    stream_route(blueprint, "GET", "text/event-stream", inf)
    async with connected(blueprint, asked("GET"), "http.request") as (client, app):
        drain_routes(app)
        await anyio.sleep(3.5)
        begin.set()
        await client.ended.wait()
        assert client.events[-1][0] == 5.0


@pytest.mark.parametrize(("method", "media_type"), [("POST", "text/event-stream"), ("GET", "text/csv")])
async def test_a_stream_that_may_be_work_is_finished(blueprint: Blueprint, method: str, media_type: str) -> None:
    stream_route(blueprint, method, media_type, 30)
    async with connected(blueprint, asked(method), "http.request") as (client, app):
        await anyio.sleep(1.5)
        drain_routes(app)
        await client.ended.wait()
        assert 29 < client.events[-1][0] <= 30
        assert sum(message.get("body") == b"data: tick\n\n" for _, message in client.events) == 30
