"""One child after the other: what makes the next one, what ends it all, and with what status."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from trio.testing import MockClock

from definable.agent.runtime import ShutdownReport, WorkCount
from definable.agent.runtime.dev.reload import Reload

from .dev_programs import DEAF, OBEDIENT, program

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="reloading needs POSIX")]

LIMIT = 20.0
"""Seconds that a test may hang."""


SERVES = "supervisor.py.serves"
"""The file in which a child says that it serves."""


class Told(logging.Handler):
    """What development mode says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.times: list[float] = []
        self.notices_a_save = threading.Event()
        self._changed = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.times.append(anyio.current_time())
        if "changed: restarting" in self.lines[-1]:
            self.notices_a_save.set()
        self._changed.set()

    async def until(self, text: str, times: int = 1) -> None:
        """Wait until it was said so often."""
        while sum(text in line for line in self.lines) < times:
            self._changed = anyio.Event()
            await self._changed.wait()


@pytest.fixture
def told() -> Iterator[Told]:
    logger, handler = logging.getLogger("definable.dev"), Told()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@asynccontextmanager
async def reloading(tmp_path: Path, text: str) -> AsyncGenerator[Reload]:
    """A parent while it runs; the context ends after it."""
    reload = Reload(program(tmp_path / "supervisor.py", text), tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(reload.run)
        yield reload


async def save(tmp_path: Path, text: str, told: Told) -> None:
    """Save the program anew until it is noticed: the watcher may not have begun. On no clock but the wall's."""
    noticed = False
    while not noticed:
        program(tmp_path / "supervisor.py", text)
        noticed = await anyio.to_thread.run_sync(told.notices_a_save.wait, 1.0)


async def until_exists(path: Path) -> None:
    """Wait for a child to say in a file that it has come so far; its parent has heard what it said before."""
    while not await anyio.Path(path).exists():
        await anyio.sleep(0.01)
    await anyio.wait_all_tasks_blocked()


async def test_a_save_makes_the_next_child_and_a_signal_is_the_end(tmp_path: Path, told: Told) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, OBEDIENT) as reload:
            await until_exists(tmp_path / SERVES)
            await save(tmp_path, f"{OBEDIENT}\n# another\n", told)
            await told.until("restarted in")
            signal.raise_signal(signal.SIGTERM)
    assert (reload.exit_status, reload.report.sources) == (0, {"http": WorkCount(completed=4)})
    assert told.lines[0] == f"watching {tmp_path} for changes"
    assert told.lines[1] == "supervisor.py changed: restarting"
    assert "program has ended" not in "".join(told.lines)


@pytest.mark.parametrize("terminal", ["kept", "gone"])
async def test_a_hangup_reloads_unless_the_terminal_is_gone(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, terminal: str
) -> None:
    has = [True]
    monkeypatch.setattr("definable.agent.runtime.dev.reload.has_terminal", lambda: has[0])
    monkeypatch.setattr("signal.getsignal", lambda number: signal.SIG_DFL)  # also under `nohup`
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, OBEDIENT) as reload:
            await until_exists(tmp_path / SERVES)
            has[0] = terminal == "kept"
            signal.raise_signal(signal.SIGHUP)
            if terminal == "kept":
                await told.until("restarted in")
                signal.raise_signal(signal.SIGTERM)
    assert (reload.exit_status, reload.report.sources) == (0, {"http": WorkCount(completed=4)})
    assert ("SIGHUP: restarting" in told.lines) == (terminal == "kept")


async def test_a_first_child_that_no_save_will_mend_is_the_end(tmp_path: Path, told: Told) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, "sys.exit(2)") as reload:
            pass
    assert reload.exit_status == 2
    assert reload.report == ShutdownReport()
    assert [line for line in told.lines if "watching" not in line] == []


@pytest.mark.parametrize(
    ("text", "status"), [("", 0), ("sys.exit(1)", 1), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)]
)
async def test_a_child_that_ends_by_itself_is_told_and_the_next_save_awaited(
    tmp_path: Path, told: Told, text: str, status: int
) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, text) as reload:
            await told.until(f"the program has ended (exit status {status}): waiting for the next save")
            count = len(told.lines)
            program(tmp_path / "supervisor.py", OBEDIENT)
            while "restarted in" not in told.lines[-1]:
                with anyio.move_on_after(0.5):
                    await told.until("restarted in")
                if len(told.lines) == count:
                    program(tmp_path / "supervisor.py", OBEDIENT)
            signal.raise_signal(signal.SIGTERM)
    assert reload.exit_status == 0


async def test_a_later_child_that_fails_is_waited_out(tmp_path: Path, told: Told) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, OBEDIENT) as reload:
            await until_exists(tmp_path / SERVES)
            await save(tmp_path, "sys.exit(2)", told)
            await told.until("the program has ended")
            signal.raise_signal(signal.SIGINT)
    assert reload.exit_status == 0
    assert reload.report.sources == {"http": WorkCount(completed=4)}  # of the last that gave one


ASKING = """
wanted = ("127.0.0.1", {port})
if address != wanted and parent_binds:
    parent.send(("begun", wanted, 20))
    sys.exit()
address = wanted
"""
"""A child of another address, which its parent binds."""


async def test_another_address_is_bound_for_a_child_that_starts_again(tmp_path: Path, told: Told) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, f"{ASKING.format(port=0)}assert sockets{OBEDIENT}") as reload:
            await until_exists(tmp_path / SERVES)
            signal.raise_signal(signal.SIGTERM)
    assert (reload.exit_status, reload.report.sources) == (0, {"http": WorkCount(completed=4)})
    assert [line for line in told.lines if "watching" not in line] == []  # the first child was no restart


async def test_a_busy_address_ends_the_first_child_and_has_a_later_one_wait_for_a_save(
    tmp_path: Path, told: Told
) -> None:
    with anyio.fail_after(LIMIT), socket.create_server(("127.0.0.1", 0)) as busy:
        asking = ASKING.format(port=busy.getsockname()[1])
        with pytest.raises(OSError, match="the port is in use"):
            await Reload(program(tmp_path / "supervisor.py", asking), tmp_path).run()
        async with reloading(tmp_path, OBEDIENT) as reload:
            await until_exists(tmp_path / SERVES)
            await save(tmp_path, asking, told)
            await told.until("waiting for the next save")
            assert "the port is in use" in told.lines[-1]
            signal.raise_signal(signal.SIGTERM)
    assert reload.exit_status == 0


async def test_a_program_whose_address_is_another_one_each_time_serves(tmp_path: Path, told: Told) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, f"{ASKING.format(port='20_000 + os.getpid() % 30_000')}{OBEDIENT}") as reload:
            await until_exists(tmp_path / SERVES)
            signal.raise_signal(signal.SIGTERM)
    assert (reload.exit_status, reload.report.sources) == (0, {"http": WorkCount(completed=4)})


async def test_a_signal_ends_a_child_that_does_not_serve_yet_and_is_no_failure(tmp_path: Path, told: Told) -> None:
    begun = tmp_path / "begun"
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, f"open({str(begun)!r}, 'w'); signal.pause()") as reload:
            await until_exists(begun)
            signal.raise_signal(signal.SIGTERM)
    assert reload.exit_status == 0
    assert [line for line in told.lines if "watching" not in line] == []


@pytest.mark.parametrize(("last", "status"), [("sys.exit(4)", 4), ("os.kill(os.getpid(), 9)", 137)])
async def test_a_child_that_has_served_says_how_it_ended(tmp_path: Path, told: Told, last: str, status: int) -> None:
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, f"serve(); parent.recv(); {last}") as reload:
            await until_exists(tmp_path / SERVES)
            signal.raise_signal(signal.SIGTERM)
    assert reload.exit_status == status


async def test_a_second_signal_cuts_the_child_off(tmp_path: Path, told: Told) -> None:
    heard = tmp_path / "heard"
    text = f"""
serve()
parent.recv()
open({str(heard)!r}, "w")
assert parent.recv() == "force"
ended()
"""
    with anyio.fail_after(LIMIT):
        async with reloading(tmp_path, text) as reload:
            await until_exists(tmp_path / SERVES)
            signal.raise_signal(signal.SIGTERM)
            await until_exists(heard)
            signal.raise_signal(signal.SIGINT)
    assert reload.exit_status == 128 + signal.SIGINT
    assert reload.report.sources == {"http": WorkCount(completed=4)}


@pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="virtual trio")]
)
async def test_a_restart_gives_what_was_accepted_2_seconds(tmp_path: Path, told: Told) -> None:
    async with reloading(tmp_path, DEAF):
        await until_exists(tmp_path / SERVES)
        await save(tmp_path, OBEDIENT, told)
        await told.until("restarted in")
        signal.raise_signal(signal.SIGTERM)
    _, saved, restarted = told.times
    assert 2 + 3 <= round(restarted - saved, 3) < 2 + 3 + 1  # 5.43 - 0.43 is less than 5
