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
from definable.agent.runtime.dev import reload as dev_process
from definable.agent.runtime.dev.child import STOP
from definable.agent.runtime.dev.reload import DevProcess, KeptSockets, interrupts_blocked

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

    def __init__(self, command: list[str], kept: KeptSockets) -> None:
        self.serves = anyio.Event()
        self.process = DevProcess(command, kept, self.serves.set)
        self.status: int | None = None

    async def run(self) -> None:
        self.status = await self.process.run()


@asynccontextmanager
async def child_of(tmp_path: Path, text: str, kept: KeptSockets | None = None) -> AsyncGenerator[Child]:
    """A child while it lives; the context ends after it."""
    kept = KeptSockets() if kept is None else kept
    child = Child(program(tmp_path / "supervisor.py", text), kept)
    async with anyio.create_task_group() as group:
        group.start_soon(child.run)
        yield child


async def test_a_child_is_heard_out_and_its_account_kept(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, f"{OBEDIENT}\nsys.exit(3)") as child:
            assert not child.process.has_served
            await child.serves.wait()
            assert child.process.has_served and child.process.report is None
            await child.process.stop(LIMIT)
    assert child.status == 3
    assert child.process.report is not None
    assert child.process.report.sources == {"http": WorkCount(completed=4)}
    assert not child.process.could_not_bind


@pytest.mark.parametrize("stop", [lambda child: child.stop(0.01), lambda child: child.stop_within_its_own_bound()])
async def test_a_child_that_goes_on_after_its_grace_is_told_to_cut_it_off(
    tmp_path: Path, stop: Callable[[DevProcess], object]
) -> None:
    text = """
tell("begun", stops_within=0.01)
tell("serving")
sys.exit(7 if parent.recv(1) + parent.recv(1) == b"sf" else 1)
"""
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text) as child:
            await child.serves.wait()
            await stop(child.process)  # type: ignore[misc]
    assert child.status == 7


async def test_a_child_that_does_not_obey_yet_is_terminated(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, "tell('serving'); signal.pause()") as child:
            await child.serves.wait()
            await child.process.stop(LIMIT)
    assert child.status == -signal.SIGTERM


async def test_a_child_that_comes_to_obey_while_it_is_terminated_is_given_its_time(tmp_path: Path) -> None:
    text = """
import time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
tell("serving")
signal.sigwait({signal.SIGTERM})
tell("begun", stops_within=20)  # on its way when the stop came
time.sleep(1.5)
sys.exit(7)
"""
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text) as child:
            await child.serves.wait()
            await child.process.stop_within_its_own_bound()
    assert child.status == 7


@jumping
async def test_a_child_that_hears_nothing_is_killed_3_seconds_after_it_was_cut_off(tmp_path: Path) -> None:
    async with child_of(tmp_path, DEAF) as child:
        await child.serves.wait()
        began = anyio.current_time()
        await child.process.stop(7)
        assert anyio.current_time() - began == 7 + 3
    assert child.status == -signal.SIGKILL


@jumping
async def test_a_child_is_given_the_time_that_it_has_asked_for(tmp_path: Path) -> None:
    async with child_of(tmp_path, DEAF) as child:
        await child.serves.wait()
        began = anyio.current_time()
        await child.process.stop_within_its_own_bound()
        assert anyio.current_time() - began == 20 + 3
    assert child.status == -signal.SIGKILL


@jumping
async def test_a_child_that_does_not_obey_yet_and_will_not_end_is_killed_after_a_second(tmp_path: Path) -> None:
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN); tell('serving'); signal.pause(); signal.pause()"
    async with child_of(tmp_path, text) as child:
        await child.serves.wait()
        began = anyio.current_time()
        await child.process.stop(7)
        assert anyio.current_time() - began == 1
    assert child.status == -signal.SIGKILL


async def test_a_child_that_reads_nothing_does_not_hold_up_who_tells_it(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, DEAF) as child:
            await child.serves.wait()
            for _ in range(10_000):  # more than the system keeps for it
                child.process.say(STOP)
            psutil.Process(child.process._process.pid).kill()
    assert child.status == -signal.SIGKILL
    child.process.say(STOP)


async def test_a_child_whose_parent_gives_up_is_gone(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            child = Child(program(tmp_path / "supervisor.py", DEAF), KeptSockets())
            group.start_soon(child.run)
            await child.serves.wait()
            process = psutil.Process(child.process._process.pid)
            group.cancel_scope.cancel()
    assert not process.is_running()


async def test_what_one_child_binds_the_next_one_inherits(tmp_path: Path) -> None:
    kept = KeptSockets()
    bind = """
assert left["address"] is None and left["sockets"] == []
one, two = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
tell("bound", [one, two], address=["localhost", 8000])
tell("serving")
"""
    inherit = """
assert left["address"] == ["localhost", 8000]
assert left["parent"] == os.getppid()
ports = [socket.socket(fileno=it).getsockname()[1] for it in left["sockets"]]
assert ports == json.loads(PORTS) and left["channel"] not in left["sockets"]
tell("serving")
"""
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, bind, kept) as first:
            pass
        assert (first.status, kept.address, len(kept.sockets)) == (0, ("localhost", 8000), 2)
        ports = [sock.getsockname()[1] for sock in kept.sockets]
        async with child_of(tmp_path, inherit.replace("PORTS", f"'{ports}'"), kept) as second:
            pass
        assert second.status == 0
    kept.close()
    assert (kept.address, kept.sockets) == (None, [])
    for port in ports:
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass


async def test_of_two_addresses_the_last_is_kept_and_the_other_given_up(tmp_path: Path) -> None:
    text = """
for number in range(2):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        tell("bound", [sock], address=["127.0.0.1", number])
"""
    kept = KeptSockets()
    with socket.create_server(("127.0.0.1", 0)) as old, anyio.fail_after(LIMIT):
        kept.keep(("127.0.0.1", 7), [old])
        async with child_of(tmp_path, text, kept):
            pass
        assert old.fileno() == -1
    assert kept.address == ("127.0.0.1", 1)
    [sock] = kept.sockets
    with socket.create_connection(sock.getsockname()):
        pass
    kept.close()


async def test_a_child_that_cannot_bind_says_so(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, "tell('cannot_bind'); sys.exit(1)") as child:
            pass
    assert (child.status, child.process.could_not_bind, child.process.has_served) == (1, True, False)


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
parent.set_inheritable(True)
left = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"], close_fds=False)
print(left.pid, file=open(PATH, "w"))
"""
    pid = tmp_path / "pid"
    with anyio.fail_after(LIMIT):
        async with child_of(tmp_path, text.replace("PATH", f"{str(pid)!r}")) as child:
            pass
    psutil.Process(int(pid.read_text())).kill()
    assert child.status == 0
