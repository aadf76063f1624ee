"""A served probe application, a raw client, and a guard that nothing of a server outlives it."""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import ByteStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from definable.server import HTTPServer, ServerLimits, bind, ssl_context

TIME_LIMIT = 20.0
"""Seconds after which a hanging test is a failed one."""


@dataclass
class ProbeApp:
    """An ASGI application whose paths do what servers must cope with."""

    release: anyio.Event = field(default_factory=anyio.Event)
    arrived: int = 0
    finished: int = 0
    disconnects: int = 0
    codes: list[int] = field(default_factory=list)
    scopes: list[Any] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.arrived += 1
        self._notify()
        try:
            name = "websocket" if scope["type"] == "websocket" else scope["path"].strip("/").split("/")[0] or "echo"
            await getattr(self, name)(scope, receive, send)
            self.finished += 1
        finally:
            self._notify()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(TIME_LIMIT):
            while not condition():
                await self.changed.wait()

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, await read_body(receive))

    async def hold(self, scope: Any, receive: Any, send: Any) -> None:
        await self.release.wait()
        await respond(send, b"held")

    async def body_then_hold(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append(await read_body(receive))
        self._notify()
        await self.release.wait()
        await respond(send, b"held")

    async def watch(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnects += 1
        self._notify()

    async def late_body(self, scope: Any, receive: Any, send: Any) -> None:
        await self.release.wait()
        self.bodies.append(await read_body(receive))

    async def refuse(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"no thanks", status=401)

    async def sse(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await self.watch(scope, receive, send)

    async def flood(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with anyio.create_task_group() as tg:

            async def pour() -> None:
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

            tg.start_soon(pour)
            await self.watch(scope, receive, send)
            tg.cancel_scope.cancel()

    async def big(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"y" * 3_000_000)

    async def boom(self, scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret internals")

    async def exit(self, scope: Any, receive: Any, send: Any) -> None:
        raise SystemExit(3)

    async def group(self, scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.boom, scope, receive, send)

    async def silent(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    async def head_only(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def bad_header(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"", headers=[(b"x-evil", b"a\r\nb: c")])

    async def cut(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise RuntimeError("in mid-stream")

    async def websocket(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if scope["path"] == "/ws/hold":
            await self.release.wait()
        if scope["path"] == "/ws/deny":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        if scope["path"] == "/ws/boom":
            raise RuntimeError("in a websocket")
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})
        self.codes.append(message["code"])


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def respond(
    send: Any, body: bytes, *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """Speaks bytes over one connection."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._buffer = BufferedByteReceiveStream(stream)

    async def send(self, data: bytes | str) -> None:
        await self.stream.send(data.encode() if isinstance(data, str) else data)

    async def get(self, path: str, *headers: str) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]
        await self.send("\r\n".join(lines))

    async def post(self, path: str, body: bytes, *headers: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode() + body)

    async def head(self) -> Response:
        raw = (await self._buffer.receive_until(b"\r\n\r\n", 65536)).decode()
        first, *lines = raw.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Response(int(first.split()[1]), headers, b"")

    async def response(self, *, to_head: bool = False) -> Response:
        response = await self.head()
        if not to_head and "content-length" in response.headers:
            length = int(response.headers["content-length"])
            response.body = await self._buffer.receive_exactly(length) if length else b""
        return response

    async def receive(self) -> bytes:
        """Some bytes, or nothing once the server has closed."""
        try:
            return await self._buffer.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return b""

    async def rest(self) -> bytes:
        """All bytes until the server closes."""
        data = b""
        while more := await self.receive():
            data += more
        return data


@dataclass
class Served:
    """A running server."""

    server: HTTPServer
    app: ProbeApp
    port: int
    scheme: str
    tasks: TaskGroup
    scope: anyio.CancelScope
    ended: anyio.Event

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[RawClient]:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            yield RawClient(stream)

    async def until_no_connections(self) -> None:
        while self.server.open_connections:
            await anyio.sleep(0.005)

    async def until_ended(self, within: float = TIME_LIMIT) -> None:
        with anyio.fail_after(within):
            await self.ended.wait()


Serving = Callable[..., AbstractAsyncContextManager[Served]]


def living_tasks(backend: str) -> int:
    if backend == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    import asyncio

    return len(asyncio.all_tasks())


def open_sockets() -> int:
    return sum(1 for fd in os.listdir("/proc/self/fd") if _is_socket(fd))


def _is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


@pytest.fixture
def serving(anyio_backend: str) -> Serving:
    """Serves an application; fails if a task or socket is left when the server has ended."""

    @asynccontextmanager
    async def serve(
        *,
        limits: ServerLimits | None = None,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        app: Any = None,
    ) -> AsyncIterator[Served]:
        tasks, sockets = living_tasks(anyio_backend), open_sockets()
        probe = ProbeApp()
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tg:
                server = HTTPServer(app or probe, bind("127.0.0.1", 0), ssl_context=tls, limits=limits)
                scope, ended = anyio.CancelScope(), anyio.Event()

                async def run(*, task_status: Any) -> None:
                    with scope:
                        await server.serve(task_status=task_status)
                    ended.set()

                ((_, port),) = await tg.start(run)
                yield Served(server, probe, port, "https" if tls else "http", tg, scope, ended)
                server.drain()
                scope.cancel()
                with anyio.fail_after(5):
                    await ended.wait()
                assert server.open_connections == 0
                tg.cancel_scope.cancel()
        for _ in range(100):  # the clients' own ends, and asyncio's transports, take a few turns of the loop
            if living_tasks(anyio_backend) <= tasks and open_sockets() <= sockets:
                break
            await anyio.lowlevel.checkpoint()
        assert living_tasks(anyio_backend) <= tasks
        assert open_sockets() <= sockets

    return serve


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    return ssl_context(folder / "cert.pem", folder / "key.pem")


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
