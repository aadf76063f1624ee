"""Unix sockets: bound, replaced where they are stale, removed at the end; and sockets that a process inherits."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from websockets.sync.client import unix_connect

from definable.server import HTTPServer, activated_sockets, bind, bind_unix, close_all, inherited, notify
from definable.server.systemd import watchdog_interval

from .conftest import ProbeApp, RawClient

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

needs_backend = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "http.sock")


def exists(path: str) -> bool:
    return os.path.exists(path)


@asynccontextmanager
async def served(path: str, app: ProbeApp) -> AsyncIterator[HTTPServer]:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            server = HTTPServer(app, [bind_unix(path)])
            assert await group.start(server.serve) == [(path, None)]
            yield server
            server.drain()


@needs_backend
async def test_requests_are_answered_and_have_no_client(path: str) -> None:
    app = ProbeApp()
    async with served(path, app), await anyio.connect_unix(path) as stream:
        client = RawClient(stream)
        await client.post("/echo", b"hello")
        assert (await client.response()).body == b"hello"
        await client.post("/echo", b"x" * 3_000_000)
        assert len((await client.response()).body) == 3_000_000
    assert [(scope["client"], scope["server"]) for scope in app.scopes] == [(None, (path, None))] * 2
    assert not exists(path)


@needs_backend
async def test_a_websocket_is_served(path: str) -> None:
    app = ProbeApp()

    def talk() -> Any:
        with unix_connect(path, "ws://localhost/ws") as connection:
            connection.send("through a file")
            return connection.recv()

    async with served(path, app):
        assert await anyio.to_thread.run_sync(talk) == "through a file"
    assert app.scopes[0]["client"] is None


@needs_backend
async def test_a_client_that_leaves_is_noticed(path: str) -> None:
    app = ProbeApp()
    async with served(path, app):
        async with await anyio.connect_unix(path) as stream:
            await RawClient(stream).get("/watch")
            await app.until(lambda: app.arrived == 1)
        await app.until(lambda: app.disconnects == 1)


@needs_backend
async def test_the_file_is_gone_as_soon_as_nobody_listens(path: str) -> None:
    app = ProbeApp()
    async with served(path, app) as server, await anyio.connect_unix(path) as stream:
        client = RawClient(stream)
        await client.get("/hold")
        await app.until(lambda: app.arrived == 1)
        server.drain()
        assert not exists(path)
        close_all([bind_unix(path)])  # the next server may begin
        app.release.set()
        assert (await client.response()).body == b"held"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_permissions_are_as_asked_for_whatever_the_umask(path: str, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with bind_unix(path, mode):
            assert stat.S_IMODE(os.stat(path).st_mode) == mode
    finally:
        os.umask(before)
    assert not os.path.exists(path)


def test_a_left_over_socket_is_replaced_and_one_in_use_is_not(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
        with pytest.raises(OSError, match="a process listens there"):
            bind_unix(path)
    assert os.path.exists(path)  # nobody listens any more
    with bind_unix(path):
        with pytest.raises(OSError, match=f"unix:{path}: a process listens there"):
            bind_unix(path)
        assert os.path.exists(path)


def test_one_whose_backlog_is_full_is_in_use(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(OSError, match="a process listens there"):
            bind_unix(path)


def test_of_many_that_start_at_once_on_a_left_over_socket_one_begins(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
    bound: list[socket.socket] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        try:
            bound.append(bind_unix(path))
        except OSError as error:
            assert "a process listens there" in str(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bound) == 1
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    close_all(bound)


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(OSError, match="a file that is no socket"):
        bind_unix(path)
    assert Path(path).read_text() == "precious"


def test_a_file_that_somebody_else_has_put_there_is_not_removed(path: str) -> None:
    with bind_unix(path):
        os.unlink(path)
        Path(path).write_text("another's")
    assert Path(path).read_text() == "another's"


@pytest.mark.parametrize(
    ("name", "says"), [("missing/http.sock", "no such directory"), ("x" * 120, "at most 107 bytes")]
)
def test_a_path_that_cannot_be_had_is_named_with_the_way_out(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(OSError, match=f"cannot listen on unix:.*{says}"):
        bind_unix(str(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_that_closes_it_leaves_the_file(path: str) -> None:
    with bind_unix(path) as listener:
        child = os.fork()
        if child == 0:
            listener.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert os.path.exists(path)


def test_an_inherited_socket_is_taken_over() -> None:
    [given] = bind("127.0.0.1", 0)
    name = given.getsockname()
    with inherited(given.detach(), "fd=7") as sock:
        assert sock.getsockname() == name
        assert not sock.getblocking()


def test_what_is_no_listening_socket_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ValueError, match="fd=7 is no socket"):
        inherited(file.fileno(), "fd=7")
    with socket.socket() as idle:
        with pytest.raises(ValueError, match="fd=7 is no listening stream socket"):
            inherited(idle.fileno(), "fd=7")
        assert idle.fileno() >= 0
        idle.getsockname()  # it is open still


ACTIVATED = """
import os, sys
from definable.server import activated_sockets
os.environ["LISTEN_PID"] = sys.argv[1].replace("mine", str(os.getpid()))
print([sock.getsockname()[1] for sock in activated_sockets()], activated_sockets(), "LISTEN_FDS" in os.environ)
"""


@pytest.mark.parametrize(("whose", "count"), [("mine", 2), ("mine", 0), ("1", 0)])
def test_sockets_of_systemd_are_taken_once_and_by_the_process_that_they_are_for(whose: str, count: int) -> None:
    first, second = bind("127.0.0.1", 0) + bind("127.0.0.1", 0)
    ports = [sock.getsockname()[1] for sock in (first, second)]
    copies = [os.dup(sock.fileno()) for sock in (first, second)]
    shift = f"import os, sys; os.dup2({copies[0]}, 3); os.dup2({copies[1]}, 4); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", shift, sys.executable, "-c", ACTIVATED, whose]
    environment = {**os.environ, "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "a:b"}
    try:
        done = subprocess.run(command, pass_fds=copies, env=environment, capture_output=True, text=True, timeout=60)
    finally:
        close_all([first, second])
        for copy in copies:
            os.close(copy)
    assert done.stderr == ""
    assert done.stdout == f"{ports[:count]} [] {whose == '1'}\n"


def test_without_systemd_there_is_nothing_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert activated_sockets() == []


def test_the_service_manager_is_notified(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")  # nobody
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("STOPPING=1")  # it is gone
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"definable-test-{os.getpid()}"
        if sys.platform == "linux":
            manager.bind(f"\0{name}")
            monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
            notify("WATCHDOG=1")
            assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("3000000", None, 1.5), ("3000000", "1", None), ("0", None, None), ("soon", None, None), (None, None, None)],
)
def test_signs_of_life_come_twice_in_the_time_that_is_given(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, seconds: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == seconds
