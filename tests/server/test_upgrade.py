"""One parser reads all of HTTP/1: what is refused without an `Upgrade` is refused with one, and behind one."""

import socket
import struct

import pytest
from anyio.abc import SocketAttribute

pytestmark = pytest.mark.anyio

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
"""What the JDK's HttpClient and `curl --http2` send to a cleartext URL."""

GET = b"GET /echo HTTP/1.1\r\nHost: t\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: t\r\n"

REFUSED = {
    "obs-fold": (POST, b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello"),
    "bare LF after a header": (POST, b"Content-Length: 5\nX: a\r\n\r\nhello"),
    "bare LF after all lines": (b"POST /echo HTTP/1.1\nHost: t\n", b"Content-Length: 5\n\nhello"),
    "length twice": (POST, b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "length in a list": (POST, b"Content-Length: 5, 5\r\n\r\nhello"),
    "signed length": (POST, b"Content-Length: +5\r\n\r\nhello"),
    "length and chunks": (POST, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "unknown coding": (POST, b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    "coding with a comma": (POST, b"Transfer-Encoding: chunked,\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    "bare LF after a chunk's size": (POST, b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    "bare LF after a chunk": (POST, b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n"),
    "bare LF after a chunk's extension": (POST, b"Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n"),
    "length in a trailer": (POST, b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "two hosts": (GET, b"Host: u\r\n\r\n"),
    "no host": (b"GET /echo HTTP/1.1\r\n", b"\r\n"),
    "space before a colon": (GET, b"X : a\r\n\r\n"),
    "control character": (GET, b"X: a\x0bb\r\n\r\n"),
    "lower-case method": (b"get /echo HTTP/1.1\r\nHost: t\r\n", b"\r\n"),
    "unknown method": (b"FOO /echo HTTP/1.1\r\nHost: t\r\n", b"\r\n"),
    "unknown version": (b"GET /echo HTTP/1.2\r\nHost: t\r\n", b"\r\n"),
    "large head": (GET, b"X: " + b"y" * 70_000 + b"\r\n\r\n"),
    "tunnel": (b"CONNECT a:1 HTTP/1.1\r\nHost: t\r\n", b"\r\n"),
}
"""The first lines of a head, and what follows them."""


@pytest.mark.parametrize("way", ["alone", "behind an upgrade", "with an upgrade", "in a websocket handshake"])
@pytest.mark.parametrize(("begin", "rest"), REFUSED.values(), ids=REFUSED)
async def test_it_is_refused_with_or_without_an_upgrade(serving, way, begin, rest):
    async with serving() as served, served.client() as client:
        if way == "behind an upgrade":
            await client.send(GET + UPGRADE + b"\r\n")
            assert (await client.response()).status == 200
        handshake = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        handshake += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        lines = {"with an upgrade": UPGRADE, "in a websocket handshake": handshake}.get(way, b"")
        await client.send(begin + lines + rest)
        response = await client.response()
        assert response.status in (400, 431, 501, 505)
        assert response.headers["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.parametrize("how", ["closes", "resets", "closes its side"])
async def test_a_client_that_asked_for_an_upgrade_and_leaves_is_noticed(serving, how):
    async with serving() as served, served.client() as client:
        await client.send(b"GET /watch HTTP/1.1\r\nHost: t\r\n" + UPGRADE + b"\r\n")
        await served.app.until(lambda: served.app.arrived == 1)
        if how == "closes its side":
            await client.stream.send_eof()
        else:
            if how == "resets":
                sock = client.stream.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.stream.aclose()
        await served.app.until(lambda: served.app.disconnects == 1)


async def test_a_connection_goes_on_behind_an_upgrade_that_is_ignored(serving):
    async with serving() as served, served.client() as client:
        for body in (b"one", b"two"):
            await client.send(POST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            response = await client.response()
            assert (response.status, response.body) == (200, body)
            assert "connection" not in response.headers
