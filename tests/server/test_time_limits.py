"""How long clients may keep the server waiting, in virtual time: to the second, and over real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest

from definable.server import HTTPServer, ServerLimits, bind
from definable.server.hypercorn.request_cycle import HypercornRequestCycle
from definable.server.transport import Transport
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"

MINUTE = 60.0


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


@dataclass
class Served:
    """A server, and the clients that it has."""

    server: HTTPServer
    address: tuple[str, int]
    stop: Callable[[], None]
    ended: anyio.Event = field(default_factory=anyio.Event)

    def connect(self, data: bytes = b"") -> Peer:
        """A client that says something, and listens only when it is told to."""
        sock = socket.create_connection(self.address)
        sock.sendall(data)
        return Peer(sock)


class Peer:
    """A client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ended_at = 0.0

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    async def receive(self) -> bytes:
        await anyio.wait_readable(self.sock)
        return self.sock.recv(65_536)

    async def rest(self) -> bytes:
        """All bytes until the server closes, and the time of that."""
        data = b""
        while more := await self.receive():
            data += more
        self.ended_at = anyio.current_time()
        return data


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def hold(scope: Any, receive: Any, send: Any) -> None:
    await anyio.sleep_forever()


@asynccontextmanager
async def serving(app: Any = answer, **limits: Any) -> AsyncGenerator[Served]:
    sockets = bind("127.0.0.1", 0)
    server, scope = HTTPServer(app, sockets, limits=ServerLimits(**limits)), anyio.CancelScope()
    served = Served(server, sockets[0].getsockname(), scope.cancel)

    async def run(*, task_status: Any) -> None:
        with scope:
            await server.serve(task_status=task_status)
        served.ended.set()

    async with anyio.create_task_group() as group:
        await group.start(run)
        yield served
        scope.cancel()


async def test_a_client_that_says_nothing_has_30_seconds() -> None:
    async with serving() as served:
        with served.connect() as peer:
            assert await peer.rest() == b""
    assert peer.ended_at == pytest.approx(30)


@pytest.mark.parametrize("later", [0, 20])
async def test_a_head_has_30_seconds_from_the_accept(later: float) -> None:
    async with serving() as served:
        with served.connect(b"" if later else GET[:10]) as peer:
            await anyio.sleep(later)
            peer.sock.sendall(GET[:10] if later else GET[10:20])
            assert (await peer.receive()).startswith(b"HTTP/1.1 408 ")
            assert anyio.current_time() == pytest.approx(30)


async def test_a_connection_stays_75_seconds_after_an_answer() -> None:
    async with serving() as served:
        with served.connect() as peer:
            await anyio.sleep(10)
            peer.sock.sendall(GET)
            assert (await peer.receive()).endswith(b"hello")
            assert await peer.rest() == b""
    assert peer.ended_at == pytest.approx(10 + 75)


async def test_a_second_head_has_30_seconds_from_its_first_byte() -> None:
    async with serving() as served:
        with served.connect(GET) as peer:
            assert (await peer.receive()).endswith(b"hello")
            for byte in GET[:2]:
                await anyio.sleep(20)
                peer.sock.sendall(bytes([byte]))
            assert (await peer.receive()).startswith(b"HTTP/1.1 408 ")
            assert anyio.current_time() == pytest.approx(20 + 30)


async def test_ends_that_are_due_soon_after_another_come_at_once_a_twentieth_late() -> None:
    async with serving(header_timeout=100.0, keep_alive_timeout=1_000.0) as served:
        with served.connect() as first:
            await anyio.sleep(1)
            with served.connect() as second:
                await first.rest()
                assert await second.rest() == b""
    assert (first.ended_at, second.ended_at) == (pytest.approx(100), pytest.approx(105))


async def test_a_server_without_clients_looks_after_the_next_one_all_the_same() -> None:
    async with serving() as served:
        for begin in (0, 10 * MINUTE):
            await anyio.sleep_until(begin)
            with served.connect() as peer:
                assert await peer.rest() == b""
            assert peer.ended_at == pytest.approx(begin + 30)


async def test_a_request_may_take_an_hour() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(60 * MINUTE)
        await answer(scope, receive, send)

    async with serving(app) as served:
        with served.connect(GET) as peer:
            assert (await peer.receive()).endswith(b"hello")
            assert anyio.current_time() == pytest.approx(60 * MINUTE)


POST = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\n"


async def count(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


async def test_a_body_may_take_hours_while_bytes_keep_coming() -> None:
    async with serving(count) as served:
        with served.connect(POST) as peer:
            for _ in range(500):
                await anyio.sleep(29)
                peer.sock.sendall(b"x")
            assert (await peer.receive()).endswith(b"500")


async def test_thirty_seconds_of_silence_in_a_body_are_a_408() -> None:
    async with serving(count) as served:
        with served.connect(POST) as peer:
            await anyio.sleep(20)
            peer.sock.sendall(b"x")
            assert (await peer.receive()).startswith(b"HTTP/1.1 408 ")
            assert anyio.current_time() == pytest.approx(20 + 30)


class Stream:
    """A request on one of many streams of a connection."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.cycle = HypercornRequestCycle(
            count,
            {"type": "http", "method": "POST", "path": "/"},
            self._send,
            Transport(cast("Any", None), 1.0),
            multiplexed=True,
            body_timeout=30.0,
            close_deadline=anyio.current_time,
        )

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def put(self, *, more: bool = True) -> None:
        await self.cycle.receive_buffer.put({"type": "http.request", "body": b"x", "more_body": more})

    @property
    def statuses(self) -> list[Any]:
        return [message.get("status") for message in self.sent if message is not None]


async def test_a_body_on_a_stream_of_many_has_30_seconds_of_silence_too() -> None:
    stream = Stream()
    async with anyio.create_task_group() as group:
        group.start_soon(stream.cycle.run)
        for _ in range(3):
            await stream.put()
            await anyio.sleep(29)
        assert stream.sent == []
        await anyio.sleep(2)
    assert stream.statuses == [408, None]


async def test_a_body_on_a_stream_of_many_has_5_seconds_of_silence_at_a_drain() -> None:
    silent, slow = Stream(), Stream()
    async with anyio.create_task_group() as group:
        for stream in (silent, slow):
            group.start_soon(stream.cycle.run)
            await stream.put()
        await anyio.sleep(10)
        for stream in (silent, slow):
            stream.cycle.drain(5.0)
        for _ in range(3):
            await anyio.sleep(4)
            await slow.put()
        assert (silent.statuses, slow.statuses) == ([408, None], [])
        await slow.put(more=False)
    assert slow.statuses == [200, None]


async def test_a_client_that_reads_nothing_has_30_seconds() -> None:
    broken: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 16_000_000})
        broken.append(anyio.current_time())

    async with serving(app) as served:
        with served.connect(GET):
            while served.server.open_connections or not broken:
                await anyio.sleep(1)
    assert broken == [pytest.approx(30)]


async def test_a_stop_waits_a_second_for_a_client_that_was_answered_and_stays() -> None:
    async with serving(hold) as served:
        with served.connect(GET) as peer:
            await anyio.sleep(10)
            served.stop()
            await served.ended.wait()
            assert anyio.current_time() == pytest.approx(10 + 1)
            assert (await peer.rest()).startswith(b"HTTP/1.1 503 ")


async def test_a_drain_waits_a_quarter_of_a_second_for_a_request_that_is_on_its_way() -> None:
    async with serving() as served:
        with served.connect() as silent, served.connect(GET) as late, served.connect(GET) as used:
            for peer in (late, used):
                assert (await peer.receive()).endswith(b"hello")
            await anyio.sleep(10)
            served.server.drain()
            await anyio.sleep(0.2)
            late.sock.sendall(GET)
            assert (await late.receive()).startswith(b"HTTP/1.1 503 ")
            for peer in (silent, used):
                assert await peer.rest() == b""
                assert peer.ended_at == pytest.approx(10.25, abs=0.02)


@pytest.mark.parametrize("begun", [GET[:10], POST, POST + b"x"], ids=["head", "no body", "some of a body"])
async def test_a_request_that_is_not_whole_at_a_drain_has_5_seconds_of_silence(begun: bytes) -> None:
    whole = GET if begun == GET[:10] else POST + b"x" * 500
    async with serving(count) as served:
        with served.connect(begun) as silent, served.connect(begun) as slow:
            await anyio.sleep(10)
            served.server.drain()
            await anyio.sleep(4)
            slow.sock.sendall(whole[len(begun) : len(begun) + 5])
            assert (await silent.receive()).startswith(b"HTTP/1.1 408 ")
            assert anyio.current_time() == pytest.approx(15, abs=0.02)
            await anyio.sleep(3)
            slow.sock.sendall(whole[len(begun) + 5 :])
            answer = await slow.receive()
            assert answer.startswith(b"HTTP/1.1 200 " if whole != GET else b"HTTP/1.1 503 ")
            assert b"connection: close" in answer


async def test_a_client_too_many_that_stays_is_closed_after_a_second() -> None:
    async with serving(hold, max_connections=1) as served:
        with served.connect(GET):
            await anyio.sleep(10)
            with served.connect() as beyond:
                assert (await beyond.receive()).startswith(b"HTTP/1.1 503 ")
                assert await beyond.receive() == b""
                await anyio.sleep(0.9)
                beyond.sock.sendall(b"still")
                await anyio.sleep(0.2)
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    for _ in range(2):
                        beyond.sock.sendall(b"here")


async def test_a_system_without_descriptors_is_asked_again_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    accept, asked = socket.socket.accept, list[float]()

    def failing(self: socket.socket) -> Any:
        asked.append(anyio.current_time())
        if len(asked) < 4:
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    async with serving() as served:
        with served.connect(GET) as peer:
            assert (await peer.receive()).endswith(b"hello")
    assert asked[:4] == [pytest.approx(tenths / 10) for tenths in range(4)]
