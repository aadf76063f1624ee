"""WebSockets over HTTP/1.1, driven by wsproto's client."""

import gc
import struct
import tracemalloc
import zlib
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
from wsproto.extensions import PerMessageDeflate

from definable.server import ServerLimits

pytestmark = pytest.mark.anyio


class Client:
    def __init__(self, raw):
        self.raw = raw
        self.connection = WSConnection(ConnectionType.CLIENT)
        self.events = []

    async def send(self, event):
        await self.raw.send(self.connection.send(event))

    async def receive(self):
        """What comes next, but for pings."""
        while isinstance(event := await self.frame(), Ping):
            pass
        return event

    async def frame(self):
        while not self.events:
            data = await self.raw.receive()
            self.connection.receive_data(data or None)
            self.events.extend(self.connection.events())
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


def frame(payload, *, opcode=2, fin=True, compressed=False):
    """A client's frame; the mask is zero, so that the payload stands there as it is."""
    head = bytes([0x80 * fin | 0x40 * compressed | opcode])
    size = len(payload)
    length = (
        bytes([0x80 | size])
        if size < 126
        else struct.pack("!BH" if size < 65536 else "!BQ", 254 + (size > 65535), size)
    )
    return head + length + bytes(4) + payload


def deflated(data):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@asynccontextmanager
async def connect_deflated(served):
    async with served.client() as raw:
        client = Client(raw)
        client.connection = WSConnection(ConnectionType.CLIENT)
        await client.send(Request(host="test", target="/ws", extensions=[PerMessageDeflate()]))
        accepted = await client.receive()
        assert [extension.name for extension in accepted.extensions] == ["permessage-deflate"]
        yield client


async def test_compressed_messages_come_back(serving):
    async with serving() as served, connect_deflated(served) as client:
        for text in ("grüezi", "", "x" * 300_000, "and again"):
            await client.send(TextMessage(text))
            back = ""
            while True:
                event = await client.receive()
                back += event.data
                if event.message_finished:
                    break
            assert back == text


@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_compressed_message_is_not_inflated_beyond_the_limit(serving, fragments):
    limit = 100_000
    bomb = deflated(bytes(50_000_000))
    pieces = [
        bomb[start : start + len(bomb) // fragments + 1] for start in range(0, len(bomb), len(bomb) // fragments + 1)
    ]
    async with serving(limits=ServerLimits(max_message_bytes=limit)) as served, connect_deflated(served) as client:
        await client.raw.send(frame(deflated(bytes(limit)), compressed=True))
        back = 0
        while back < limit:
            back += len((await client.receive()).data)
        tracemalloc.start()
        try:
            for number, piece in enumerate(pieces):
                last = number == len(pieces) - 1
                data = frame(piece, opcode=0 if number else 2, fin=last, compressed=not number)
                await client.raw.send(data)
            close = await client.receive()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (close.code, close.reason) == (1009, f"messages have at most {limit} bytes")
        assert peak < 20 * limit


async def test_a_broken_frame_is_answered_with_the_code_that_says_so(serving):
    async with serving() as served, connect(served) as client:
        await client.receive()
        await client.raw.send(frame(b"\xff\xfe", opcode=1))
        assert (await client.receive()).code == 1007


async def test_a_text_is_measured_in_bytes(serving):
    async with serving(limits=ServerLimits(max_message_bytes=1000)) as served, connect(served) as client:
        await client.receive()
        await client.raw.send(frame(("ü" * 501).encode(), opcode=1))
        assert (await client.receive()).code == 1009


async def test_all_messages_that_nobody_reads_share_a_bound(serving, caplog):
    limits = ServerLimits(max_message_bytes=300_000, max_websocket_bytes=500_000)
    half = frame(bytes(290_000), fin=False)
    async with serving(limits=limits) as served, connect(served) as first, connect(served) as second:
        for client in (first, second):
            await client.receive()
            await client.raw.send(half)
        async with connect(served) as third, connect(served) as small:
            await third.receive()
            await small.receive()
            await third.raw.send(half)
            close = await third.receive()
            assert (close.code, close.reason) == (1013, "the server is out of memory for messages")
            await small.send(TextMessage("still here"))
            assert (await small.receive()).data == "still here"
        await first.raw.send(frame(b"", opcode=0))
        size = 0
        while size < 290_000:
            size += len((await first.receive()).data)
        async with connect(served) as fourth:
            await fourth.receive()
            await fourth.send(BytesMessage(bytes(250_000)))
            assert (await fourth.receive()).data
    assert "1013" in caplog.text


async def test_a_connection_that_failed_leaves_no_message_in_memory(serving):
    limits = ServerLimits(max_message_bytes=2_000_000, max_websocket_bytes=100_000)
    large = frame(deflated(bytes(1_000_000)), fin=False, compressed=True)
    async with serving(limits=limits) as served:
        gc.collect()
        gc.disable()  # what is in a cycle stays for as long as the collector does not come
        tracemalloc.start()
        try:
            for _ in range(10):
                async with connect_deflated(served) as client:
                    await client.raw.send(large)
                    assert (await client.receive()).code == 1013
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            gc.enable()
        assert held < 3_000_000


async def test_no_ping_comes_before_its_interval(serving):
    async with serving() as served, connect(served) as client:
        await client.receive()
        await client.send(TextMessage("hello"))
        assert (await client.frame()).data == "hello"


async def test_a_quiet_connection_is_pinged(serving):
    async with serving(limits=ServerLimits(ping_interval=0.05)) as served, connect(served) as client:
        await client.receive()
        for _ in range(2):
            assert isinstance(await client.frame(), Ping)


async def test_a_ping_may_come_between_the_fragments_of_a_compressed_message(serving):
    async with serving() as served, connect_deflated(served) as client:
        message = b"one and two and three" * 1000
        compressed = deflated(message)
        half = len(compressed) // 2
        for _ in range(2):
            await client.raw.send(frame(b"", opcode=9))
            assert await client.receive() == Pong(b"")
            await client.raw.send(frame(compressed[:half], fin=False, compressed=True))
            await client.raw.send(frame(b"here?", opcode=9))
            assert await client.receive() == Pong(b"here?")
            await client.raw.send(frame(compressed[half:], opcode=0))
            back = b""
            while len(back) < len(message):
                back += (await client.receive()).data
            assert back == message
