"""The users' routes: the same behaviour from Quart and from QuartTrio, on our server."""

import asyncio
import sys
import threading
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from quart import Blueprint, Response, abort, current_app, jsonify, redirect, request, stream_with_context, websocket
from quart.signals import got_background_exception
from werkzeug.exceptions import ServiceUnavailable, TooManyRequests
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from definable.agent.runtime.http.quart_app import create_quart_app
from definable.agent.runtime.http.quart_lifespan import quart_lifespan
from definable.server import HTTPServer, bind
from definable.server.problem import Problem

pytestmark = pytest.mark.anyio


class Served:
    def __init__(self, server, port, scope):
        self.server, self.port, self.scope = server, port, scope
        self.url = f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(blueprint, *, allow=None):
    app = create_quart_app("my agent", [blueprint])

    async def entry(scope, receive, send):
        if allow is not None and scope["path"] == "/run":
            scope["definable.allow"] = allow
        await app(scope, receive, send)

    with anyio.fail_after(20):
        async with quart_lifespan(app), anyio.create_task_group() as tg:
            server, scope = HTTPServer(entry, bind("127.0.0.1", 0)), anyio.CancelScope()

            async def run(*, task_status):
                with scope:
                    await server.serve(task_status=task_status)

            ((_, port),) = await tg.start(run)
            yield Served(server, port, scope)
            server.drain()


@asynccontextmanager
async def client_of(blueprint, **options):
    async with serving(blueprint, **options) as served, httpx2.AsyncClient(base_url=served.url) as client:
        yield client


@pytest.fixture
def blueprint():
    return Blueprint("users", __name__)


def assert_problem(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert "<" not in response.text


async def test_routes_async_and_sync_are_served(blueprint):
    @blueprint.get("/async/<name>")
    async def greet(name):
        return jsonify(hello=name, query=request.args.get("q"))

    @blueprint.post("/sync")
    def sync():
        return {"thread": threading.current_thread() is threading.main_thread()}

    async with client_of(blueprint) as client:
        assert (await client.get("/async/ann?q=1")).json() == {"hello": "ann", "query": "1"}
        assert (await client.post("/sync")).json() == {"thread": False}


async def test_a_body_is_read_as_json_and_as_form(blueprint):
    @blueprint.post("/json")
    async def as_json():
        return jsonify(await request.get_json())

    @blueprint.post("/form")
    async def as_form():
        return (await request.form)["name"]

    async with client_of(blueprint) as client:
        assert (await client.post("/json", json=[1])).json() == [1]
        assert (await client.post("/form", data={"name": "ann"})).text == "ann"
        assert_problem(await client.post("/json", content=b"{", headers={"content-type": "application/json"}), 400)


async def test_a_body_that_is_too_large_is_a_413(blueprint):
    @blueprint.post("/")
    async def read():
        return str(len(await request.get_data()))

    async with client_of(blueprint) as client:
        largest = b"x" * 16 * 1024 * 1024
        assert (await client.post("/", content=largest)).text == str(len(largest))
        try:
            response = await client.post("/", content=largest + b"x")
        except httpx2.WriteError:  # the answer came first
            return
        assert_problem(response, 413)


async def test_aborts_are_problems_that_keep_their_headers(blueprint):
    @blueprint.get("/403")
    async def forbidden():
        abort(403, "not yours <b>")

    @blueprint.get("/429")
    async def too_many():
        raise TooManyRequests(retry_after=7)

    @blueprint.get("/503")
    async def unavailable():
        raise ServiceUnavailable("Closed for today.", retry_after=9)

    @blueprint.get("/own")
    async def own():
        abort(Response("my own", 418))

    @blueprint.get("/problem")
    async def problem():
        raise Problem(402, "Pay first.", headers=[(b"x-price", b"3")], price=3)

    async with client_of(blueprint) as client:
        assert (await client.get("/403")).json()["detail"] == "not yours <b>"
        assert (await client.get("/429")).headers["retry-after"] == "7"
        response = await client.get("/503")
        assert (response.json()["detail"], response.headers["retry-after"]) == ("Closed for today.", "9")
        own = await client.get("/own")
        assert (own.status_code, own.text) == (418, "my own")
        response = await client.get("/problem")
        assert (response.headers["x-price"], response.json()["price"]) == ("3", 3)


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_unhandled_exception_is_a_logged_500_without_internals(blueprint, caplog, monkeypatch, wrapped):
    monkeypatch.setenv("QUART_DEBUG", "1")

    async def fail():
        raise RuntimeError("secret")

    @blueprint.get("/")
    async def route():
        if wrapped:
            async with anyio.create_task_group() as tg:
                tg.start_soon(fail)
        await fail()

    async with client_of(blueprint) as client:
        response = await client.get("/")
        assert_problem(response, 500)
        assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.name == "definable.http"
    assert "secret" in caplog.text


async def test_an_abort_within_a_task_group_is_its_status(blueprint):
    async def refuse():
        abort(404, "no such thing")

    @blueprint.get("/")
    async def route():
        async with anyio.create_task_group() as tg:
            tg.start_soon(refuse)

    async with client_of(blueprint) as client:
        response = await client.get("/")
        assert_problem(response, 404)
        assert response.json()["detail"] == "no such thing"


async def test_a_users_error_handler_comes_first(blueprint):
    @blueprint.errorhandler(KeyError)
    async def handle(error):
        return "handled", 409

    @blueprint.get("/")
    async def route():
        raise KeyError("x")

    async with client_of(blueprint) as client:
        response = await client.get("/")
        assert (response.status_code, response.text) == (409, "handled")


async def test_unknown_paths_and_methods_are_problems(blueprint):
    @blueprint.get("/here")
    async def here():
        return ""

    async with client_of(blueprint) as client:
        assert_problem(await client.get("/nowhere"), 404)
        response = await client.post("/here")
        assert_problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_the_methods_of_the_agents_endpoint_are_allowed_too(blueprint):
    @blueprint.get("/elsewhere")
    async def elsewhere():
        abort(404)

    async with client_of(blueprint, allow={"POST"}) as client:
        response = await client.get("/run")
        assert_problem(response, 405)
        assert response.headers["allow"] == "POST"
        assert_problem(await client.get("/elsewhere"), 404)


async def test_the_methods_of_a_route_and_of_the_agents_endpoint_are_merged(blueprint):
    @blueprint.put("/run")
    async def run():
        return ""

    async with client_of(blueprint, allow=["POST"]) as client:
        response = await client.get("/run")
        assert_problem(response, 405)
        assert response.headers["allow"] == "OPTIONS, POST, PUT"


async def test_a_404_of_the_users_own_route_stays_one(blueprint):
    @blueprint.put("/run")
    async def run():
        abort(404)

    async with client_of(blueprint, allow=["POST"]) as client:
        assert_problem(await client.put("/run"), 404)


async def test_redirects_have_no_html_page_of_the_router(blueprint):
    @blueprint.get("/slash/")
    async def slash():
        return "here"

    @blueprint.get("/moved")
    async def moved():
        return redirect("/slash/")

    async with client_of(blueprint) as client:
        response = await client.get("/slash")
        assert (response.status_code, response.content) == (308, b"")
        assert response.headers["location"].endswith("/slash/")
        assert (await client.get("/moved", follow_redirects=True)).text == "here"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_response_is_streamed(blueprint, kind):
    @blueprint.get("/async")
    async def from_async():
        @stream_with_context
        async def items():
            for number in range(3):
                yield f"{request.path} {number}\n"

        return items(), {"content-type": "text/plain"}

    @blueprint.get("/sync")
    def from_sync():
        return (f"/sync {number}\n" for number in range(3))

    async with client_of(blueprint) as client:
        assert (await client.get(f"/{kind}")).text == "".join(f"/{kind} {number}\n" for number in range(3))


async def test_a_client_that_goes_away_cancels_its_route_and_its_stream(blueprint):
    entered, cancelled = [anyio.Event(), anyio.Event()], [anyio.Event(), anyio.Event()]

    async def wait(number):
        try:
            entered[number].set()
            await anyio.sleep_forever()
        finally:
            cancelled[number].set()

    @blueprint.get("/route")
    async def route():
        await wait(0)

    @blueprint.get("/stream")
    async def stream():
        @stream_with_context
        async def items():
            yield "first"
            await wait(1)

        return items()

    async with serving(blueprint) as served:
        for number, path in enumerate(["/route", "/stream"]):
            async with await anyio.connect_tcp("127.0.0.1", served.port) as client:
                await client.send(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
                await entered[number].wait()
            await cancelled[number].wait()


async def test_a_kept_alive_connection_is_reused_and_ends_with_the_drain(blueprint):
    @blueprint.get("/")
    async def route():
        return request.headers["Remote-Addr"]

    async with serving(blueprint) as served, httpx2.AsyncClient(base_url=served.url) as client:
        for _ in range(3):
            assert (await client.get("/")).text == "127.0.0.1"
            assert served.server.open_connections == 1
        served.server.drain()
        with anyio.fail_after(1):
            while served.server.open_connections:
                await anyio.sleep(0.005)


async def test_a_cancelled_server_answers_503_for_a_route_that_waits(blueprint):
    entered = anyio.Event()

    @blueprint.get("/")
    async def route():
        entered.set()
        await anyio.sleep_forever()

    async with serving(blueprint) as served, httpx2.AsyncClient(base_url=served.url) as client:
        statuses = []

        async def ask():
            statuses.append((await client.get("/")).status_code)

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            await entered.wait()
            served.scope.cancel()
        assert statuses == [503]


@asynccontextmanager
async def connect(served, path):
    async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
        connection = WSConnection(ConnectionType.CLIENT)
        await stream.send(connection.send(Request(host="test", target=path)))
        events = []

        async def receive():
            while not events:
                connection.receive_data(await stream.receive())
                events.extend(event for event in connection.events() if not isinstance(event, Ping))
            return events.pop(0)

        async def send(event):
            await stream.send(connection.send(event))

        yield receive, send


async def test_websockets_talk_fail_and_refuse(blueprint, caplog):
    gone = anyio.Event()

    @blueprint.websocket("/echo")
    async def echo():
        await websocket.accept()
        try:
            while True:
                await websocket.send(await websocket.receive())
        finally:
            gone.set()

    @blueprint.websocket("/boom")
    async def boom():
        await websocket.accept()
        raise RuntimeError("secret")

    @blueprint.websocket("/refuse")
    async def refuse():
        abort(403)

    async with serving(blueprint) as served:
        async with connect(served, "/echo") as (receive, send):
            assert isinstance(await receive(), AcceptConnection)
            await send(TextMessage("hi"))
            assert (await receive()).data == "hi"
        with anyio.fail_after(5):
            await gone.wait()
        async with connect(served, "/boom") as (receive, send):
            assert isinstance(await receive(), AcceptConnection)
            close = await receive()
            assert (type(close), close.code) == (CloseConnection, 1011)
        for path, status in (("/refuse", 403), ("/nowhere", 404)):
            async with connect(served, path) as (receive, send):
                rejection = await receive()
                assert (type(rejection), rejection.status_code) == (RejectConnection, status)
                body = await receive()
                assert isinstance(body, RejectData) and f'"status":{status}'.encode() in body.data
    assert caplog.text.count("RuntimeError: secret") == 1


async def test_an_empty_websocket_message_is_one(blueprint):
    received = []

    @blueprint.websocket("/")
    async def collect():
        await websocket.accept()
        while True:
            received.append(await websocket.receive())
            await websocket.send("taken")

    async with serving(blueprint) as served, connect(served, "/") as (receive, send):
        assert isinstance(await receive(), AcceptConnection)
        for message in (BytesMessage(b""), TextMessage(""), BytesMessage(b"x")):
            await send(message)
            assert (await receive()).data == "taken"
    assert received == [b"", "", b"x"]


async def test_lifespan_functions_run_around_the_requests(blueprint):
    order = []

    @blueprint.before_app_serving
    async def start():
        order.append("start")

    @blueprint.while_app_serving
    async def around():
        order.append("enter")
        yield
        order.append("leave")

    @blueprint.after_app_serving
    async def stop():
        order.append("stop")

    @blueprint.get("/")
    async def route():
        order.append("request")
        return ""

    async with client_of(blueprint) as client:
        await client.get("/")
    assert order == ["start", "enter", "request", "leave", "stop"]


async def test_what_serving_opened_is_closed_when_the_service_is_cancelled(blueprint):
    closed = []

    @blueprint.after_app_serving
    async def stop():
        await anyio.lowlevel.checkpoint()
        closed.append(True)

    app = create_quart_app("agent", [blueprint])
    with anyio.CancelScope() as scope:
        async with quart_lifespan(app):
            scope.cancel()
            await anyio.sleep_forever()
    assert closed == [True]


async def test_a_failing_start_is_raised_as_it_is(blueprint):
    @blueprint.before_app_serving
    async def start():
        current_app.add_background_task(anyio.sleep_forever)
        raise RuntimeError("no database")

    app = create_quart_app("agent", [blueprint])
    with pytest.raises(RuntimeError, match="no database"), anyio.fail_after(5):
        async with quart_lifespan(app):
            pass


async def test_a_start_that_fails_half_way_ends_what_it_began(blueprint):
    order = []

    @blueprint.while_app_serving
    async def first():
        order.append("enter")
        yield
        order.append("leave")

    @blueprint.while_app_serving
    async def second():
        order.append("fail")
        raise RuntimeError("no database")
        yield

    @blueprint.while_app_serving
    async def third():
        order.append("never")
        yield

    @blueprint.after_app_serving
    async def stop():
        order.append("never")

    app = create_quart_app("agent", [blueprint])
    with pytest.raises(RuntimeError, match="no database"), anyio.fail_after(5):
        async with quart_lifespan(app):
            pass
    assert order == ["enter", "fail", "leave"]


async def test_what_serving_opened_is_closed_also_when_some_of_it_fails_to_close(blueprint, caplog):
    order = []

    @blueprint.while_app_serving
    async def first():
        yield
        order.append("first")

    @blueprint.while_app_serving
    async def second():
        yield
        raise RuntimeError("second")

    @blueprint.while_app_serving
    async def third():
        yield
        yield

    @blueprint.after_app_serving
    async def fail():
        raise RuntimeError("fourth")

    @blueprint.after_app_serving
    def stop():
        order.append("stop")

    app = create_quart_app("agent", [blueprint])
    with pytest.raises(RuntimeError, match="more than once"), anyio.fail_after(5):
        async with quart_lifespan(app):
            pass
    assert order == ["first", "stop"]
    assert [str(record.exc_info[1]) for record in caplog.records][1:] == ["second", "fourth"]


async def test_an_exception_of_the_body_is_raised_as_it_is(blueprint):
    app = create_quart_app("agent", [blueprint])
    with pytest.raises(KeyError):
        async with quart_lifespan(app):
            raise KeyError("body")


async def test_background_tasks_may_finish(blueprint):
    done = []

    async def work(what):
        await anyio.sleep(0.05)
        done.append(what)

    @blueprint.post("/")
    async def route():
        current_app.add_background_task(work, "async")
        current_app.add_background_task(done.append, "sync")
        return ""

    async with client_of(blueprint) as client:
        await client.post("/")
    assert sorted(done) == ["async", "sync"]


async def test_what_background_tasks_use_is_closed_after_them(blueprint):
    order = []

    async def work():
        try:
            await anyio.sleep(0.05)
            order.append("worked")
            await anyio.sleep_forever()
        finally:
            order.append("ended")

    @blueprint.while_app_serving
    async def around():
        yield
        order.append("closed")

    @blueprint.after_app_serving
    async def stop():
        current_app.add_background_task(order.append, "last")

    app = create_quart_app("agent", [blueprint])
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0.2
    with anyio.fail_after(5):
        async with quart_lifespan(app):
            app.add_background_task(work)
    assert order == ["worked", "ended", "closed", "last"]


async def test_background_tasks_are_told_of_the_end(blueprint):
    told = []

    async def work():
        await current_app.shutdown_event.wait()
        told.append(True)

    app = create_quart_app("agent", [blueprint])
    with anyio.fail_after(4):
        async with quart_lifespan(app):
            app.add_background_task(work)
            await anyio.lowlevel.checkpoint()
    assert told == [True]


async def test_a_background_task_that_fails_is_logged_and_the_service_goes_on(blueprint, caplog):
    done = anyio.Event()

    async def work():
        done.set()
        raise RuntimeError("in the background")

    @blueprint.post("/")
    async def route():
        current_app.add_background_task(work)
        return ""

    async with client_of(blueprint) as client:
        await client.post("/")
        await done.wait()
        assert (await client.post("/")).status_code == 200
    assert caplog.text.count("RuntimeError: in the background") == 2


@pytest.mark.parametrize("kind", ["async", "sync", "another task"])
async def test_a_background_task_that_exits_is_logged_and_the_service_goes_on(
    blueprint, caplog, anyio_backend_name, kind
):
    if kind == "another task" and anyio_backend_name == "trio":
        pytest.skip("trio's tasks cannot be awaited")
    ended = anyio.Event()

    async def leave():
        sys.exit(3)

    async def wait_for_another():
        other = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    work = {"async": leave, "sync": sys.exit, "another task": wait_for_another}[kind]

    @got_background_exception.connect
    async def hear(sender, **what):
        ended.set()

    @blueprint.post("/")
    async def route():
        current_app.add_background_task(work)
        return ""

    async with client_of(blueprint) as client:
        await client.post("/")
        await ended.wait()
        assert (await client.get("/")).status_code == 405
    assert "RuntimeError: a background task raised" in caplog.text


@pytest.mark.parametrize("name", ["my agent", "json", "a.b.c", "ünïcode", "../x"])
async def test_any_name_will_do(name):
    assert create_quart_app(name).name


async def test_there_is_no_static_folder():
    app = create_quart_app("agent")
    assert app.static_folder is None
    assert app.config["RESPONSE_TIMEOUT"] is None
