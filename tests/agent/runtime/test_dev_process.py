"""One child as its parent has it: heard, stopped, cut off and surely gone. Real processes, of a few lines each."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest
from trio.testing import MockClock

from definable.agent.runtime import WorkCount
from definable.agent.runtime.dev import process as dev_process
from definable.agent.runtime.dev.process import ChildProcess, SharedSockets, interrupts_blocked

from .dev_programs import DEAF, OBEDIENT, program

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="reloading needs POSIX")]

LIMIT = 20.0
"""Seconds that a test may hang."""

jumping = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="virtual trio")]
)
"""On a clock that jumps although a thread waits for the process: so trio's own, no other does."""


class Child:
    """A child, and what became of it."""

    def __init__(self, command: list[str], shared: SharedSockets, **options: bool) -> None:
        self.process = ChildProcess(command, shared, **options)
        self.status: int | None = None

    async def run(self) -> None:
        self.status = await self.process.run()


@asynccontextmanager
async def child_of(
    tmp_path: Path, text: str, shared: SharedSockets | None = None, **options: bool
) -> AsyncGenerator[Child]:
    """A child while it lives; the context ends after it."""
    child = Child(program(tmp_path / "supervisor.py", text), shared or SharedSockets(), **options)
    async with anyio.create_task_group() as group:
        group.start_soon(child.run)
        yield child


async def test_a_child_is_heard_out_and_its_account_kept(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, f"{OBEDIENT}\nsys.exit(3)") as child:
            assert not child.process.has_served
            await child.process.serves.wait()
            assert child.process.has_served and child.process.report is None
            await child.process.stop(LIMIT)
    assert child.status == 3
    assert child.process.report is not None
    assert child.process.report.sources == {"http": WorkCount(completed=4)}


@pytest.mark.parametrize("stop", [lambda child: child.stop(0.01), lambda child: child.stop()])
async def test_a_child_that_goes_on_after_its_grace_is_told_to_cut_it_off(
    tmp_path: Path, stop: Callable[[ChildProcess], object]
) -> None:
    text = """
signal_off()
parent.send(("begun", None, 0.01))
parent.send("serving")
sys.exit(7 if (parent.recv(), parent.recv()) == ("stop", "force") else 1)
"""
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text) as child:
            await child.process.serves.wait()
            await stop(child.process)  # type: ignore[misc]
    assert child.status == 7


async def test_a_child_that_does_not_obey_yet_is_terminated(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, "parent.send('serving'); signal.pause()") as child:
            await child.process.serves.wait()
            await child.process.stop(LIMIT)
    assert child.status == -signal.SIGTERM


async def test_a_child_that_comes_to_obey_while_it_is_terminated_is_given_its_time(tmp_path: Path) -> None:
    text = """
import time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
parent.send("serving")
signal.sigwait({signal.SIGTERM})
signal_off(); parent.send(("begun", None, 20))  # on its way when the stop came
time.sleep(1.5)
sys.exit(7)
"""
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text) as child:
            await child.process.serves.wait()
            await child.process.stop()
    assert child.status == 7


@jumping
async def test_a_child_that_hears_nothing_is_killed_3_seconds_after_it_was_cut_off(tmp_path: Path) -> None:
    async with child_of(tmp_path, DEAF) as child:
        await child.process.serves.wait()
        began = anyio.current_time()
        await child.process.stop(7)
        assert anyio.current_time() - began == 7 + 3
    assert child.status == -signal.SIGKILL


@jumping
async def test_a_child_is_given_the_time_that_it_has_asked_for(tmp_path: Path) -> None:
    async with child_of(tmp_path, DEAF) as child:
        await child.process.serves.wait()
        began = anyio.current_time()
        await child.process.stop()
        assert anyio.current_time() - began == 20 + 3
    assert child.status == -signal.SIGKILL


@jumping
async def test_a_child_that_does_not_obey_yet_and_will_not_end_is_killed_after_a_second(tmp_path: Path) -> None:
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN); parent.send('serving'); signal.pause(); signal.pause()"
    async with child_of(tmp_path, text) as child:
        await child.process.serves.wait()
        began = anyio.current_time()
        await child.process.stop(7)
        assert anyio.current_time() - began == 1
    assert child.status == -signal.SIGKILL


async def test_a_child_whose_parent_gives_up_is_gone(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            child = Child(program(tmp_path / "supervisor.py", DEAF), SharedSockets())
            group.start_soon(child.run)
            await child.process.serves.wait()
            process = psutil.Process(child.process._process.pid)
            group.cancel_scope.cancel()
    assert not process.is_running()


async def test_what_its_parent_has_bound_a_child_inherits_and_so_does_the_next(tmp_path: Path) -> None:
    text = """
assert address == ("127.0.0.1", 0) and parent_id == os.getppid()
[descriptor] = sockets
sock = socket.socket(fileno=descriptor)
assert sock.getsockname()[1] == PORT and descriptor != channel
serve()
"""
    shared = SharedSockets()
    assert shared.bind(("127.0.0.1", 0)) is None
    port = shared.sockets[0].getsockname()[1]
    with anyio.fail_after(LIMIT):
        for _ in range(2):
            async with child_of(tmp_path, text.replace("PORT", str(port)), shared) as child:
                pass
            assert (child.status, child.process.wanted_address) == (0, None)
            assert shared.address == ("127.0.0.1", 0)
    shared.close()
    assert (shared.address, shared.sockets) == (None, [])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("rebind", [True, False])
@pytest.mark.parametrize("address", [("127.0.0.1", 1), None])
async def test_sockets_that_a_child_does_not_serve_are_closed_and_others_are_asked_for(
    tmp_path: Path, address: tuple[str, int] | None, rebind: bool
) -> None:
    shared = SharedSockets()
    assert shared.bind(("127.0.0.1", 0)) is None
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, f"parent.send(('begun', {address}, 20))", shared, rebind=rebind) as child:
            pass
    assert (shared.address, shared.sockets) == (None, [])
    assert child.process.wanted_address == (address if rebind else None)


def test_an_address_that_cannot_be_bound_is_an_error_and_leaves_no_socket() -> None:
    shared = SharedSockets()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        failure = shared.bind(("127.0.0.1", busy.getsockname()[1]))
    assert "the port is in use" in str(failure)
    assert (shared.address, shared.sockets) == (None, [])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SIGIO is ignored by default")
async def test_a_child_that_does_not_listen_yet_dies_with_its_parents_end(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, "parent.send('serving'); signal.pause()") as child:
            await child.process.serves.wait()
            child.process._channel.close()  # as the kernel does when the parent is killed
    assert child.status == -signal.SIGIO


async def test_a_child_is_born_deaf_to_ctrl_c_and_its_parent_is_not(tmp_path: Path) -> None:
    text = "sys.exit(5 if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []) else 1)"
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text) as child:
            pass
    assert child.status == 5
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_ctrl_c_stays_blocked_where_it_was() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with interrupts_blocked():
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_what_a_child_leaves_behind_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_process, "START_GRACE", 0.01)
    text = """
import subprocess
os.set_inheritable(channel, True)
left = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"], close_fds=False)
print(left.pid, file=open(PATH, "w"))
"""
    pid = tmp_path / "pid"
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text.replace("PATH", f"{str(pid)!r}")) as child:
            pass
    psutil.Process(int(pid.read_text())).kill()
    assert child.status == 0
