"""`agent.add_middleware`: ASGI middleware around everything that answers HTTP, below our server and others'."""

from __future__ import annotations

import gzip
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import EventReader, Held, assert_problem, foreign_server
from quart import websocket
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from websockets.sync.client import connect

from definable.agent import Agent
from definable.agent.trigger import Webhook
from definable.errors import ConfigurationError, ServeError
from definable.model import OfflineModel
from definable.testing import served

pytestmark = pytest.mark.anyio


class Tag:
    """Notes down in each response that it was there, and in `seen` what it is asked."""

    def __init__(self, app: Any, name: bytes, seen: list[str]) -> None:
        self.app = app
        self.name = name
        self.seen = seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(f"{self.name.decode()} {scope['type']}")

        async def tagged(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-tag", self.name)]}
            await send(message)

        await self.app(scope, receive, tagged)


def agent_with(*added: tuple[Any, dict[str, Any]], model: Any = "offline") -> Agent:
    agent = Agent(model)
    for middleware, options in added:
        agent.add_middleware(middleware, **options)

    @agent.on(Webhook("/hook"))
    def hook(event: Any) -> str:
        return "x" * 5_000

    @agent.blueprint.get("/own")
    async def own() -> str:
        return "own"

    @agent.blueprint.websocket("/ws")
    async def socket() -> None:
        await websocket.send(await websocket.receive())

    return agent


RUN: dict[str, Any] = {"json": {"input": "hi"}}


async def test_all_that_is_answered_passes_it_in_order() -> None:
    seen: list[str] = []
    agent = agent_with((Tag, {"name": b"outer", "seen": seen}), (Tag, {"name": b"inner", "seen": seen}))
    async with served(agent) as service:
        client = service.client
        requests = [("POST", "/run", RUN), ("POST", "/hook", {}), ("GET", "/own", {}), ("GET", "/nowhere", {})]
        for method, path, options in requests:
            response = await client.request(method, path, **options)
            assert response.headers.get_list("x-tag") == ["inner", "outer"], path
        assert (await client.get("/health")).headers.get_list("x-tag") == ["inner", "outer"]

        def talk() -> Any:
            with connect(str(client.base_url).replace("http", "ws") + "/ws", proxy=None) as connection:
                connection.send("hello")
                return connection.recv()

        assert await anyio.to_thread.run_sync(talk) == "hello"
    assert seen[:4] == ["outer lifespan", "inner lifespan", "outer http", "inner http"]
    assert seen[-2:] == ["outer websocket", "inner websocket"]


async def test_those_of_starlette_work() -> None:
    agent = agent_with(
        (TrustedHostMiddleware, {"allowed_hosts": ["localhost"]}),
        (SessionMiddleware, {"secret_key": "a-secret"}),
        (GZipMiddleware, {"minimum_size": 500}),
        (BaseHTTPMiddleware, {"dispatch": visits}),
    )
    async with served(agent) as service:
        client = service.client
        headers = {"host": "localhost"}
        assert (await client.post("/run", **RUN, headers=headers)).json()["content"] == "hi"
        hook = await client.post("/hook", headers={**headers, "accept-encoding": "gzip"})
        assert (hook.headers["content-encoding"], hook.headers["x-visits"]) == ("gzip", "2")
        async with client.stream("POST", "/hook", headers={**headers, "accept-encoding": "gzip"}) as raw:
            body = b"".join([chunk async for chunk in raw.aiter_raw()])
            assert gzip.decompress(body).decode().count("x") == 5_000
        assert (await client.get("/own", headers={"host": "evil.example"})).status_code == 400
        events = {**headers, "accept": "text/event-stream"}
        async with client.stream("POST", "/run", **RUN, headers=events) as response:
            assert (await EventReader(response).all())[-1].name == "run_ended"


async def visits(request: Any, call_next: Any) -> Any:
    request.session["visits"] = request.session.get("visits", 0) + 1
    response = await call_next(request)
    response.headers["x-visits"] = str(request.session["visits"])
    return response


async def test_a_client_that_leaves_cancels_its_run_also_below_middleware() -> None:
    hold = Held("done")
    agent = agent_with((BaseHTTPMiddleware, {"dispatch": lambda request, call_next: call_next(request)}))
    agent.model = OfflineModel(hold)
    with anyio.fail_after(60):
        async with served(agent) as service, anyio.create_task_group() as group:
            group.start_soon(lambda: service.client.post("/run", **RUN))
            await hold.until(lambda held: held.arrived == 1)
            group.cancel_scope.cancel()
        await hold.until(lambda held: held.cancelled == 1)


class Failing:
    """Raises before, during or after the answer; or leaves a scope open."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        match scope["path"]:  # KeyError for a lifespan, as of many that know only requests
            case "/raises":
                raise ValueError("secret")
            case "/exits":
                raise SystemExit(3)
            case "/scope":
                anyio.CancelScope().__enter__()
            case "/midway":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
                raise ValueError("in the midst")
        await self.app(scope, receive, send)


async def test_what_it_raises_or_leaves_open_is_one_requests_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with served(agent_with((Failing, {}))) as service:
        for path in ("/raises", "/exits"):
            response = await service.client.get(path)
            assert_problem(response, 500)
            assert "secret" not in response.text
        with pytest.raises(httpx2.RemoteProtocolError):
            await service.client.get("/midway")
        await service.client.get("/scope")
        assert (await service.client.post("/run", **RUN)).status_code == 200
        assert (await service.client.get("/own")).text == "own"
    said = caplog.text
    assert "a middleware failed at '/raises'" in said
    assert "left" in said and "open, which was closed" in said


class Pool:
    """Opens and closes something with the service."""

    def __init__(self, app: Any, events: list[str], fails: bool = False) -> None:
        self.app = app
        self.events = events
        self.fails = fails

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.events.append("request")
            await self.app(scope, receive, send)
            return

        async def watched(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete" and self.fails:
                message = {"type": "lifespan.startup.failed", "message": "no database"}
            self.events.append(message["type"])
            await send(message)

        await self.app(scope, receive, watched)


@pytest.mark.parametrize("foreign", [False, True])
async def test_its_lifespan_is_the_services(anyio_backend: str, foreign: bool) -> None:
    events: list[str] = []
    agent = agent_with((Pool, {"events": events}))
    if foreign:
        async with foreign_server(anyio_backend, agent.asgi()) as port:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                assert (await client.post("/run", **RUN)).json()["content"] == "hi"
    else:
        async with served(agent) as service:
            assert (await service.client.post("/run", **RUN)).json()["content"] == "hi"
    assert events == ["lifespan.startup.complete", "request", "lifespan.shutdown.complete"]


async def test_a_start_that_it_fails_fails_whole() -> None:
    agent = agent_with((Pool, {"events": [], "fails": True}))
    with pytest.raises(ServeError, match="a middleware has failed to start: no database"):
        async with agent.running(port=0):
            pass
    assert agent.runtime is None


@pytest.mark.parametrize(
    ("middleware", "options", "says"),
    [
        (GZipMiddleware, {"minimum": 1}, "unexpected keyword argument 'minimum'"),
        (Tag, {}, "missing a required argument"),
        ("gzip", {}, "a class or function of an ASGI application"),
        (visits, {}, "missing a required argument: 'call_next'"),
        (Failing(None), {}, "missing a required argument"),
    ],
)
def test_what_makes_no_middleware_is_refused_where_it_is_given(
    middleware: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Agent("offline").add_middleware(middleware, **options)


async def test_it_is_refused_while_serving_and_what_it_makes_must_be_an_application() -> None:
    agent = Agent("offline")
    async with agent.running(port=0):
        with pytest.raises(ServeError, match="add middleware before"):
            agent.add_middleware(GZipMiddleware)
    agent.add_middleware(lambda app: None)
    with pytest.raises(ConfigurationError, match="middleware None is no ASGI application"):
        async with agent.running(port=0):
            pass
