"""A real nginx in front of a service on loopback, configured as the documentation says."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "http.md"

AROUND = """\
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 256; }}
http {{
access_log off;
client_body_temp_path body; proxy_temp_path proxy;
fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{shown}
}}
"""


def find_nginx() -> str:
    """The program; skips the test where there is none, but in continuous integration."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        if os.environ.get("CI"):
            raise RuntimeError("nginx is not on PATH: apt-get install nginx")
        pytest.skip("nginx is not on PATH: apt-get install nginx")
    return program


def documented(port: int, service_port: int) -> str:
    """The configuration that the documentation shows, on ports of this test."""
    [shown] = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for written, here in [("listen 80;", f"listen 127.0.0.1:{port};"), ("127.0.0.1:8000", f"127.0.0.1:{service_port}")]:
        assert written in shown
        shown = shown.replace(written, here)
    return AROUND.format(shown=shown)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@asynccontextmanager
async def nginx_before(service_port: int, directory: Path, *, strips_prefix: bool = False) -> AsyncGenerator[int]:
    """nginx, while the context is open; gives its port.

    Args:
        service_port: Of the service that it forwards to.
        directory: An empty one for its files.
        strips_prefix: Whether it takes the prefix off.
    """
    port = free_port()
    configuration = documented(port, service_port)
    if strips_prefix:
        configuration = configuration.replace(f"127.0.0.1:{service_port};", f"127.0.0.1:{service_port}/;")
    (directory / "nginx.conf").write_text(configuration)
    command = [find_nginx(), "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]
    async with await anyio.open_process(command, stdout=None, stderr=None) as process:
        try:
            await listening(port)
            yield port
        finally:
            process.terminate()


async def listening(port: int) -> None:
    """Return once something listens on a port."""
    with anyio.fail_after(10):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.02)
