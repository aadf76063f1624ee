"""A service of systemd: activated by a socket, and telling how it is.

`systemd-socket-activate` stands in for systemd.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from definable.server import bind

APP = """
import sys
from definable.agent import Agent

agent = Agent("offline")
agent.serve(backend=sys.argv[1], enable_server=True)
print("ended", flush=True)
"""

OPTIONS = """
import sys
from definable.agent import Agent

Agent("offline").serve(backend=sys.argv[1], enable_server=True, fd=int(sys.argv[2]))
"""


def environment(path: Path) -> dict[str, str]:
    return {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    """What the service notifies."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify.sock"))
    sock.settimeout(60)
    return sock


def first_answer(process: subprocess.Popen[str], uds: Path) -> httpx2.Response:
    while not is_listening(uds):
        assert process.poll() is None
        time.sleep(0.02)
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(uds)), timeout=60) as client:
        return client.get("http://localhost/health")


def is_listening(uds: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(uds))
        except OSError:
            return False
    return True


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not there")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_socket_of_systemd_is_served_and_it_is_told_what_happens(
    tmp_path: Path, backend: str, manager: socket.socket
) -> None:
    program, uds = tmp_path / "app.py", tmp_path / "http.sock"
    program.write_text(APP)
    activate = ["systemd-socket-activate", "-l", str(uds), "-E", "NOTIFY_SOCKET", "-E", "WATCHDOG_USEC"]
    process = subprocess.Popen(
        [*activate, sys.executable, str(program), backend],
        env=environment(tmp_path / "notify.sock"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        # The first connection starts the service, and waits for it.
        assert first_answer(process, uds).status_code == 200
        told = {manager.recv(100), manager.recv(100), manager.recv(100)}
        assert told == {b"READY=1", b"WATCHDOG=1"}
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        while (state := manager.recv(100)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1"
        assert process.returncode == 0, output
        assert f"http     unix:{uds}" in output
        assert uds.exists()  # it is systemd's, which starts the service again
    finally:
        process.kill()
        process.wait()
        manager.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_inherited_socket_is_served_by_its_descriptor(tmp_path: Path, backend: str) -> None:
    (tmp_path / "app.py").write_text(OPTIONS)
    [given] = bind("127.0.0.1", 0)
    url = "http://{}:{}".format(*given.getsockname())
    with given:
        command = [sys.executable, str(tmp_path / "app.py"), backend, str(given.fileno())]
        process = subprocess.Popen(
            command, pass_fds=[given.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    try:
        assert httpx2.get(f"{url}/health", timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert f"http     {url}" in output
        assert "can be reached from other machines" not in output
    finally:
        process.kill()
        process.wait()
