"""What no honest client sends: each is answered or closed, and the server goes on for everybody else."""

import json

import anyio
import pytest

from definable.server import ServerLimits

pytestmark = pytest.mark.anyio

HOST = b"Host: test\r\n"
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAME = b"\x81\x82\x00\x00\x00\x00hi"
CLOSE_FRAME = b"\x88\x82\x00\x00\x00\x00\x03\xe8"

HOSTILE = {
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n", 400),
    "garbage": (b"\x00\xff\xfe garbage\r\n\r\n", 400),
    "bad request line": (b"GET\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "space in header name": (b"GET / HTTP/1.1\r\n" + HOST + b"X y: z\r\n\r\n", 400),
    "bare control character": (b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n", 400),
    "huge header": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    "endless request line": (b"GET /" + b"a" * 200_000, 431),
    "conflicting content-length": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
    ),
    "negative content-length": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
    "absurd content-length": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "unknown transfer coding": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk garbage": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nboo", 400),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505),
    "HTTP/3.7": (b"GET / HTTP/3.7\r\n" + HOST + b"\r\n", 505),
    "connect": (b"CONNECT evil:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "no path": (b"GET evil HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "query without path": (b"GET ?a=b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "foreign scheme": (b"GET ftp://evil/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "broken address": (b"GET http://[::1/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "websocket without key": (
        b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        400,
    ),
    "frame in the websocket handshake": (WEBSOCKET.replace(b"/ws", b"/ws/hold") + FRAME, 400),
}

FRAMES = {
    "garbage": b"\xff" * 100,
    "unmasked frame": b"\x81\x02hi",
    "frames after the close": CLOSE_FRAME + FRAME * 10,
    "invalid UTF-8": b"\x81\x82\x00\x00\x00\x00\xff\xfe",
    "huge frame": b"\x82\xff" + b"\x7f" * 8 + b"\x00" * 1000,
}


async def assert_serves_others(served):
    async with served.client() as client:
        await client.post("/echo", b"still here")
        assert (await client.response()).body == b"still here"


@pytest.mark.parametrize(("data", "status"), HOSTILE.values(), ids=HOSTILE)
async def test_it_is_answered_with_a_problem_and_the_connection_ends(serving, caplog, data, status):
    async with serving() as served:
        async with served.client() as client:
            await client.send(data)
            response = await client.response()
            assert response.status == status
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["connection"] == "close"
            problem = json.loads(response.body)
            assert problem["status"] == status
            assert problem["detail"]
            assert await client.rest() == b""
        await assert_serves_others(served)
    assert not caplog.records


async def test_who_is_still_sending_gets_to_read_the_refusal_and_no_reset(serving):
    async with serving() as served, served.client() as client:
        await client.send(b"GET / HTTP/3.7\r\n" + HOST + b"\r\n" + b"x" * 2_000_000)
        assert (await client.response()).status == 505
        with pytest.raises(anyio.EndOfStream):
            await client.stream.receive()


async def test_a_body_that_breaks_while_it_is_answered_cuts_the_answer_and_gets_no_second_one(serving, caplog):
    async with serving() as served:
        async with served.client() as client:
            await client.send(b"POST /sse HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
            assert (await client.head()).status == 200
            await client.send(b"zz\r\nboo")
            assert b"HTTP/1.1" not in await client.rest()
        await served.app.until(lambda: served.app.disconnects == 1)
        await assert_serves_others(served)
    assert not caplog.records


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
async def test_bad_frames_end_their_websocket_alone(serving, caplog, data):
    async with serving(limits=ServerLimits(max_message_bytes=100)) as served:
        async with served.client() as client:
            await client.send(WEBSOCKET)
            assert (await client.head()).status == 101
            await client.send(data)
            await client.rest()
        await assert_serves_others(served)
    assert not caplog.records


async def test_frames_sent_with_the_handshake_end_their_websocket_alone(serving, caplog):
    async with serving() as served:
        for frame in FRAMES.values():
            async with served.client() as client:
                await client.send(WEBSOCKET + frame)
                await client.rest()
        await assert_serves_others(served)
    assert not caplog.records


async def test_an_upgrade_to_cleartext_http_2_is_ignored(serving):
    async with serving() as served, served.client() as client:
        await client.get("/echo", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
        assert (await client.response()).status == 200


async def test_a_thousand_pipelined_requests_in_one_packet_are_served(serving):
    async with serving() as served, served.client() as client:
        await client.send(b"GET /echo HTTP/1.1\r\nHost: t\r\n\r\n" * 1000)
        for _ in range(1000):
            assert (await client.response()).status == 200


async def test_many_clients_that_hang_up_at_once_leave_nothing(serving):
    async with serving() as served:
        for data in [b"", b"GET", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nx", WEBSOCKET]:
            for _ in range(50):
                async with served.client() as client:
                    await client.send(data)
        await served.until_no_connections()
