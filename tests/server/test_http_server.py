"""Requests and responses over real sockets."""

import gc
import json
import logging
import os
import socket
from contextlib import AsyncExitStack, ExitStack, closing, suppress

import anyio
import anyio.lowlevel
import httpx2
import pytest
from anyio.abc import SocketAttribute
from h2.events import StreamEnded
from loopback.http2 import open_h2

from definable.server import HTTPServer, ServerLimits, bind, limits
from definable.server import server as http_server
from definable.server.request_cycle import PARTS_A_TURN

pytestmark = pytest.mark.anyio


async def test_a_request_is_answered(serving):
    async with serving() as served, httpx2.AsyncClient(base_url=served.url) as client:
        response = await client.post("/echo?a=b", content=b"hello", headers={"X-Name": "value"})
        assert (response.status_code, response.content) == (200, b"hello")
        scope = served.app.scopes[0]
        assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/echo", b"a=b")
        assert (b"x-name", b"value") in scope["headers"]
        assert scope["client"][0] == "127.0.0.1"
        assert scope["server"] == ("127.0.0.1", served.port)


@pytest.mark.parametrize("kind", ["http/1.1", "http/2", "websocket"])
async def test_others_get_their_turn_while_an_application_sends_without_ever_waiting(
    serving, server_tls, client_tls, kind
):
    """Its parts all fit into the socket's buffer, so no send has to wait for the client."""
    parts, turns, seen = 320, 0, []

    async def pour(scope, receive, send):
        if is_websocket := scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        before = turns
        for _ in range(parts):
            if is_websocket:
                await send({"type": "websocket.send", "text": "x", "bytes": None})
            else:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        seen.append(turns - before)
        if not is_websocket:
            await send({"type": "http.response.body", "body": b""})

    async def others():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    tls = server_tls if kind == "http/2" else None
    async with serving(app=pour, tls=tls) as served, anyio.create_task_group() as group:
        group.start_soon(others)
        if tls is not None:
            client = await open_h2(served, client_tls)
            async with client.stream:
                await client.request("/")
                await client.until(StreamEnded)
        else:
            key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
            upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
            async with served.client() as client:
                await client.get("/", *(upgrade if kind == "websocket" else ("Connection: close",)))
                await client.rest()
        group.cancel_scope.cancel()
    assert seen[0] >= parts // PARTS_A_TURN - 1


async def test_the_application_is_told_what_asgi_has_it_told(serving):
    async with serving() as served, served.client() as client:
        await client.send(
            "POST /echo/a%20b%C3%A9?c=%20d&e HTTP/1.1\r\nHost: t\r\nX-Two:  words \r\nContent-Length: 0\r\n\r\n"
        )
        assert (await client.response()).status == 200
        (scope,) = served.app.scopes
        assert scope["asgi"]["version"] == "3.0"
        assert {name: value for name, value in scope.items() if name not in ("asgi", "extensions")} == {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/echo/a bé",
            "raw_path": b"/echo/a%20b%C3%A9",
            "query_string": b"c=%20d&e",
            "root_path": "",
            "headers": [(b"host", b"t"), (b"x-two", b"words"), (b"content-length", b"0")],
            "client": client.stream.extra(SocketAttribute.local_address),
            "server": ("127.0.0.1", served.port),
            "state": {},
        }


async def test_one_connection_serves_many_requests(serving):
    async with serving() as served, served.client() as client:
        for number in range(5):
            await client.post("/echo", b"%d" % number)
            assert (await client.response()).body == b"%d" % number
        assert len({scope["client"] for scope in served.app.scopes}) == 1


async def test_pipelined_requests_are_answered_in_order(serving):
    async with serving() as served, served.client() as client:
        request = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n"
        await client.send("".join(f"{request}{number:02}" for number in range(50)))
        bodies = [(await client.response()).body for _ in range(50)]
        assert bodies == [b"%02d" % number for number in range(50)]


async def test_a_chunked_body_arrives_whole(serving):
    async with serving() as served, served.client() as client:
        await client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        assert (await client.response()).body == b"hello world"


async def test_a_large_body_goes_both_ways(serving):
    body = bytes(range(256)) * 8000
    async with serving() as served, httpx2.AsyncClient(base_url=served.url) as client:
        assert (await client.post("/echo", content=body)).content == body


async def test_expect_continue_is_answered_before_the_body(serving):
    async with serving() as served, served.client() as client:
        await client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.head()).status == 100
        await client.send("hi")
        assert (await client.response()).body == b"hi"


async def test_a_response_to_head_has_no_body(serving):
    async with serving() as served, served.client() as client:
        await client.send("HEAD /refuse HTTP/1.1\r\nHost: test\r\n\r\n")
        response = await client.response(to_head=True)
        assert (response.status, response.headers["content-length"]) == (401, "9")
        await client.get("/echo")
        assert (await client.response()).status == 200


async def test_head_and_body_of_a_response_come_in_one_packet(serving):
    async with serving() as served, served.client() as client:
        await client.post("/echo", b"hello")
        data = await client.stream.receive()
        assert data.startswith(b"HTTP/1.1 200") and data.endswith(b"hello")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="finds the server's end in /proc")
async def test_what_is_sent_in_pieces_waits_for_no_acknowledgement(serving):
    async with serving() as served, served.client() as client:
        await client.get("/echo")
        await client.response()
        with socket_to(client.stream.extra(SocketAttribute.local_address)) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def socket_to(peer):
    """A duplicate of this process's socket that is connected to a peer."""
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # no socket, not connected, or gone
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                sock = socket.socket(fileno=os.dup(int(fd)))
                with ExitStack() as stack:
                    stack.enter_context(sock)
                    if sock.getpeername() == peer:
                        stack.pop_all()
                        return sock
    raise AssertionError(f"there is no connection to {peer}")


async def test_the_server_does_not_name_itself(serving):
    async with serving() as served, served.client() as client:
        await client.get("/echo")
        assert set((await client.response()).headers) == {"content-length", "date"}


async def test_an_absolute_url_as_target_is_its_path(serving):
    async with serving() as served, served.client() as client:
        await client.get("http://test/echo?q=1")
        assert (await client.response()).status == 200
        assert served.app.scopes[0]["path"] == "/echo"
        assert served.app.scopes[0]["query_string"] == b"q=1"


async def test_http_1_0_closes_after_the_response(serving):
    async with serving() as served, served.client() as client:
        await client.send("GET /echo HTTP/1.0\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/boom", "/exit", "/group", "/silent", "/head_only", "/bad_header"])
async def test_an_application_that_fails_is_answered_500_without_internals(serving, caplog, path):
    async with serving() as served, httpx2.AsyncClient(base_url=served.url) as client:
        response = await client.get(path)
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == 500
        assert "secret" not in response.text
        assert (await client.get("/echo")).status_code == 200
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_what_an_application_failed_with_is_logged_without_the_group_around_it(serving, caplog, count):
    failures = [RuntimeError(f"failure {number}") for number in range(count)]

    async def app(scope, receive, send):
        raise ExceptionGroup("outer", [ExceptionGroup("inner", failures)])

    async with serving(app=app) as served, httpx2.AsyncClient(base_url=served.url) as client:
        assert (await client.get("/")).status_code == 500
    (record,) = caplog.records
    logged = record.exc_info[1]
    assert list(getattr(logged, "exceptions", [logged])) == failures


async def test_a_response_that_fails_in_the_middle_is_cut(serving, caplog):
    async with serving() as served, httpx2.AsyncClient(base_url=served.url) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/cut")
    assert "in mid-stream" in caplog.text


async def test_a_response_reaches_a_client_that_is_still_sending_its_body(serving):
    async with serving() as served, served.client() as client:
        await client.send("POST /refuse HTTP/1.1\r\nHost: test\r\nContent-Length: 50000000\r\n\r\n")
        refused = anyio.Event()

        async def upload() -> None:
            try:
                while not refused.is_set():
                    await client.send(b"x" * 65536)
            except anyio.BrokenResourceError:
                pass

        async with anyio.create_task_group() as tg:
            tg.start_soon(upload)
            response = await client.response()
            refused.set()
        assert (response.status, response.body) == (401, b"no thanks")
        assert response.headers["connection"] == "close"


async def test_a_client_that_goes_away_is_told_and_cancels_nothing(serving):
    async with serving() as served:
        async with served.client() as client:
            await client.get("/watch")
            await served.app.until(lambda: served.app.arrived == 1)
        await served.app.until(lambda: served.app.finished == 1)
        assert served.app.disconnects == 1


async def test_all_tasks_of_an_application_that_wait_for_its_client_are_told(serving):
    told: list[str] = []

    async def app(scope, receive, send):
        async def watch():
            while (message := await receive())["type"] != "http.disconnect":
                pass
            told.append(message["type"])

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            arrived.set()

    arrived = anyio.Event()
    async with serving(app=app) as served:
        async with served.client() as client:
            await client.get("/")
            await arrived.wait()
        await served.until_no_connections()
    assert told == ["http.disconnect"] * 3


async def test_the_body_can_be_read_after_its_sender_has_gone(serving):
    async with serving() as served:
        async with served.client() as client:
            await client.post("/late_body", b"payload")
            await served.app.until(lambda: served.app.arrived == 1)
        served.app.release.set()
        await served.app.until(lambda: served.app.finished == 1)
        assert served.app.bodies == [b"payload"]


async def test_a_client_that_stops_reading_is_aborted(serving):
    async with serving(limits=ServerLimits(write_timeout=0.2)) as served, served.client() as client:
        await client.get("/flood")
        await served.app.until(lambda: served.app.disconnects == 1)


async def test_a_slow_but_reading_client_gets_everything(serving):
    async with serving(limits=ServerLimits(write_timeout=2)) as served, served.client() as client:
        await client.get("/big")
        assert len((await client.response()).body) == 3_000_000


async def test_a_request_head_that_comes_too_slowly_is_answered_408(serving):
    async with serving(limits=ServerLimits(header_timeout=0.2)) as served, served.client() as client:
        await client.send("GET / HTTP/1.1\r\nHost: te")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert await client.rest() == b""


async def test_dripping_bytes_does_not_extend_the_time_for_a_head(serving):
    limits = ServerLimits(header_timeout=0.3, keep_alive_timeout=30)
    async with serving(limits=limits) as served, served.client() as client:
        await client.get("/echo")
        await client.response()
        async with anyio.create_task_group() as tg:

            async def drip() -> None:
                await client.send("GET / HTTP/1.1\r\n")
                while True:
                    await client.send("X: y\r\n")
                    await anyio.sleep(0.02)

            tg.start_soon(drip)
            assert (await client.response()).status == 408
            tg.cancel_scope.cancel()


async def test_a_silent_connection_is_closed(serving):
    async with serving(limits=ServerLimits(header_timeout=0.1)) as served, served.client() as client:
        assert await client.rest() == b""


async def test_an_idle_connection_is_closed_after_the_keep_alive_timeout(serving):
    async with serving(limits=ServerLimits(keep_alive_timeout=0.1)) as served, served.client() as client:
        await client.get("/echo")
        await client.response()
        assert await client.rest() == b""


async def test_a_request_may_take_longer_than_the_keep_alive_timeout(serving):
    limits = ServerLimits(keep_alive_timeout=0.05, header_timeout=0.05)
    async with serving(limits=limits) as served, served.client() as client:
        await client.get("/hold")
        await anyio.sleep(0.2)
        served.app.release.set()
        assert (await client.response()).body == b"held"


async def test_a_connection_beyond_the_limit_is_told_so(serving):
    async with serving(limits=ServerLimits(max_connections=2)) as served:
        async with served.client() as first, served.client() as second:
            for client in (first, second):
                await client.get("/hold")
            await served.app.until(lambda: served.app.arrived == 2)
            async with served.client() as third:
                response = await third.response()
                assert (response.status, response.headers["retry-after"]) == (503, "1")
                assert json.loads(response.body)["status"] == 503
            served.app.release.set()
        async with httpx2.AsyncClient(base_url=served.url) as client:
            await served.until_no_connections()
            assert (await client.get("/echo")).status_code == 200


async def test_of_the_connections_beyond_the_limit_128_at_once_are_told_so(serving, monkeypatch):
    monkeypatch.setattr(limits, "REFUSAL_TIMEOUT", 20.0)  # for as long as it takes here to connect them all
    async with serving(limits=ServerLimits(max_connections=1)) as served, served.client() as first:
        await first.get("/hold")
        await served.app.until(lambda: served.app.arrived == 1)
        async with AsyncExitStack() as stack:
            beyond = [await stack.enter_async_context(served.client()) for _ in range(140)]
            told = [await client.receive() for client in beyond]
        assert [data[:12] for data in told] == [b"HTTP/1.1 503"] * 128 + [b""] * 12


async def test_a_full_backlog_is_accepted_without_a_pause(monkeypatch):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    monkeypatch.setattr(http_server, "ACCEPT_BACKOFF", 60.0)
    sockets = bind("127.0.0.1", 0)
    peers = [socket.create_connection(sockets[0].getsockname()) for _ in range(2 * http_server.ACCEPT_BATCH)]
    server = HTTPServer(app, sockets)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            await tg.start(server.serve)
            for peer in peers:
                with peer:
                    peer.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                    assert (await anyio.to_thread.run_sync(peer.recv, 100)).startswith(b"HTTP/1.1 204 ")
            server.drain()


async def test_running_out_of_file_descriptors_is_survived(serving, monkeypatch, caplog):
    accept = socket.socket.accept
    failures = 3

    def failing(self):
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    async with serving() as served, httpx2.AsyncClient(base_url=served.url) as client:
        assert (await client.get("/echo")).status_code == 200
    assert caplog.text.count("Too many open files") == 1


async def test_a_client_that_is_gone_before_it_is_served_is_nobody_s_business(serving, monkeypatch, caplog):
    accept = socket.socket.accept
    aborted, broken = ConnectionAbortedError(103, "Software caused connection abort"), socket.socket()
    broken.close()
    before = [aborted, broken]

    def failing(self):
        if not before:
            return accept(self)
        first = before.pop(0)
        if isinstance(first, OSError):
            raise first
        return first, ("127.0.0.1", 1)

    monkeypatch.setattr(socket.socket, "accept", failing)
    async with serving() as served, httpx2.AsyncClient(base_url=served.url) as client:
        assert (await client.get("/echo")).status_code == 200
        assert (before, served.server.open_connections) == ([], 1)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["http.response.body", "http.response.trailers"])
async def test_an_application_that_speaks_out_of_turn_is_answered_500(serving, caplog, kind):
    async def app(scope, receive, send):
        await send({"type": kind})

    async with serving(app=app) as served, httpx2.AsyncClient(base_url=served.url) as client:
        response = await client.get("/")
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
    assert "error in the application, in GET '/'" in caplog.text


async def test_an_application_that_begins_two_responses_has_failed(serving, caplog):
    async def app(scope, receive, send):
        for status in (200, 204):
            await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    async with serving(app=app) as served, served.client() as client:
        await client.get("/", "Connection: close")
        data = await client.rest()
    assert b" 204 " not in data.partition(b"\r\n")[0]
    assert "error in the application, in GET '/'" in caplog.text


async def test_options_of_the_whole_server_reach_the_application(serving):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": [(b"x-path", scope["path"].encode())]})
        await send({"type": "http.response.body"})

    async with serving(app=app) as served, served.client() as client:
        await client.send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["x-path"]) == (204, "/*")


async def test_two_listeners_share_one_server():
    sockets = [*bind("127.0.0.1", 0), *bind("::1", 0)]
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["server"][0])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    server = HTTPServer(app, sockets)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            addresses = await tg.start(server.serve)
            async with httpx2.AsyncClient() as client:
                for host, port in addresses:
                    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                    assert (await client.get(url)).status_code == 204
            server.drain()
    assert seen == ["127.0.0.1", "::1"]


class InterruptedListener(socket.socket):
    """Ctrl-C comes when it has accepted two clients."""

    accepted = 0

    def accept(self):
        if self.accepted == 2:
            raise KeyboardInterrupt
        self.accepted += 1
        return super().accept()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_interrupt_right_after_clients_were_accepted_closes_their_connections(anyio_backend):
    """A task of asyncio's that is cancelled before it has begun never begins."""

    async def app(scope, receive, send):
        raise AssertionError("there was no request")

    with closing(bind("127.0.0.1", 0)[0]) as bound, InterruptedListener(fileno=bound.detach()) as listener:
        server = HTTPServer(app, [listener], limits=ServerLimits(max_connections=1))
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(listener.getsockname(), 10)) for _ in range(2)]
            with pytest.raises(BaseException) as interrupt:  # alone on asyncio, in groups on trio
                anyio.run(server.serve, backend=anyio_backend)
            for client in clients:  # of which the second may be told that there are too many
                while client.recv(1000):
                    pass
            del interrupt
            gc.collect()  # the warning
