"""The HTTP client of the chat platforms against a loopback server: tokens, proxies, retries, bounds."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from loopback.socks_proxy import SocksProxy

from definable.agent.interface import (
    InterfaceConnectionError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)
from definable.agent.interface.errors import RequestNotSent
from definable.agent.interface.http_client import TOKEN, PlatformClient, open_client
from definable.concurrency.backoff import Backoff
from definable.errors import ConfigurationError, MissingExtra

pytestmark = pytest.mark.anyio

SECRET = "7:very-secret"


class Server:
    """Answers one request a connection and keeps what it was sent; when it has no answer it hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Server, None]:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            tasks.start_soon(listener.serve, self.answer)
            yield self
            tasks.cancel_scope.cancel()

    async def answer(self, stream: SocketStream) -> None:
        async with stream:
            head = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", 10_000)
            self.requests.append(head.decode())
            if self.answers:
                await stream.send(self.answers.pop(0))


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def client_of(url: str, **settings: Any) -> AbstractAsyncContextManager[PlatformClient]:
    return open_client("Pigeon", url, connect_timeout=5, request_timeout=5, token=SECRET, **settings)


@pytest.fixture(autouse=True)
def _quick_and_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    backoff = Backoff(0.01, max_tries=3, max_retry_after=1)
    monkeypatch.setattr("definable.agent.interface.http_client.DOWNLOAD_BACKOFF", backoff)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def test_the_token_is_on_the_wire_and_in_no_log_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Server(answer(200)).running() as server, client_of(server.url) as client:
        await client.request("GET", f"/bot{TOKEN}/getMe")
        with pytest.raises(InterfaceConnectionError) as caught:
            await client.request("GET", f"/bot{TOKEN}/getMe")
    assert [request.split()[1] for request in server.requests] == [f"/bot{SECRET}/getMe"] * 2
    assert caplog.text and SECRET not in caplog.text and SECRET not in repr(caught.value) + str(caught.value)


async def test_an_address_from_a_message_gets_neither_token_nor_headers() -> None:
    async with (
        Server(answer(200, b"mine")).running() as server,
        client_of("http://127.0.0.1:9", headers={"Authorization": "Bot secret"}) as client,
    ):
        assert await client.download(f"{server.url}/{TOKEN}/image.png", 100) == b"mine"
    (request,) = server.requests
    assert f"/{TOKEN}/image.png" in request and SECRET not in request and "authorization" not in request.lower()


async def test_a_download_that_fails_for_a_moment_is_tried_again() -> None:
    answers = answer(503), answer(429, Retry_After="0"), answer(200, b"at last")
    async with Server(*answers).running() as server, client_of(server.url) as client:
        assert await client.download("/file", 100) == b"at last"


@pytest.mark.parametrize(
    ("said", "error", "requests"),
    [
        (answer(404), InterfaceMessageError, 1),
        (answer(500), InterfaceConnectionError, 3),
        (b"", InterfaceConnectionError, 3),
        (answer(429, Retry_After="3600"), InterfaceRateLimitError, 1),
    ],
)
async def test_a_download_that_fails_for_good_says_how(said: bytes, error: type[Exception], requests: int) -> None:
    async with Server(*[said] * 3).running() as server, client_of(server.url) as client:
        with pytest.raises(error, match="a file could not be fetched"):
            await client.download("/file", 100)
    assert len(server.requests) == requests


async def test_a_download_beyond_its_bound_is_cut_off() -> None:
    async with Server(answer(200, b"x" * 101)).running() as server, client_of(server.url) as client:
        assert await client.download("/file", 100) is None


async def test_what_was_not_sent_is_told_from_what_may_have_arrived() -> None:
    async with client_of("http://127.0.0.1:9") as client:
        with pytest.raises(RequestNotSent, match="GET /x: Pigeon cannot be reached: ConnectError"):
            await client.request("GET", "/x")
    async with Server().running() as server, client_of(server.url) as client:
        with pytest.raises(InterfaceConnectionError, match="no answer from Pigeon") as caught:
            await client.request("GET", "/x")
    assert not isinstance(caught.value, RequestNotSent)


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_proxy_of_the_environment_is_used_but_where_it_is_not_to_be(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(answer(200)).running() as proxy, Server(answer(200)).running() as server:
        monkeypatch.setenv("HTTP_PROXY", scheme + proxy.url.removeprefix("http://"))
        monkeypatch.setenv("http_proxy", scheme + proxy.url.removeprefix("http://"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with client_of("http://pigeon.invalid") as client:
            await client.request("GET", "/coo")
        async with client_of(server.url) as client:
            await client.request("GET", "/coo")
    assert [request.splitlines()[0] for request in proxy.requests] == ["GET http://pigeon.invalid/coo HTTP/1.1"]
    assert [request.splitlines()[0] for request in server.requests] == ["GET /coo HTTP/1.1"]


@pytest.mark.parametrize("by", ["proxy", "ALL_PROXY", "http_proxy"])
async def test_requests_and_downloads_go_through_a_socks_proxy(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = SocksProxy(hosts={"pigeon.invalid": "127.0.0.1"}, user=("ann", "s3cret"))
    async with proxy.running(), Server(answer(200), answer(200, b"file")).running() as server:
        url = proxy.url
        if by != "proxy":
            monkeypatch.setenv(by, url.replace("socks5h:", "socks:"))
            url = None
        host = server.url.replace("127.0.0.1", "pigeon.invalid")
        async with client_of(host, proxy=url) as client:
            await client.request("GET", "/coo")
            assert await client.download("/file", 100) == b"file"
    assert set(proxy.connected) == {host.removeprefix("http://")}


@pytest.mark.parametrize("how", ["refuses", "hangs_up", "wants_a_user"])
async def test_a_socks_proxy_that_refuses_is_said_and_leaves_nothing_open(how: str) -> None:
    proxy = SocksProxy(refuses=how == "refuses", hangs_up=how == "hangs_up")
    async with proxy.running(), client_of("http://pigeon.invalid", proxy=proxy.url) as client:
        proxy.user = ("ann", "s3cret") if how == "wants_a_user" else None
        for _ in range(3):
            with pytest.raises(RequestNotSent, match="the SOCKS proxy refuses: ") as caught:
                await client.request("GET", "/coo")
    assert "s3cret" not in str(caught.value)
    gc.collect()  # what was not closed is said there, and fails the test


@pytest.mark.parametrize("proxy", ["ftp://ann:s3cret@host", "socks5://:s3cret", "http://h:s3cret", "socks4://s3cret:1"])
async def test_what_is_no_proxy_is_refused_and_not_repeated(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="proxy=") as caught:
        async with client_of("http://pigeon.invalid", proxy=proxy):
            pass
    assert "s3cret" not in str(caught.value)


async def test_without_the_extra_a_socks_proxy_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(MissingExtra, match=r"definable\[socks\]"):
        async with client_of("http://pigeon.invalid"):
            pass
