"""HTTP/2 clients that send what costs them nothing: their connections end, and others are served meanwhile."""

import struct

import anyio
import anyio.lowlevel
import httpx2
import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded
from loopback.http2 import open_h2

from definable.server import ServerLimits
from definable.server.hypercorn.h2 import BATCH, H2

pytestmark = pytest.mark.anyio

FLOODS = {
    "settings": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "pings": b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8),
    "priorities": b"\x00\x00\x05\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00\x10",
    "window updates": b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
    "empty data": b"\x00\x00\x00\x00\x00\x00\x00\x00\x01",
    "resets": b"\x00\x00\x04\x03\x00\x00\x00\x00\x01" + bytes(4),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_its_connection(serving, server_tls, client_tls, kind):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/watch", "POST", end=False)
            await served.app.until(lambda: served.app.arrived == 1)
            await client.stream.send(FLOODS[kind] * 1500)
            end = await client.until(ConnectionTerminated)
            assert end.error_code == ErrorCodes.ENHANCE_YOUR_CALM
            await served.app.until(lambda: served.app.disconnects == 1)


async def test_answers_of_a_connection_that_ends_are_no_failures_of_the_application(
    serving, server_tls, client_tls, monkeypatch, caplog
):
    async def disconnected(connection):
        served.app.release.set()
        await served.app.until(lambda: served.app.finished == 2)
        await disconnect(connection)

    disconnect = H2.disconnected
    monkeypatch.setattr(H2, "disconnected", disconnected)
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/hold")
            await client.request("/hold")
            await client.request("/watch", "POST", end=False)
            await served.app.until(lambda: served.app.arrived == 3)
            await client.stream.send(FLOODS["settings"] * 1500)
            await served.app.until(lambda: served.app.finished == 3)
    assert "error in the application" not in caplog.text


async def test_others_get_their_turn_while_frames_keep_coming(serving, server_tls, client_tls, monkeypatch):
    turns, during = 0, []

    async def watch():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async def data(connection, received):
        before = turns
        await take(connection, received)
        during.append((len(received), turns - before))

    take = H2.data
    monkeypatch.setattr(H2, "data", data)
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream, anyio.create_task_group() as group:
            group.start_soon(watch)
            await client.stream.send(FLOODS["settings"] * 900)
            await client.request("/echo")
            await client.until(StreamEnded)
            group.cancel_scope.cancel()
    size, taken = max(during)
    assert size > 4500
    assert taken >= size // len(FLOODS["settings"]) // BATCH


async def test_a_frame_that_is_too_long_is_refused_before_it_has_come(serving, server_tls, client_tls):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.stream.send(
                struct.pack("!I", 16 * 1024 * 1024 - 1)[1:] + b"\x00\x00\x00\x00\x00\x01" + bytes(1000)
            )
            end = await client.until(ConnectionTerminated)
            assert end.error_code == ErrorCodes.FRAME_SIZE_ERROR


async def test_a_python_client_gets_its_answers_over_a_drain(serving, server_tls, client_tls):
    """httpx on h2 reads no response after a GOAWAY, so none comes before the last answer."""
    statuses = []
    async with serving(tls=server_tls) as served, httpx2.AsyncClient(http2=True, verify=client_tls) as client:

        async def ask():
            response = await client.get(f"{served.url}/hold")
            statuses.append((response.http_version, response.status_code))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
            await served.app.until(lambda: served.app.arrived == 5)
            served.server.drain()
            await anyio.wait_all_tasks_blocked()
            served.app.release.set()
        assert statuses == [("HTTP/2", 200)] * 5
        await served.until_ended(within=3)


async def test_an_idle_client_is_told_which_requests_were_answered_and_not_cut(serving, server_tls, client_tls):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            stream_id = await client.request("/echo")
            await client.until(StreamEnded)
            served.server.drain()
            await anyio.wait_all_tasks_blocked()  # the end is on its way; what comes before it would be answered
            await client.request("/echo")  # crosses it
            end = await client.until(ConnectionTerminated)
            assert (end.error_code, end.last_stream_id) == (ErrorCodes.NO_ERROR, stream_id)
            with pytest.raises(anyio.EndOfStream):  # a `close_notify`, no reset
                while True:
                    await client.stream.receive()
        assert len([event for event in client.seen if isinstance(event, ResponseReceived)]) == 1
        await served.until_ended(within=2)


async def test_a_body_that_stops_at_a_drain_holds_it_no_longer_than_its_silence(serving, server_tls, client_tls):
    async with serving(tls=server_tls, limits=ServerLimits(last_silence_timeout=0.1)) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            stream_id = await client.request("/echo", "POST", end=False)
            client.connection.send_data(stream_id, b"half")
            await client.flush()
            await served.app.until(lambda: served.app.arrived == 1)
            served.server.drain()
            response = await client.until(ResponseReceived)
            assert dict(response.headers)[b":status"] == b"408"
            assert isinstance(await client.until(ConnectionTerminated), ConnectionTerminated)
        await served.until_ended(within=3)
