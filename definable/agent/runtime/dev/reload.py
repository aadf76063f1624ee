"""Development mode: a parent that watches the source files and keeps one serving child up to date.

`entry.serve` and `definable serve --dev` come here. The parent never serves: it starts the same command again as a
child (`reload.py`), whose `serve` finds its `Inheritance` and does (`child.py`). The listening sockets are the
child's to bind and the parent's to keep, so that connections wait in the kernel's queue between two children.

Which files make the service restart, and whether they can: `reload.py` asks.

One child of development mode, as its parent (`reload.py`) sees it: started, heard, stopped, and surely gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from watchfiles import Change, DefaultFilter, awatch

import definable
from definable.agent.report import ShutdownReport
from definable.agent.runtime.logging import Block
from definable.agent.runtime.signals import STUCK_MARGIN, SignalWatcher
from definable.concurrency.event_loop import EventLoopHandle, plain_errors, run_blocking
from definable.errors import ServeError

from .child import FORCE, STOP, Inheritance, MessageReader, report_of

FORCE_GRACE = 3.0
"""Seconds that a child gets to end once it was cut off; its event loop may be blocked."""

START_GRACE = 1.0
"""Seconds that a child which does not serve yet gets to end."""

TIE = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os._exit(128 + signal.SIGTERM)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux for a signal when the parent dies (prctl(2); kept over `exec`), and becomes the program behind it."""


@dataclass(slots=True)
class KeptSockets:
    """Listening sockets that outlive the children, so that connections queue between two of them."""

    address: tuple[str, int] | None = None
    sockets: list[socket.socket] = field(default_factory=list[socket.socket])

    def keep(self, address: tuple[str, int], sockets: list[socket.socket]) -> None:
        """Keep these, and no others."""
        self.close()
        self.address, self.sockets = address, sockets

    def close(self) -> None:
        """Keep none."""
        for sock in self.sockets:
            sock.close()
        self.address, self.sockets = None, []


class DevProcess:
    """A child process.

    Args:
        command: What to execute.
        kept: The listening sockets: those that it inherits, and those that it lends.
        on_serving: Called when it serves.
    """

    def __init__(self, command: Sequence[str], kept: KeptSockets, on_serving: Callable[[], object]) -> None:
        self._kept = kept
        self._on_serving = on_serving
        self._ended = anyio.Event()
        self._heard_out = anyio.Event()
        self._stops_within = STUCK_MARGIN
        self._obeys = False
        self.has_served: bool = False
        """Whether it has come to serve, and may have accepted something."""
        self.could_not_bind: bool = False
        """Whether the address was not to be had."""
        self.report: ShutdownReport | None = None
        """Its account, once it has ended as it should."""
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        descriptors = [theirs.fileno(), *[sock.fileno() for sock in kept.sockets]]
        inheritance = Inheritance(os.getpid(), descriptors[0], kept.address, tuple(descriptors[1:]))
        with theirs, interrupts_blocked():
            self._process = subprocess.Popen(
                tied_to_parent(command), env=inheritance.environment(), pass_fds=descriptors
            )

    async def run(self) -> int:
        """Listen to the child until it has ended.

        Returns:
            Its exit status, negative for the signal that killed it.
        """
        status = 0
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._kill_at_end)
                group.start_soon(self._listen)
                status = await anyio.to_thread.run_sync(self._process.wait)  # ends surely: see `_kill_at_end`
                self._ended.set()
                with anyio.move_on_after(START_GRACE):
                    await self._heard_out.wait()
                group.cancel_scope.cancel()
            return status
        finally:
            self._channel.close()

    async def stop(self, grace: float | None = None) -> None:
        """Have the child finish what it has accepted, cut it off after `grace` seconds, and kill it at last.

        Args:
            grace: None: for as long as the child was told to.
        """
        if not self._obeys:  # a signal more would count as the second one of a child that obeys
            self._process.terminate()
            with anyio.move_on_after(START_GRACE):
                await self._ended.wait()
                return
        if self._obeys:  # maybe since, and the signal has begun its stop
            self.say(STOP)
            with anyio.move_on_after(self._stops_within if grace is None else grace):
                await self._ended.wait()
                return
            self.say(FORCE)
            with anyio.move_on_after(FORCE_GRACE):
                await self._ended.wait()
                return
        self._process.kill()

    async def stop_within_its_own_bound(self) -> None:
        """Have the child finish what it has accepted, for as long as it was told to."""
        await self.stop()

    def say(self, word: bytes) -> None:
        """Tell the child; one that is gone is none the wiser."""
        try:
            self._channel.send(word)
        except OSError:
            return

    async def _kill_at_end(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._process.kill()

    async def _listen(self) -> None:
        reader = MessageReader(self._channel)
        try:
            while (message := await reader.next()) is not None:
                match message["event"]:
                    case "bound":
                        host, port = message["address"]
                        self._kept.keep((host, port), reader.take_sockets())
                    case "cannot_bind":
                        self.could_not_bind = True
                    case "begun":
                        self._obeys, self._stops_within = True, message["stops_within"]
                    case "serving":
                        self.has_served = True
                        self._on_serving()
                    case _:
                        self.report = report_of(message["report"])
        finally:
            reader.close()
            self._heard_out.set()


@contextmanager
def interrupts_blocked() -> Generator[None, None, None]:
    """Ctrl-C reaches what is started here only once it asks for it: a program that starts would answer a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """The command, run so that Linux ends it with its parent, however that dies.

    Elsewhere the closed channel tells a child that serves, and one that does not serve yet ends when it comes to.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", TIE, str(os.getpid()), *command]


QUIET = 50
"""Milliseconds without a further change after which what was saved together counts as saved."""

PATIENCE = 1_000
"""Milliseconds after which it counts as saved although changes go on."""

IGNORED = ("venv", "env", "site-packages", ".ruff_cache", ".nox", "build", "dist")
"""Directories that hold no source of the service, beside those that watchfiles ignores itself."""


class SourceFilter(DefaultFilter):
    """Python files, outside of virtual environments and caches."""

    def __init__(self) -> None:
        super().__init__(ignore_dirs=(*DefaultFilter.ignore_dirs, *IGNORED), ignore_paths=[sys.prefix])

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(".py") and super().__call__(change, path)


def watched_root(program: Path | None = None) -> Path:
    """The directory to watch: the current one where the program lies in it, else the program's own.

    A home directory or the root of a file system is no project: only the program's own directory counts there.

    Args:
        program: The directory of the program; that of the running script when None.
    """
    current, program = Path.cwd(), script_directory() if program is None else program
    is_project = current not in (Path.home(), Path(current.anchor))
    return current if is_project and program.is_relative_to(current) else program


def script_directory() -> Path:
    """Where the program lies that was started; the current directory for installed ones, `python -c` and the like."""
    directory = Path(sys.argv[0] or "-").resolve().parent
    installed = (Path(sys.prefix), Path(definable.__file__).parent)
    return Path.cwd() if any(directory.is_relative_to(place) for place in installed) else directory


async def saved_files(root: Path, stop: anyio.Event) -> AsyncGenerator[list[Path], None]:
    """The Python files that were saved, moved or removed, together each time; to be closed by the caller.

    Args:
        root: The directory to watch, with all below it.
        stop: Ends it at once; a mere cancellation waits for the thread that watches, up to a second.
    """
    watching = awatch(root, watch_filter=SourceFilter(), step=QUIET, debounce=PATIENCE, stop_event=stop)
    async with aclosing(watching) as batches:
        async for changes in batches:
            yield sorted({Path(path) for _, path in changes})


def syntax_errors(paths: Iterable[Path]) -> str:
    """What Python says of files that it cannot compile; empty when it can. A file that is gone is none of them."""
    problems: list[str] = []
    for path in paths:
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except OSError:
            continue
        except (SyntaxError, ValueError) as error:  # ValueError: a null byte, on Python 3.11
            problems.append("".join(traceback.format_exception_only(error)).rstrip())
    return "\n".join(problems)


logger: logging.Logger = logging.getLogger("definable.dev")

RELOAD_GRACE = 2.0
"""Seconds that a restart gives to what was accepted."""

EXIT_USAGE = 2
"""The exit status of a command line that is wrong: no save will mend it."""


def serve_and_reload(command: Sequence[str] | None = None, program: Path | None = None) -> ShutdownReport:
    """Serve in a child process, and in a new one whenever a source file is saved, until a signal stops it.

    Args:
        command: What the child executes; this process's own command when None.
        program: The directory that the program lies in; that of the running script when None.

    Returns:
        The account of the last child.

    Raises:
        ServeError: This process was started by no command that could be repeated.
        SystemExit: The first child could not bind its address or was called wrongly, with its exit status; or a second
            signal cut off what was under way, with 129, 130 or 143.
        RuntimeError: An event loop runs in this thread.
    """
    reload = Reload(own_command() if command is None else command, watched_root(program))
    run_blocking(reload.run, instead="await agent.aserve(...)")
    if reload.exit_status:
        raise SystemExit(reload.exit_status)
    return reload.report


def own_command() -> list[str]:
    """The command that started this process, options of the interpreter included.

    Raises:
        ServeError: There is none: Python is embedded, or interactive.
    """
    if len(sys.orig_argv) < 2 or not sys.executable:
        raise ServeError("serve(dev=True) starts its program again, and there is no program here: use dev=False")
    return [sys.executable, *sys.orig_argv[1:]]


class Reload:
    """The parent: one child after the other.

    Args:
        command: What a child executes.
        root: The directory to watch.
    """

    def __init__(self, command: Sequence[str], root: Path) -> None:
        self._command = command
        self._root = root
        self._kept = KeptSockets()
        self._unwatch = anyio.Event()
        self._saved = anyio.Event()
        self._stop = anyio.Event()
        self._force = anyio.Event()
        self._began = 0.0
        self._why = ""
        self._had_terminal = has_terminal()
        self.report: ShutdownReport = ShutdownReport()
        """The account of the last child that gave one."""
        self.exit_status: int = 0
        """0 after a drain or an idle wait; else why it ended."""

    async def run(self) -> None:
        """Serve and reload until a signal."""
        loop = EventLoopHandle()
        watcher = SignalWatcher(
            lambda force: loop.call_soon(self._signalled, force),
            exit_after=None,
            hung_up=lambda: loop.call_soon(self._hung_up),
        )
        try:
            with plain_errors(), watcher:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch)
                    try:
                        await self._generations()
                    finally:
                        self._unwatch.set()
        finally:
            self._kept.close()
        self.exit_status = watcher.exit_status or self.exit_status

    def _signalled(self, force: bool) -> None:
        self._stop.set()
        if force:
            self._force.set()

    def _hung_up(self) -> None:
        """SIGHUP: reload, as daemons do; stop when it was sent because the terminal is gone."""
        if self._had_terminal and not has_terminal():
            self._signalled(force=False)
        elif not self._saved.is_set():
            self._why, self._began = "SIGHUP", time.perf_counter()
            self._saved.set()

    async def _watch(self) -> None:
        logger.info("watching %s for changes", self._root)
        async with aclosing(saved_files(self._root, self._unwatch)) as batches:
            async for paths in batches:
                problems = syntax_errors(paths)
                if problems:
                    logger.error("%s", Block(f"this does not compile: waiting for the next save\n{problems}"))
                    continue
                if not self._saved.is_set():
                    self._why, self._began = ", ".join(path.name for path in paths) + " changed", time.perf_counter()
                self._saved.set()

    async def _generations(self) -> None:
        first = True
        while not self._stop.is_set():
            self._saved = anyio.Event()
            child = DevProcess(self._command, self._kept, partial(self._child_serves, first))
            status = await self._follow(child)
            self.report = child.report or self.report
            if self._stop.is_set():
                self.exit_status = status_of(status) if child.has_served else 0
                return
            if first and (child.could_not_bind or status == EXIT_USAGE):
                self.exit_status = status
                return
            if not self._saved.is_set():
                logger.error("the program has ended (exit status %d): waiting for the next save", status_of(status))
                await self._saved_or_stopped()
            first = False

    async def _follow(self, child: DevProcess) -> int:
        status = 0
        async with anyio.create_task_group() as group:
            group.start_soon(self._stop_on_save, child)
            group.start_soon(self._stop_on_signal, child)
            status = await child.run()
            group.cancel_scope.cancel()
        return status

    def _child_serves(self, first: bool) -> None:
        if not first:
            logger.info("restarted in %.2f s", time.perf_counter() - self._began)

    async def _stop_on_save(self, child: DevProcess) -> None:
        await self._saved.wait()
        logger.info("%s: restarting", self._why)
        await child.stop(RELOAD_GRACE)

    async def _stop_on_signal(self, child: DevProcess) -> None:
        await self._stop.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(self._force_on_signal, child)
            await child.stop_within_its_own_bound()
            group.cancel_scope.cancel()

    async def _force_on_signal(self, child: DevProcess) -> None:
        await self._force.wait()
        child.say(FORCE)

    async def _saved_or_stopped(self) -> None:
        async with anyio.create_task_group() as group:

            async def stopped() -> None:
                await self._stop.wait()
                group.cancel_scope.cancel()

            group.start_soon(stopped)
            await self._saved.wait()
            group.cancel_scope.cancel()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def status_of(return_code: int) -> int:
    """An exit status as a shell tells it: 128 and the signal's number for a process that was killed."""
    return return_code if return_code >= 0 else 128 - return_code
