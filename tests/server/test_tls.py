"""TLS, and HTTP/2 over it."""

import os
import ssl
import time

import anyio
import httpx2
import pytest
import trustme
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from loopback.http2 import open_h2

from definable.server import CertificateFiles, ServerLimits, ssl_context

needs_backend = pytest.mark.anyio


@pytest.fixture
def pems(tmp_path):
    for name in ("one", "two"):
        certificate = trustme.CA().issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    (tmp_path / "junk").write_text("junk")
    return tmp_path


def test_a_key_may_be_in_the_certificate_file(pems):
    assert isinstance(ssl_context(pems / "one.pem"), ssl.SSLContext)


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("missing", "one.key", "certfile '.*missing' cannot be read"),
        ("one.crt", "missing", "keyfile '.*missing' cannot be read"),
        ("one.crt", "two.key", r"keyfile '.*two\.key' is not the key of certfile '.*one\.crt'"),
        ("junk", "one.key", "certfile '.*junk' holds no valid PEM certificate"),
        ("one.crt", "junk", "keyfile '.*junk' holds no valid PEM private key"),
        ("one.crt", None, r"keyfile '.*one\.crt' holds no valid PEM private key"),
    ],
)
def test_a_wrong_file_is_named_early(pems, cert, key, message):
    with pytest.raises(ValueError, match=message):
        ssl_context(pems / cert, pems / key if key else None)


def test_an_encrypted_key_is_named_early_and_nobody_is_asked_for_its_password(pems):
    key = serialization.load_pem_private_key((pems / "one.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (pems / "encrypted.key").write_bytes(encrypted)
    with pytest.raises(ValueError, match=r"keyfile '.*encrypted\.key' is encrypted: give an unencrypted key"):
        ssl_context(pems / "one.crt", pems / "encrypted.key")


def test_old_versions_and_renegotiation_are_off(server_tls):
    assert server_tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert server_tls.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named_early(pems):
    (pems / "one.key").chmod(0)
    with pytest.raises(ValueError, match=r"keyfile .* cannot be read"):
        ssl_context(pems / "one.crt", pems / "one.key")


@needs_backend
async def test_requests_are_answered_over_tls(serving, server_tls, client_tls):
    async with (
        serving(tls=server_tls) as served,
        httpx2.AsyncClient(base_url=served.url, verify=client_tls) as client,
    ):
        response = await client.post("/echo", content=b"hello")
        assert (response.http_version, response.content) == ("HTTP/1.1", b"hello")
        assert served.app.scopes[0]["scheme"] == "https"


@needs_backend
async def test_many_requests_are_answered_on_one_http_2_connection(serving, server_tls, client_tls):
    body = b"x" * 200_000
    async with (
        serving(tls=server_tls) as served,
        httpx2.AsyncClient(base_url=served.url, verify=client_tls, http2=True) as client,
    ):

        async def ask():
            response = await client.post("/echo", content=body)
            assert (response.http_version, response.content) == ("HTTP/2", body)

        async with anyio.create_task_group() as tg:
            for _ in range(20):
                tg.start_soon(ask)
        assert len({scope["client"] for scope in served.app.scopes}) == 1


@needs_backend
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", b"\x16\x03\x01garbage", b"\x00" * 1000, b""])
async def test_what_is_no_tls_ends_its_connection_alone(serving, server_tls, client_tls, caplog, data):
    async with serving(tls=server_tls) as served:
        async with served.client() as client:
            if data:
                await client.send(data)
                if data.startswith(b"GET"):
                    await client.rest()
        async with httpx2.AsyncClient(base_url=served.url, verify=client_tls) as client:
            assert (await client.get("/echo")).status_code == 200
    assert not caplog.records


@needs_backend
async def test_a_handshake_that_does_not_come_ends_with_the_time_for_a_head(serving, server_tls):
    limits = ServerLimits(header_timeout=0.1)
    async with serving(tls=server_tls, limits=limits) as served, served.client() as client:
        await client.send(b"\x16\x03\x01")
        assert await client.rest() == b""


@needs_backend
async def test_a_connection_beyond_the_limit_is_closed_before_a_handshake(serving, server_tls, client_tls):
    async with serving(tls=server_tls, limits=ServerLimits(max_connections=1)) as served, served.client() as first:
        stream = await TLSStream.wrap(first.stream, hostname="127.0.0.1", ssl_context=client_tls)
        await stream.send(b"GET /hold HTTP/1.1\r\nHost: t\r\n\r\n")
        await served.app.until(lambda: served.app.arrived == 1)
        async with served.client() as second:
            assert await second.rest() == b""
        assert served.server.open_connections == 1


@needs_backend
@pytest.mark.parametrize("http2", [False, True, None], ids=["HTTP/1", "HTTP/2", "handshake"])
async def test_an_idle_tls_connection_gives_way_to_a_new_one(serving, server_tls, client_tls, http2):
    limits = ServerLimits(max_connections=1)
    async with serving(tls=server_tls, limits=limits) as served, served.client() as silent:
        async with httpx2.AsyncClient(base_url=served.url, verify=client_tls, http2=bool(http2)) as idle:
            if http2 is not None:
                assert (await idle.get("/echo")).status_code == 200
            async with httpx2.AsyncClient(base_url=served.url, verify=client_tls) as client:
                assert (await client.get("/echo")).status_code == 200
        assert await silent.rest() == b""


@needs_backend
@pytest.mark.parametrize("http2", [False, True])
async def test_idle_tls_connections_do_not_hold_a_drain(serving, server_tls, client_tls, http2):
    async with (
        serving(tls=server_tls) as served,
        httpx2.AsyncClient(base_url=served.url, verify=client_tls, http2=http2) as client,
        served.client(),
    ):
        await client.get("/echo")
        started = anyio.current_time()
        served.server.drain()
        await served.until_ended()
        assert anyio.current_time() - started < 0.9


@needs_backend
@pytest.mark.parametrize("http2", [False, True])
async def test_requests_in_flight_over_tls_are_finished_or_honestly_refused(serving, server_tls, client_tls, http2):
    for expected in (200, 503):
        statuses = []
        async with (
            serving(tls=server_tls) as served,
            httpx2.AsyncClient(base_url=served.url, verify=client_tls, http2=http2, timeout=20) as client,
        ):

            async def ask(client=client, statuses=statuses):
                statuses.append((await client.get("/hold")).status_code)

            async with anyio.create_task_group() as tg:
                for _ in range(20):
                    tg.start_soon(ask)
                await served.app.until(lambda served=served: served.app.arrived == 20)
                served.server.drain()
                if expected == 200:
                    served.app.release.set()
                else:
                    served.scope.cancel()
            await served.until_ended()
        assert statuses == [expected] * 20


@needs_backend
async def test_an_http_2_client_is_told_the_limits(serving, server_tls, client_tls):
    limits = ServerLimits(max_streams=7, max_header_bytes=5000)
    async with serving(tls=server_tls, limits=limits) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/echo")
            await client.until(StreamEnded)
            settings = client.connection.remote_settings
            assert (settings.max_concurrent_streams, settings.max_header_list_size) == (7, 5000)


@needs_backend
async def test_the_application_is_told_what_asgi_has_it_told_over_http_2(serving, server_tls, client_tls):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/echo/a%20b?c=%20d", "PUT", **{"x-y": "z"})
            response = await client.until(ResponseReceived)
            await client.until(StreamEnded)
            (scope,) = served.app.scopes
            names = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
            assert [scope[name] for name in names] == [
                "http",
                "2",
                "PUT",
                "https",
                "/echo/a b",
                b"/echo/a%20b",
                b"c=%20d",
                "",
            ]
            assert (b"x-y", b"z") in scope["headers"]
            assert scope["client"][0] == scope["server"][0] == "127.0.0.1"
            assert scope["server"][1] == served.port
            assert {name for name, _ in response.headers} == {b":status", b"content-length", b"date"}


@needs_backend
async def test_a_cut_http_2_response_is_reset(serving, server_tls, client_tls):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/cut")
            assert isinstance(await client.until(StreamReset), StreamReset)
            await client.request("/echo")
            assert isinstance(await client.until(StreamEnded), StreamEnded)


@needs_backend
async def test_data_for_an_answered_http_2_stream_is_dropped(serving, server_tls, client_tls, caplog):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            stream_id = await client.request("/refuse", "POST", end=False)
            await client.until(StreamEnded)
            client.connection.send_data(stream_id, b"late", end_stream=True)
            await client.flush()
            await client.request("/echo")
            assert isinstance(await client.until(ResponseReceived), ResponseReceived)
    assert not caplog.records


@needs_backend
async def test_an_http_2_request_during_the_drain_is_refused(serving, server_tls, client_tls):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/hold")
            await served.app.until(lambda: served.app.arrived == 1)
            served.server.drain()
            await client.request("/echo")
            response = await client.until(ResponseReceived)
            assert dict(response.headers)[b":status"] == b"503"
            served.app.release.set()
            response = await client.until(ResponseReceived)
            assert dict(response.headers)[b":status"] == b"200"
            assert isinstance(await client.until(ConnectionTerminated), ConnectionTerminated)
            await served.until_ended()


@needs_backend
async def test_an_http_2_client_that_keeps_its_window_shut_is_aborted(serving, server_tls, client_tls):
    async with serving(tls=server_tls, limits=ServerLimits(write_timeout=0.2)) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request("/flood")
            async for event in client.events():
                assert not isinstance(event, DataReceived) or event.stream_id == 1
            await served.app.until(lambda: served.app.disconnects == 1)


@needs_backend
async def test_a_drain_waits_for_an_http_2_client_to_open_its_window(serving, server_tls, client_tls):
    window, size = 65_535, 75_535
    received = 0

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * size})

    async with serving(tls=server_tls, app=app) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            stream_id = await client.request("/")
            while received < window:
                received += len((await client.until(DataReceived)).data)
            assert received == window
            served.server.drain()
            await anyio.wait_all_tasks_blocked()
            client.connection.increment_flow_control_window(size)
            client.connection.increment_flow_control_window(size, stream_id)
            await client.flush()
            while received < size:
                received += len((await client.until(DataReceived)).data)
            assert received == size
            await served.until_ended()


@needs_backend
@pytest.mark.parametrize("at_once", [1, 20])
async def test_streams_opened_and_reset_in_haste_end_their_connection(serving, server_tls, client_tls, caplog, at_once):
    """CVE-2023-44487: the requests that were begun stay begun, so their number must be bounded."""
    async with serving(tls=server_tls, limits=ServerLimits(max_streams=5)) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            try:
                for number in range(200):
                    stream_id = await client.request("/hold", flush=False)
                    client.connection.reset_stream(stream_id)
                    if number % at_once == 0:
                        await client.flush()
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass
            await client.until(ConnectionTerminated)
        assert served.app.arrived == 10
    assert not caplog.records


@needs_backend
@pytest.mark.parametrize(
    ("method", "path"), [("CONNECT", "/"), ("GET", "no-slash"), ("GET", "/\xe9"), ("OPTIONS", "*")]
)
async def test_a_malformed_http_2_request_ends_its_connection(serving, server_tls, client_tls, caplog, method, path):
    async with serving(tls=server_tls) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.request(path, method)
            await client.until(ConnectionTerminated)
        assert served.app.arrived == 0
    assert not caplog.records


@needs_backend
@pytest.mark.parametrize(
    "frames",
    [b"\x00" * 9, b"\xff" * 500, b"\x00\x00\x05\x02\x00\x00\x00\x00\x07\x00\x00\x00\x07\x10"],
    ids=["data on stream 0", "a frame too long to come", "a stream that depends on itself"],
)
async def test_frames_that_break_http_2_end_their_connection(serving, server_tls, client_tls, caplog, frames):
    async with serving(tls=server_tls, limits=ServerLimits(header_timeout=0.5)) as served:
        client = await open_h2(served, client_tls)
        async with client.stream:
            await client.stream.send(frames)
            await client.until(ConnectionTerminated)
    assert not caplog.records


class Clock:
    """Tells the time as if much of it had passed since the last question."""

    def __init__(self):
        self.seconds = time.time()

    def __call__(self):
        self.seconds += 10
        return self.seconds


class Renewed:
    """A certificate in files that is renewed, each time by another name of its own."""

    def __init__(self, folder):
        self.authority = trustme.CA()
        self.certfile, self.keyfile = folder / "tls.crt", folder / "tls.key"
        self.serials = []

    def renew(self):
        made = self.authority.issue_cert("127.0.0.1")
        for content, path in ((made.cert_chain_pems[0], self.certfile), (made.private_key_pem, self.keyfile)):
            draft = path.with_suffix(".draft")
            draft.write_bytes(content.bytes())
            draft.replace(path)
        self.serials.append(x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).serial_number)

    def client_context(self):
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def renewed(tmp_path):
    made = Renewed(tmp_path)
    made.renew()
    return made


async def served_serial(port, context):
    """The serial number of the certificate that a handshake brings."""
    async with await anyio.connect_tcp("127.0.0.1", port) as tcp:
        stream = await TLSStream.wrap(tcp, hostname="127.0.0.1", ssl_context=context, standard_compatible=False)
        shown = stream.extra(TLSAttribute.peer_certificate_binary)
        await anyio.aclose_forcefully(stream)
    return x509.load_der_x509_certificate(shown).serial_number


@needs_backend
async def test_a_renewed_certificate_is_served_to_who_connects_next_and_no_handshake_fails(serving, renewed, caplog):
    caplog.set_level("INFO", "definable.http")
    context = renewed.client_context()
    seen = []

    async def connect_on(port, ended):
        while not ended.is_set():
            seen.append(await served_serial(port, context))

    async with serving(tls=CertificateFiles(renewed.certfile, renewed.keyfile, clock=Clock())) as served:
        async with httpx2.AsyncClient(base_url=served.url, verify=context, http2=True) as kept:
            assert (await kept.get("/echo")).status_code == 200
            async with anyio.create_task_group() as tg:
                ended = anyio.Event()
                for _ in range(4):
                    tg.start_soon(connect_on, served.port, ended)
                for _ in range(5):
                    renewed.renew()
                    while not seen or seen[-1] != renewed.serials[-1]:
                        await anyio.sleep(0.005)
                ended.set()
            assert (await kept.get("/echo")).status_code == 200  # on the connection that it had
    assert set(seen) <= set(renewed.serials)
    assert set(caplog.messages) >= {f"the TLS certificate was read again from {renewed.certfile}"}


@needs_backend
@pytest.mark.parametrize("fault", ["junk", "another's key", "gone"])
async def test_a_new_certificate_that_cannot_be_used_is_logged_once_and_the_old_one_stays(
    serving, renewed, caplog, fault
):
    context = renewed.client_context()
    [serial] = renewed.serials
    async with serving(tls=CertificateFiles(renewed.certfile, renewed.keyfile, clock=Clock())) as served:
        if fault == "gone":
            renewed.keyfile.unlink()
        else:
            other = trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes()
            renewed.keyfile.write_bytes(b"junk" if fault == "junk" else other)
        for _ in range(3):
            assert await served_serial(served.port, context) == serial
        [message] = caplog.messages
        assert message.startswith("the new TLS certificate cannot be used, and the one before stays in use: ")
        assert str(renewed.keyfile) in message
        renewed.renew()
        assert await served_serial(served.port, context) == renewed.serials[-1]


def test_files_that_are_being_written_are_read_once_they_are_settled(renewed, caplog):
    now = time.time()
    files = CertificateFiles(renewed.certfile, renewed.keyfile, clock=lambda: now)
    before = files()
    now += 60
    assert files() is before
    renewed.keyfile.write_bytes(b"half of a ")
    now = renewed.keyfile.stat().st_ctime + 0.5
    assert files() is before
    renewed.renew()
    now = renewed.keyfile.stat().st_ctime + 0.9
    assert files() is before
    now += 1.2
    assert files() is not before
    assert not caplog.records


def test_files_are_looked_at_once_a_second_at_most(renewed, monkeypatch):
    looks = []
    now = time.time() + 100
    files = CertificateFiles(renewed.certfile, renewed.keyfile, clock=lambda: now)
    monkeypatch.setattr(files, "_look", looks.append)
    for _ in range(50):
        files()
        now += 0.1
    assert len(looks) == 5
    now -= 3600  # the clock was set back
    files()
    assert len(looks) == 6


def test_a_symbolic_link_that_leads_elsewhere_is_a_change(renewed, tmp_path):
    link = tmp_path / "live.crt"
    link.symlink_to(renewed.certfile)
    key = tmp_path / "live.key"
    key.symlink_to(renewed.keyfile)
    files = CertificateFiles(link, key, clock=Clock())
    before = files()
    other = Renewed(tmp_path / "next")
    (tmp_path / "next").mkdir()
    other.renew()
    for name, target in ((link, other.certfile), (key, other.keyfile)):
        name.unlink()
        name.symlink_to(target)
    assert files() is not before
