"""How a server ends: what it finishes, what it refuses, and that nothing holds it."""

from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import httpx2
import pytest

from definable.server import HTTPServer, bind, close_all

pytestmark = pytest.mark.anyio

TIME_LIMIT = 5.0
"""Seconds after which a hanging test is a failed one."""

CROWD = 200
"""Requests in flight when the server is told to stop."""

NO_LIMIT = httpx2.Limits(max_connections=None, max_keepalive_connections=None)


@asynccontextmanager
async def in_flight(served):
    """Requests that wait in the application; yields the statuses of their answers, complete on leaving."""
    statuses = []
    async with (
        httpx2.AsyncClient(base_url=served.url, limits=NO_LIMIT, timeout=20) as client,
        anyio.create_task_group() as crowd,
    ):

        async def request():
            response = await client.get("/hold")
            statuses.append((response.status_code, response.headers.get("connection")))

        for _ in range(CROWD):
            crowd.start_soon(request)
        await served.app.until(lambda: served.app.arrived == CROWD)
        yield statuses


async def test_requests_in_flight_are_finished(serving):
    async with serving() as served:
        async with in_flight(served) as statuses:
            served.server.drain()
            served.app.release.set()
            await served.until_ended()
        assert statuses == [(200, "close")] * CROWD


async def test_requests_past_the_grace_get_an_honest_503(serving):
    async with serving() as served:
        async with in_flight(served) as statuses:
            served.server.drain()
            served.scope.cancel()
            await served.until_ended()
        assert statuses == [(503, "close")] * CROWD


async def test_the_503_is_a_problem_that_says_when_to_come_back(serving):
    async with serving() as served, served.client() as client:
        await client.get("/hold")
        await served.app.until(lambda: served.app.arrived == 1)
        served.scope.cancel()
        response = await client.response()
        assert response.status == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["retry-after"] == "5"
        await served.until_ended()


async def test_the_503_reaches_a_client_in_the_middle_of_its_body(serving):
    async with serving() as served, served.client() as client:
        await client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
        await client.send(b"x" * 300_000)
        await served.app.until(lambda: served.app.arrived == 1)
        served.scope.cancel()
        assert (await client.response()).status == 503
        await served.until_ended(within=3)


async def test_new_connections_are_refused_at_once(serving):
    async with serving() as served, served.client() as client:
        await client.get("/hold")
        await served.app.until(lambda: served.app.arrived == 1)
        served.server.drain()
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", served.port)
        served.app.release.set()
        assert (await client.response()).status == 200
        await served.until_ended()


async def test_idle_connections_are_closed_a_moment_later(serving):
    async with serving() as served, served.client() as fresh, served.client() as used:
        await used.get("/echo")
        await used.response()
        served.server.drain()
        assert await used.rest() == b""
        assert await fresh.rest() == b""
        await served.until_ended(within=2)


async def test_a_request_that_comes_in_that_moment_is_told_to_come_again(serving):
    async with serving() as served, served.client() as fresh, served.client() as used:
        await used.get("/echo")
        await used.response()
        await fresh.get("/echo")  # these may have come before or after
        served.server.drain()
        await used.get("/echo")
        for client in (fresh, used):
            response = await client.response()
            assert response.headers["connection"] == "close"
            if response.status != 200:
                assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert await client.rest() == b""
        await served.until_ended(within=2)


async def test_a_stream_that_ends_in_a_drain_is_followed_by_the_answer_to_what_came_behind_it(serving):
    """Its head is out already, and cannot say that the connection ends."""
    go_on = anyio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"2"})

    async with serving(app=app) as served, served.client() as client:
        await client.get("/")
        assert (await client.head()).headers.get("connection") is None
        served.server.drain()
        go_on.set()
        await client.get("/")
        assert await client._buffer.receive_exactly(2) == b"12"
        assert (await client.response()).status == 503
        await served.until_ended(within=2)


@pytest.mark.parametrize("turns", range(0, 40, 4))
async def test_clients_that_keep_asking_get_an_answer_to_every_request_and_no_reset(serving, turns):
    answers, last = [], []

    async def keep_asking(served):
        async with served.client() as client:
            while True:
                await client.post("/echo", b"hello")
                response = await client.response()
                answers.append(response.status)
                if response.headers.get("connection") == "close":
                    break
            last.append(response.status)
            assert await client.rest() == b""

    async with serving() as served:
        async with anyio.create_task_group() as crowd:
            for _ in range(CROWD // 4):
                crowd.start_soon(keep_asking, served)
            await served.app.until(lambda: served.app.arrived >= CROWD)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            served.server.drain()
            await served.until_ended()
        assert len(last) == CROWD // 4
        assert set(last) <= {200, 503}
        assert served.app.arrived == answers.count(200)


async def test_draining_twice_does_no_more_than_once(serving):
    async with serving() as served:
        served.server.drain()
        served.server.drain()
        await served.until_ended()


async def test_a_connection_is_closed_after_the_exchange_in_flight(serving):
    async with serving() as served, served.client() as client:
        await client.get("/hold")
        await client.get("/echo")
        await served.app.until(lambda: served.app.arrived == 1)
        served.server.drain()
        served.app.release.set()
        response = await client.response()
        assert (response.body, response.headers["connection"]) == (b"held", "close")
        await served.until_ended(within=3)
        assert served.app.arrived == 1


async def test_a_stream_that_began_before_the_drain_is_finished(serving):
    async with serving() as served, served.client() as client:
        await client.get("/sse")
        await client.head()
        assert b"data: 1" in await client.receive()
        served.server.drain()
        await anyio.wait_all_tasks_blocked()
        assert not served.ended.is_set()
        assert served.server.open_connections == 1


@pytest.mark.parametrize("path", ["/sse", "/flood", "/watch", "/body_then_hold"])
async def test_no_client_holds_the_end(serving, path):
    async with serving() as served, served.client() as client:
        await client.get(path)
        await served.app.until(lambda: served.app.arrived == 1)
        await anyio.wait_all_tasks_blocked()
        served.scope.cancel()
        await served.until_ended(within=3)


async def test_a_client_that_never_reads_its_503_does_not_hold_the_end(serving):
    async with serving() as served, served.client() as client:
        await client.send("POST /hold HTTP/1.1\r\nHost: test\r\nContent-Length: 50\r\n\r\n")
        await served.app.until(lambda: served.app.arrived == 1)
        started = anyio.current_time()
        served.scope.cancel()
        await served.until_ended(within=3)
        assert anyio.current_time() - started < 1.5


async def test_an_application_that_goes_on_after_its_client_has_left_is_waited_for(serving):
    async with serving() as served:
        async with served.client() as client:
            await client.post("/body_then_hold", b"work")
            await served.app.until(lambda: served.app.bodies == [b"work"])
        served.server.drain()
        await anyio.wait_all_tasks_blocked()
        assert not served.ended.is_set()
        served.app.release.set()
        await served.until_ended()
        assert served.app.finished == 1


async def test_an_application_may_finish_under_a_shield(serving):
    entered = anyio.Event()

    async def app(scope, receive, send):
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
                await send({"type": "http.response.body", "body": b"done"})

    async with serving(app=app) as served, served.client() as client:
        await client.get("/")
        await entered.wait()
        served.scope.cancel()
        assert (await client.response()).body == b"done"


async def test_the_callers_cancellation_is_not_swallowed(serving):
    server = HTTPServer(None, bind("127.0.0.1", 0))
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tg:
            await tg.start(server.serve)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_a_cancellation_at_any_moment_leaves_every_request_answered(serving, turns):
    """It hits each request somewhere between its first byte and its last: all that arrived get 200 or 503."""
    statuses = []

    async def ask(served):
        async with served.client() as client:
            await client.post("/echo", b"hello")
            statuses.append((await client.rest())[9:12])

    async with serving() as served:
        async with anyio.create_task_group() as crowd:
            for _ in range(20):
                crowd.start_soon(ask, served)
            await served.app.until(lambda: served.app.arrived >= 1)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            served.server.drain()
            served.scope.cancel()
            await served.until_ended()
        answered = [status for status in statuses if status]
        assert set(answered) <= {b"200", b"503"}
        assert len(answered) >= served.app.arrived


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancellation_at_any_moment_of_the_start_ends_it(turns):
    ended = []

    async def serve(sockets):
        try:
            await HTTPServer(nobody, sockets).serve()
        finally:
            ended.append(True)

    sockets = bind("127.0.0.1", 0)
    try:
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as group:
                group.start_soon(serve, sockets)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
    finally:
        close_all(sockets)
    assert ended == [True] or turns == 0  # asyncio does not begin what is cancelled


async def nobody(scope, receive, send):
    """Is never asked."""
