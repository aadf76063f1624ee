"""TLS to Redis: whose certificate it is and for which host is checked, and TLS that meets none is explained."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from loopback.redis import RedisServer, free_port

from definable.agent.bus import RedisBus
from definable.agent.session import RedisSessionStore, Session
from definable.errors import ConfigurationError, StorageError

pytestmark = pytest.mark.anyio

SERVED = "localhost"
"""The name in the certificate; the server listens at its address too."""


class TLSRedis(RedisServer):
    """A server with a plain port and one for TLS, whose certificate is for one name."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        certificate = authority.issue_cert(SERVED)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
        self.tls_port = free_port()
        pem = str(directory / "server.pem")
        super().__init__(
            directory, "--tls-port", str(self.tls_port), "--tls-cert-file", pem, "--tls-key-file", pem,
            "--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "no",
        )  # fmt: skip

    def tls_url(self, host: str = SERVED, **options: str) -> str:
        return f"rediss://{host}:{self.tls_port}/0?" + "&".join(f"{name}={value}" for name, value in options.items())


@pytest.fixture(scope="module")
def server(has_redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSRedis]:
    server = TLSRedis(tmp_path_factory.mktemp("tls"))
    try:
        server.start()
    except AssertionError:
        pytest.skip("this redis-server was built without TLS")
    yield server
    server.kill()


async def opened(url: str, **options: ssl.SSLContext) -> None:
    """Open both that talk to Redis, and use them."""
    bus, store = RedisBus(url, prefix="tls", **options), RedisSessionStore(url, prefix="tls", **options)
    async with bus.open(), store.open():
        await bus.publish("job", {})
        await store.save(Session("s", "ann"))
        assert await store.load("s") == Session("s", "ann")


@pytest.mark.parametrize(
    "host, options",
    [
        (SERVED, {"ssl_ca_certs": ""}),
        (SERVED, {"ssl_ca_certs": "", "ssl_cert_reqs": "required"}),
        ("127.0.0.1", {"ssl_ca_certs": "", "ssl_check_hostname": "false"}),
        ("127.0.0.1", {"ssl_cert_reqs": "none"}),
    ],
)
async def test_what_the_url_says_of_tls_is_enough(server: TLSRedis, host: str, options: dict[str, str]) -> None:
    if "ssl_ca_certs" in options:
        options = {**options, "ssl_ca_certs": str(server.authority)}
    await opened(server.tls_url(host, **options))


@pytest.mark.parametrize("options", [{}, {"ssl_cert_reqs": "required"}, {"ssl_cert_reqs": "optional"}])
async def test_the_name_of_the_host_is_checked_also_against_an_authority_of_ones_own(
    server: TLSRedis, options: dict[str, str]
) -> None:
    with pytest.raises(StorageError, match=r"certificate is not valid for '127\.0\.0\.1'"):
        await opened(server.tls_url("127.0.0.1", ssl_ca_certs=str(server.authority), **options))


async def test_a_certificate_of_an_unknown_authority_is_refused(server: TLSRedis) -> None:
    with pytest.raises(StorageError, match="certificate verify failed"):
        await opened(server.tls_url())


async def test_a_context_of_ones_own_decides(server: TLSRedis) -> None:
    context = ssl.create_default_context(cafile=str(server.authority))
    await opened(server.tls_url(), ssl_context=context)
    with pytest.raises(StorageError, match="certificate is not valid"):
        await opened(server.tls_url("127.0.0.1"), ssl_context=context)
    context.check_hostname = False
    await opened(server.tls_url("127.0.0.1"), ssl_context=context)


async def test_tls_on_a_port_that_speaks_none_is_explained_and_the_other_way_round(server: TLSRedis) -> None:
    with pytest.raises(StorageError, match="write redis, not rediss"):
        await opened(f"rediss://{SERVED}:{server.port}?ssl_ca_certs={server.authority}")
    with pytest.raises(StorageError, match="write rediss, not redis"):
        await opened(f"redis://{SERVED}:{server.tls_port}")


@pytest.mark.parametrize("options", ["ssl_ca_certs=/nowhere/ca.pem", "ssl_certfile=/nowhere/cert.pem"])
def test_a_file_that_is_not_there_is_an_error_at_construction(options: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*No such file"):
        RedisBus(f"rediss://localhost?{options}")


def test_options_that_mean_nothing_are_errors_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="ssl_cert_reqs is none, optional or required"):
        RedisBus("rediss://localhost?ssl_cert_reqs=maybe")
    with pytest.raises(ConfigurationError, match="ssl_context= is for rediss://"):
        RedisBus("redis://localhost", ssl_context=ssl.create_default_context())
