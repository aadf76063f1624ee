"""The WebSocket on either backend: how it ends, whatever the peer does."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from loopback.socks_proxy import SocksProxy
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from definable.agent.interface import InterfaceConnectionError
from definable.agent.interface.websocket import CLOSE_TIMEOUT, SocketClosed, open_websocket
from definable.errors import MissingExtra

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def peer(*then: Event) -> AsyncGenerator[str, None]:
    """Accepts a WebSocket; sends what is given and hangs up, or does nothing more at all."""

    async def greet(stream: SocketStream) -> None:
        async with stream:
            ws = WSConnection(ConnectionType.SERVER)
            ws.receive_data(await stream.receive())
            assert any(isinstance(event, Request) for event in ws.events())
            for event in (AcceptConnection(), *then):
                await stream.send(ws.send(event))
            if not then:
                await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
        tasks.cancel_scope.cancel()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux shows them")
@pytest.mark.parametrize("sends", [True, False])
async def test_a_cancelled_connection_is_closed_in_time_also_with_a_full_send_buffer(sends: bool) -> None:
    async with peer() as url:
        before, began = open_files(), anyio.current_time()
        with anyio.move_on_after(0.3) as scope:
            async with open_websocket(url, 5) as socket:
                while sends:
                    await socket.send("x" * 1_000_000)
                await socket.receive()
        assert scope.cancelled_caught
        assert anyio.current_time() - began < 0.3 + CLOSE_TIMEOUT + 1
        await anyio.wait_all_tasks_blocked()
        assert open_files() <= before + 1, "but for the peer's end"


async def test_the_peers_close_code_is_told() -> None:
    async with peer(CloseConnection(4014, "Disallowed intent(s).")) as url:
        with anyio.fail_after(10):
            async with open_websocket(url, 5) as socket:
                with pytest.raises(SocketClosed) as caught:
                    await socket.receive()
    assert (caught.value.code, caught.value.reason) == (4014, "Disallowed intent(s).")


async def test_messages_that_nobody_takes_do_not_hold_up_the_end() -> None:
    async with peer(*[TextMessage("{}")] * 100) as url:
        with anyio.fail_after(CLOSE_TIMEOUT + 3):
            async with open_websocket(url, 5) as socket:
                await socket.receive()
                await anyio.sleep(0.1)  # more come than the connection holds, and it stops reading


@pytest.mark.parametrize("answer", ["an unknown certificate", "no TLS", "nothing", "no HTTP"])
async def test_a_server_that_cannot_be_talked_to_is_one_error(answer: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def greet(stream: SocketStream) -> None:
        async with stream:
            if answer == "an unknown certificate":
                with contextlib.suppress(anyio.BrokenResourceError, ssl.SSLError):
                    await TLSStream.wrap(stream, ssl_context=context, server_side=True)
            elif answer != "nothing":
                await stream.receive()
                await stream.send(b"SSH-2.0-OpenSSH_9.6\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        scheme, port = "ws" if answer == "no HTTP" else "wss", listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(10), pytest.raises(InterfaceConnectionError, match="no WebSocket at"):
            async with open_websocket(f"{scheme}://127.0.0.1:{port}/", 5):
                pass
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "ws://", "nonsense"])
async def test_what_is_no_address_is_the_same_error(url: str) -> None:
    with pytest.raises(InterfaceConnectionError, match="no WebSocket at"):
        async with open_websocket(url, 5):
            pass


async def test_nobody_there() -> None:
    with pytest.raises(InterfaceConnectionError, match="no WebSocket at"):
        async with open_websocket("ws://127.0.0.1:9/", 5):
            pass


async def test_an_error_within_closes_and_comes_out_as_it_is() -> None:
    async with peer() as url:
        with pytest.raises(ZeroDivisionError), anyio.fail_after(10):
            async with open_websocket(url, 5):
                raise ZeroDivisionError


async def test_a_socks_proxy_is_gone_through() -> None:
    proxy = SocksProxy(hosts={"pigeon.invalid": "127.0.0.1"})
    async with proxy.running(), peer(TextMessage("coo"), CloseConnection(4000)) as url:
        url = url.replace("127.0.0.1", "pigeon.invalid")
        async with open_websocket(url, 5, proxy=proxy.url) as socket:
            assert await socket.receive() == "coo"
    assert proxy.connected == [url.removeprefix("ws://").rstrip("/")]


async def test_without_the_extra_a_socks_proxy_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("definable.agent.interface.websocket.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"definable\[socks\]"):
        async with open_websocket("ws://pigeon.invalid/", 5, proxy="socks5://127.0.0.1:9"):
            pass
