"""Under real servers, each in a process of its own as people start it, with and without a prefix."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from loopback.proxies import free_port
from websockets.sync.client import connect

SECONDS = 20
"""For a server to start, and again to stop."""

PROGRAM = """
from quart import request, websocket
from starlette.applications import Starlette
from starlette.routing import Mount
from definable.agent import Agent
from definable.model import OfflineModel

agent = Agent(OfflineModel(latency=0.3))

@agent.blueprint.get("/own")
async def own():
    return {"path": request.path, "url": request.url}

@agent.blueprint.websocket("/ws")
async def ws():
    await websocket.send(await websocket.receive())

app = agent.asgi()
mounting = Starlette(routes=[Mount("/mounted", app)], lifespan=app.lifespan)
"""

SERVERS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "program:{app}"],
    "hypercorn": ["hypercorn", "-b", "127.0.0.1:{port}", "program:{app}"],
    "hypercorn-trio": ["hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}", "program:{app}"],
    "granian": ["granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "program:{app}"],
}

PREFIX = {"uvicorn": "--root-path", "hypercorn": "--root-path", "hypercorn-trio": "--root-path"}
"""How each is told of the prefix that a proxy has taken off; granian's is another."""


@contextlib.contextmanager
def serving(server: str, app: str, directory: Path, prefix: str = "") -> Iterator[httpx2.Client]:
    """A server, while the context is open; then it has stopped by itself, without a traceback."""
    (directory / "program.py").write_text(PROGRAM)
    port, log = free_port(), directory / "log"
    module, *arguments = [each.format(port=port, app=app) for each in SERVERS[server]]
    options = [PREFIX.get(server, "--url-path-prefix"), prefix] if prefix else []
    command = [sys.executable, "-m", module, *options, *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[4]}:{directory}"}
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=directory, stdout=output, stderr=output, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=SECONDS, trust_env=False, verify=False
            ) as client:
                answers(client, process)
                yield client
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # granian's workers would outlive it
    assert "Traceback" not in log.read_text(), log.read_text()
    assert process.returncode in (0, -signal.SIGTERM)


def answers(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            client.get("/")
            return
        except httpx2.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def check(client: httpx2.Client, inner: str = "", outer: str = "") -> None:
    """What must hold of an agent whose clients see it below `outer`, and whose server is asked below `inner`."""
    assert client.get(f"{inner}/health").json()["status"] == "ok"
    assert client.get(f"{inner}/own?x=1").json() == {"path": "/own", "url": f"{client.base_url}{outer}/own?x=1"}
    assert client.get(f"{inner}/nowhere").status_code == 404
    promised = client.post(f"{inner}/run", json={"input": "hi"}, headers={"prefer": "respond-async"})
    assert promised.headers["location"] == f"{outer}/runs/{promised.json()['run_id']}"
    assert client.get(inner + promised.headers["location"].removeprefix(outer)).status_code == 200
    streamed = client.post(f"{inner}/run", json={"input": "hi"}, headers={"accept": "text/event-stream"})
    assert [line for line in streamed.text.splitlines() if line.startswith("event: ")][-1] == "event: run_ended"
    with connect(f"ws://127.0.0.1:{client.base_url.port}{inner}/ws", proxy=None) as connection:
        connection.send("echo")
        assert connection.recv() == "echo"
    assert_cancelled_by_leaving(client, inner)
    assert_kept_or_ended_aloud(client, inner)
    evil = {"origin": "https://evil.example"}
    assert client.post(f"{inner}/run", json={"input": "hi"}, headers=evil).status_code == 403


def assert_cancelled_by_leaving(client: httpx2.Client, inner: str) -> None:
    body = json.dumps({"input": "bye", "session_id": "left"}).encode()
    with socket.create_connection(("127.0.0.1", client.base_url.port or 80)) as sock:
        head = f"POST {inner}/run HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        sock.sendall(head.encode() + b"\r\n\r\n" + body)
        until_the_run_is(client, inner, "running")
    until_the_run_is(client, inner, "cancelled")


def assert_kept_or_ended_aloud(client: httpx2.Client, inner: str) -> None:
    """An answer to a request whose body nobody read either leaves the connection usable, or says that it ends it."""
    for head, body in (
        ("content-length: 2", b"{}"),
        ("transfer-encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"),
        ("content-length: 9000000", b"{}"),
        ("transfer-encoding: chunked", b"2\r\n{}\r\n"),
    ):
        with socket.create_connection(("127.0.0.1", client.base_url.port or 80), timeout=SECONDS) as sock:
            sock.sendall(f"POST {inner}/nowhere HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode())
            time.sleep(0.1)  # the application answers, if it does not wait for the body
            sock.sendall(body)
            answered = http.client.HTTPResponse(sock)
            answered.begin()
            answered.read()
            assert answered.status == 404
            if answered.getheader("connection", "") != "close":
                sock.sendall(f"GET {inner}/health HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                assert sock.recv(12) == b"HTTP/1.1 200"


def until_the_run_is(client: httpx2.Client, inner: str, status: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not [
        run
        for run in client.get(f"{inner}/runs").json()["runs"]
        if (run["session_id"], run["status"]) == ("left", status)
    ]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("server", SERVERS)
def test_at_the_root(server: str, tmp_path: Path) -> None:
    with serving(server, "app", tmp_path) as client:
        check(client)


@pytest.mark.parametrize("server", SERVERS)
def test_behind_a_proxy_that_takes_the_prefix_off(server: str, tmp_path: Path) -> None:
    with serving(server, "app", tmp_path, prefix="/pre") as client:
        check(client, outer="/pre")


@pytest.mark.parametrize("server", SERVERS)
def test_mounted_in_another_application(server: str, tmp_path: Path) -> None:
    with serving(server, "mounting", tmp_path) as client:
        check(client, inner="/mounted", outer="/mounted")
