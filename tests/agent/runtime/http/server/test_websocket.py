"""WebSockets over HTTP/1.1, driven by wsproto's client."""

from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from definable.agent.runtime.http.server import ServerLimits

pytestmark = pytest.mark.anyio


class Client:
    def __init__(self, raw):
        self.raw = raw
        self.connection = WSConnection(ConnectionType.CLIENT)
        self.events = []

    async def send(self, event):
        await self.raw.send(self.connection.send(event))

    async def receive(self):
        while not self.events:
            data = await self.raw.receive()
            self.connection.receive_data(data or None)
            self.events.extend(event for event in self.connection.events() if not isinstance(event, Ping))
        return self.events.pop(0)


@asynccontextmanager
async def connect(served, path="/ws"):
    async with served.client() as raw:
        client = Client(raw)
        await client.send(Request(host="test", target=path))
        yield client


async def test_messages_come_back(serving):
    async with serving() as served, connect(served) as client:
        assert isinstance(await client.receive(), AcceptConnection)
        await client.send(TextMessage("grüezi"))
        assert (await client.receive()).data == "grüezi"
        await client.send(BytesMessage(b"\x00" * 100_000))
        data = b""
        while len(data) < 100_000:
            data += (await client.receive()).data
        await client.send(Ping(b"here?"))
        assert await client.receive() == Pong(b"here?")
        await client.send(CloseConnection(1000))
        assert (await client.receive()).code == 1000
        await served.app.until(lambda: bool(served.app.codes))


async def test_a_handshake_may_be_denied(serving):
    async with serving() as served, connect(served, "/ws/deny") as client:
        rejection = await client.receive()
        assert (type(rejection), rejection.status_code) == (RejectConnection, 403)
        body = await client.receive()
        assert isinstance(body, RejectData) and b'"status":403,"detail":"' in body.data


async def test_a_client_that_vanishes_is_told_to_the_application(serving):
    async with serving() as served:
        async with connect(served) as client:
            await client.receive()
        await served.app.until(lambda: served.app.codes == [1006])


async def test_an_application_that_fails_closes_with_1011(serving, caplog):
    async with serving() as served, connect(served, "/ws/boom") as client:
        await client.receive()
        assert (await client.receive()).code == 1011
    assert "in a websocket" in caplog.text


async def test_a_stop_closes_with_1012(serving):
    async with serving() as served, connect(served) as client:
        await client.receive()
        served.scope.cancel()
        close = await client.receive()
        assert (close.code, close.reason) == (1012, "server restart")
        await served.until_ended(within=3)


async def test_a_stop_before_the_accept_is_a_503(serving):
    async with serving() as served, connect(served, "/ws/hold") as client:
        await served.app.until(lambda: served.app.arrived == 1)
        served.scope.cancel()
        rejection = await client.receive()
        assert (type(rejection), rejection.status_code) == (RejectConnection, 503)
        assert {b"connection": b"close", b"retry-after": b"5"}.items() <= dict(rejection.headers).items()
        await served.until_ended(within=3)


async def test_a_message_beyond_the_limit_closes_with_1009(serving):
    async with serving(limits=ServerLimits(max_message_bytes=1000)) as served, connect(served) as client:
        await client.receive()
        await client.send(BytesMessage(b"x" * 1001))
        assert (await client.receive()).code == 1009


async def test_a_message_of_just_the_limit_comes_back(serving):
    async with serving(limits=ServerLimits(max_message_bytes=1000)) as served, connect(served) as client:
        await client.receive()
        for _ in range(2):
            await client.send(BytesMessage(b"x" * 1000))
            assert (await client.receive()).data == b"x" * 1000
        assert served.app.codes == []


async def test_a_client_that_stays_after_a_message_beyond_the_limit_is_not_waited_for(serving):
    async with serving(limits=ServerLimits(max_message_bytes=1000)) as served, connect(served) as client:
        await client.receive()
        await client.send(BytesMessage(b"x" * 1001))
        await served.app.until(lambda: len(served.app.codes) == 1)
        with anyio.fail_after(5):
            await served.until_no_connections()
        assert client is not None


async def test_the_application_is_told_what_asgi_has_it_told_of_a_handshake(serving):
    async with serving() as served, served.client() as raw:
        client = Client(raw)
        request = Request(
            host="t", target="/ws/a%20b?c=%20d", subprotocols=["one", "two"], extra_headers=[(b"X-Y", b"z")]
        )
        await client.send(request)
        assert isinstance(await client.receive(), AcceptConnection)
        (scope,) = served.app.scopes
        headers = scope["headers"]
        assert (b"host", b"t") in headers and (b"x-y", b"z") in headers
        names = ("type", "http_version", "scheme", "path", "raw_path", "query_string", "root_path", "subprotocols")
        assert [scope[name] for name in names] == [
            "websocket",
            "1.1",
            "ws",
            "/ws/a b",
            b"/ws/a%20b",
            b"c=%20d",
            "",
            ["one", "two"],
        ]
        assert scope["client"] == raw.stream.extra(SocketAttribute.local_address)
        assert scope["server"] == ("127.0.0.1", served.port)


async def test_a_client_that_does_not_answer_the_close_is_not_waited_for(serving):
    async with serving() as served, connect(served, "/ws/boom") as client:
        await served.app.until(lambda: served.app.arrived == 1)
        with anyio.fail_after(3):
            await served.until_no_connections()
        assert client is not None


async def test_an_accept_after_a_handshake_that_failed_is_not_heard(serving, caplog):
    async with serving() as served, connect(served, "/ws/hold") as client:
        await client.raw.send(b"\x81\x82\x00\x00\x00\x00hi")
        rejection = await client.receive()
        assert rejection.status_code == 400
        served.app.release.set()
        await served.app.until(lambda: served.app.finished == 1)
        assert served.app.codes == [1006]
    assert not caplog.records
