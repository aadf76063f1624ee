"""When the server itself fails, most of all hypercorn in its lane: one connection ends, and the server goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

from definable.server.hypercorn.websocket import WebSocketStream
from definable.server.transport import Transport

pytestmark = pytest.mark.anyio

FRAME = b"\x81\x85\x00\x00\x00\x00hello"
"""A text message, masked with zeros."""


class HypercornBroke(Exception):
    """What nobody foresees."""


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a method fail, where its arguments meet a condition."""

    def break_method(owner: type, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        method = getattr(owner, name)

        async def broken(self: Any, *args: Any) -> Any:
            if when(*args):
                raise HypercornBroke(name)
            return await method(self, *args)

        monkeypatch.setattr(owner, name, broken)

    return break_method


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    """The errors that were logged, and the type of what was raised."""
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return [(record.getMessage(), cause(record.exc_info and record.exc_info[1])) for record in records]


def cause(error: Any) -> object:
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    return type(error)


async def open_websocket(client: Any, path: str = "/ws") -> None:
    await client.send(WSConnection(ConnectionType.CLIENT).send(Request(host="test", target=path)))


async def assert_serves_others(served: Any) -> None:
    async with served.client() as client:
        await client.post("/echo", b"hello")
        assert (await client.response()).body == b"hello"


async def test_what_a_client_sends_breaks_its_connection_alone(serving, breaks, caplog):
    breaks(WebSocketStream, "_handle_events")
    async with serving() as served, served.client() as client:
        await open_websocket(client)
        assert (await client.head()).status == 101
        await client.send(FRAME)
        await client.rest()
        await served.app.until(lambda: served.app.codes == [1006])
        await assert_serves_others(served)
    assert said(caplog) == [("a connection failed", HypercornBroke)]


async def test_an_exchange_that_cannot_be_ended_ends_its_connection_alone(serving, breaks, caplog):
    breaks(WSStream, "app_send", lambda message: message is None)
    async with serving() as served, served.client() as client:
        await open_websocket(client, "/ws/boom")
        assert (await client.head()).status == 101
        await client.rest()
        await served.until_no_connections()
        await assert_serves_others(served)
    assert said(caplog) == [
        ("error in the application, in WebSocket '/ws/boom'", RuntimeError),
        ("a request failed in the server", HypercornBroke),
    ]


async def test_a_task_of_the_protocol_that_fails_ends_its_connection_alone(serving, breaks, caplog):
    breaks(WebSocketStream, "_send_pings")
    async with serving() as served, served.client() as client:
        await open_websocket(client)
        assert (await client.head()).status == 101
        await client.rest()
        await served.app.until(lambda: served.app.codes == [1006])
        await assert_serves_others(served)
    assert said(caplog) == [("a connection failed", HypercornBroke)]


async def test_an_application_that_cannot_be_told_of_the_end_is_cut_off(serving, breaks, caplog):
    breaks(WSStream, "handle", lambda event: isinstance(event, StreamClosed))
    async with serving() as served:
        async with served.client() as client:
            await open_websocket(client)
            assert (await client.head()).status == 101
        await served.until_no_connections()
        await assert_serves_others(served)
        assert (served.app.arrived, served.app.finished) == (2, 1)
    assert said(caplog) == [("a connection failed", HypercornBroke)]


@pytest.mark.parametrize("where", ["in the cycle", "on leaving"])
async def test_what_fails_while_the_server_is_cut_off_does_not_come_out_of_it(serving, breaks, caplog, where):
    if where == "in the cycle":
        breaks(WSStream, "app_send", lambda message: message is not None and message["type"] == "websocket.close")
    breaks(WSStream, "handle", lambda event: isinstance(event, StreamClosed))
    breaks(Transport, "linger")
    async with serving() as served, served.client() as client:
        await open_websocket(client)
        assert (await client.head()).status == 101
        served.scope.cancel()
        await served.until_ended(within=3)
        await client.rest()
    assert {error for _, error in said(caplog)} <= {HypercornBroke}


@pytest.mark.parametrize("method", ["initiate", "send_task", "handle"])
async def test_an_http_2_connection_that_fails_ends_alone(serving, breaks, caplog, server_tls, client_tls, method):
    breaks(H2Protocol, method)
    async with serving(tls=server_tls) as served:
        async with httpx2.AsyncClient(base_url=served.url, verify=client_tls, http2=True) as client:
            with pytest.raises(httpx2.TransportError):
                await client.get("/echo")
        await served.until_no_connections()
        async with httpx2.AsyncClient(base_url=served.url, verify=client_tls) as client:
            assert (await client.get("/echo")).status_code == 200
    assert {error for _, error in said(caplog)} == {HypercornBroke}
    assert {message for message, _ in said(caplog)} == {"a connection failed"}


async def test_an_http_2_stream_that_cannot_be_ended_ends_its_connection_alone(
    serving, breaks, caplog, server_tls, client_tls
):
    breaks(HTTPStream, "app_send", lambda message: message is None)
    async with serving(tls=server_tls) as served:
        async with httpx2.AsyncClient(base_url=served.url, verify=client_tls, http2=True) as client:
            with pytest.raises(httpx2.TransportError):
                await client.get("/cut")
        await served.until_no_connections()
    assert said(caplog) == [
        ("error in the application, in GET '/cut'", RuntimeError),
        ("a request failed in the server", HypercornBroke),
    ]


async def test_a_last_response_that_fails_does_not_hold_the_end(serving, breaks, caplog):
    caplog.set_level(logging.DEBUG, "definable.http")
    breaks(WSStream, "app_send", lambda message: message is not None and message["type"] == "websocket.close")
    async with serving() as served, served.client() as client:
        await open_websocket(client)
        assert (await client.head()).status == 101
        served.scope.cancel()
        await served.until_ended(within=3)
        await client.rest()
    assert said(caplog) == []
    assert "cannot send the last response in WebSocket '/ws'" in caplog.text


async def test_a_connection_whose_end_cannot_be_waited_for_is_closed_all_the_same(serving, breaks, caplog):
    breaks(Transport, "linger")
    async with serving() as served:
        async with served.client() as client:
            await client.send("NO REQUEST\r\n\r\n")
            assert (await client.response()).status == 400
            assert await client.rest() == b""
        await served.until_no_connections()
        await assert_serves_others(served)
    assert {error for _, error in said(caplog)} == {HypercornBroke}


async def test_a_stop_cuts_a_refusal_of_a_handshake_that_has_begun(serving, caplog):
    caplog.set_level(logging.DEBUG, "definable.http")
    begun = anyio.Event()

    async def app(scope, receive, send):
        await receive()
        headers = [(b"content-length", b"100")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
        begun.set()
        await anyio.sleep_forever()

    async with serving(app=app) as served, served.client() as client:
        await open_websocket(client)
        await begun.wait()
        served.scope.cancel()
        assert (await client.head()).status == 401
        assert await client.rest() == b"not "
        await served.until_ended(within=3)
    assert said(caplog) == []
