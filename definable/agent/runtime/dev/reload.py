"""Development mode: a parent that watches the source files and keeps one serving child up to date. POSIX only.

`entry.serve` and `definable serve --dev` come here. The parent never serves: it binds the listening sockets and starts
the same command again as a child, whose `serve` takes them over (`child.py`). They stay open over the children, so
connections wait in the kernel's queue between two of them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager, suppress
from multiprocessing.connection import Pipe
from pathlib import Path

import anyio
import anyio.to_thread
from watchfiles import Change, DefaultFilter, awatch

import definable
from definable.agent.runtime.logging import Block
from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.shutdown import ShutdownReport
from definable.agent.runtime.signals import SignalWatcher
from definable.concurrency.event_loop import EventLoopHandle, plain_errors, run_blocking
from definable.concurrency.logs import logger_named
from definable.errors import ServeError

from .child import ENVIRONMENT, FORCE, STOP, BoundAddress, receive, signal_at_close

logger: logging.Logger = logger_named("definable.dev")

RELOAD_GRACE = 2.0
"""Seconds that a restart gives to what was accepted."""

FORCE_GRACE = 3.0
"""Seconds that a child gets to end once it was cut off; its event loop may be blocked."""

START_GRACE = 1.0
"""Seconds that a child which does not serve yet gets to end."""

EXIT_USAGE = 2
"""The exit status of a command line that is wrong: no save will mend it."""

QUIET = 50
"""Milliseconds without a further change after which what was saved together counts as saved."""

PATIENCE = 1_000
"""Milliseconds after which it counts as saved although changes go on."""

IGNORED = ("venv", "env", "site-packages", ".ruff_cache", ".nox", "build", "dist")
"""Directories that hold no source of the service, beside those that watchfiles ignores itself."""


def serve_and_reload(settings: ServeSettings, program: Path | None = None) -> ShutdownReport:
    """Serve in a child process, and in a new one whenever a source file is saved, until a signal stops it.

    Args:
        settings: Say where the program probably serves HTTP: where it does not, its first child starts twice.
        program: The directory that the program lies in; that of the running script when None.

    Returns:
        The report of the last child.

    Raises:
        ServeError: This process was started by no command that could be repeated.
        OSError: The first child's address cannot be bound.
        SystemExit: The first child was called wrongly, with its exit status; or a second signal cut off what was under
            way, with 129, 130 or 143.
        RuntimeError: An event loop runs in this thread.
    """
    address = None if settings.enable_server is False else (settings.host, settings.port)
    reload = Reload(own_command(), watched_root(program), address)
    run_blocking(reload.run, instead="await agent.aserve(...)")
    if reload.exit_status:
        raise SystemExit(reload.exit_status)
    return reload.report


class Reload:
    """The parent: one child after the other.

    Args:
        command: What a child executes.
        root: The directory to watch.
        address: What to bind for the first child, if it can be had.
    """

    def __init__(self, command: Sequence[str], root: Path, address: BoundAddress | None = None) -> None:
        self._command = command
        self._root = root
        self._sockets = SharedSockets()
        if address is not None:
            self._sockets.bind(address)
        self._child: ChildProcess | None = None
        self._unwatch = anyio.Event()
        self._change = anyio.Event()
        """Set when the child has to end: for the next one after a save or SIGHUP, for good after a signal."""
        self._stopping = False
        self._changed_at = 0.0
        self._had_terminal = has_terminal()
        self.report: ShutdownReport = ShutdownReport()
        """Of the last child that gave one."""
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
                        await self._serve_generations()
                    finally:
                        self._unwatch.set()
        finally:
            self._sockets.close()
        self.exit_status = watcher.exit_status or self.exit_status

    def _signalled(self, force: bool) -> None:
        self._stopping = True
        self._change.set()
        if force and self._child is not None:
            self._child.order(FORCE)

    def _hung_up(self) -> None:
        """SIGHUP: reload, as daemons do; stop when it was sent because the terminal is gone."""
        if self._had_terminal and not has_terminal():
            self._signalled(force=False)
        else:
            self._reload("SIGHUP")

    def _reload(self, reason: str) -> None:
        if not self._change.is_set():
            logger.info("%s: restarting", reason)
            self._changed_at = time.perf_counter()
            self._change.set()

    async def _watch(self) -> None:
        logger.info("watching %s for changes", self._root)
        async with aclosing(saved_files(self._root, self._unwatch)) as batches:
            async for paths in batches:
                if problems := syntax_errors(paths):
                    logger.error("%s", Block(f"this does not compile: waiting for the next save\n{problems}"))
                else:
                    self._reload(", ".join(path.name for path in paths) + " changed")

    async def _serve_generations(self) -> None:
        first = rebind = True
        while not self._stopping:
            self._change = anyio.Event()
            self._child = child = ChildProcess(self._command, self._sockets, rebind=rebind)
            status = await self._serve_once(child, first)
            self.report = child.report or self.report
            if self._stopping:
                self.exit_status = status_of(status) if child.has_served else 0
                return
            if first and status == EXIT_USAGE:
                self.exit_status = status
                return
            wanted = child.wanted_address
            failure = None if wanted is None else self._sockets.bind(wanted)
            if failure is not None and first:
                raise failure
            if failure is not None or (wanted is None and not self._change.is_set()):
                reason = failure or f"the program has ended (exit status {status_of(status)})"
                logger.error("%s: waiting for the next save", reason)
                await self._change.wait()
            first, rebind = first and wanted is not None, wanted is None  # one whose port is always another binds it

    async def _serve_once(self, child: ChildProcess, first: bool) -> int:
        status = 0
        async with anyio.create_task_group() as group:
            group.start_soon(self._stop_on_change, child)
            group.start_soon(self._announce, child, first)
            status = await child.run()
            group.cancel_scope.cancel()
        return status

    async def _stop_on_change(self, child: ChildProcess) -> None:
        await self._change.wait()
        await child.stop(None if self._stopping else RELOAD_GRACE)

    async def _announce(self, child: ChildProcess, first: bool) -> None:
        await child.serves.wait()
        if not first:
            logger.info("restarted in %.2f s", time.perf_counter() - self._changed_at)


class SharedSockets:
    """Listening sockets that the parent binds and every child inherits."""

    def __init__(self) -> None:
        self.address: BoundAddress | None = None
        """What they were bound for; None when there are none."""
        self.sockets: list[socket.socket] = []

    def bind(self, address: BoundAddress) -> OSError | None:
        """Have sockets of this address in place of others; returns why it cannot be bound."""
        from definable.server import bind  # heavy: an agent without HTTP never needs it

        self.close()
        try:
            self.address, self.sockets = address, bind(*address)
        except OSError as error:
            self.address = None
            return error
        return None

    def close(self) -> None:
        """Have none."""
        for sock in self.sockets:
            sock.close()
        self.address, self.sockets = None, []


class ChildProcess:
    """One child: started, heard, stopped, and surely gone.

    Args:
        command: What to execute.
        shared: The sockets that it inherits; closed when it serves another address, or none.
        rebind: Whether another address is bound for the next child; else this one binds it.
    """

    def __init__(self, command: Sequence[str], shared: SharedSockets, *, rebind: bool = True) -> None:
        self._shared = shared
        self._rebind = rebind
        self._ended = anyio.Event()
        self._stops_within: float | None = None
        """Seconds that a stop may take; None until the child listens to us."""
        self.serves: anyio.Event = anyio.Event()
        self.wanted_address: BoundAddress | None = None
        """What is to be bound for the next child."""
        self.report: ShutdownReport | None = None
        """Once it has ended as it should."""
        self._channel, theirs = Pipe()
        descriptors = [sock.fileno() for sock in shared.sockets]
        environment = {**os.environ, ENVIRONMENT: f"{os.getpid()} {theirs.fileno()}"}
        with theirs, interrupts_blocked():
            self._channel.send((shared.address, descriptors, rebind))
            signal_at_close(theirs, True)  # before the child can switch it off
            self._process = subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(), *descriptors))
            fcntl.fcntl(theirs, fcntl.F_SETOWN, self._process.pid)

    @property
    def has_served(self) -> bool:
        """Whether it has come to serve, and may have accepted something."""
        return self.serves.is_set()

    async def run(self) -> int:
        """Listen to the child until it has ended; returns its exit status, negative for the signal that killed it."""
        status = 0
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, heard_out := anyio.Event())
                group.start_soon(self._kill_at_end)
                status = await anyio.to_thread.run_sync(self._process.wait)  # ends surely: see `_kill_at_end`
                self._ended.set()
                with anyio.move_on_after(START_GRACE):  # a process that it left behind may hold the channel open
                    await heard_out.wait()
                group.cancel_scope.cancel()
            return status
        finally:
            self._channel.close()

    async def stop(self, grace: float | None = None) -> None:
        """Have the child finish what it has accepted, cut it off after `grace` seconds, and kill it at last.

        Args:
            grace: None: for as long as the child was told to.
        """
        if self._stops_within is None:  # a signal more would count as the second one of a child that listens
            self._process.terminate()
            if await self._ends_within(START_GRACE):
                return
        if self._stops_within is not None:  # maybe since, and the signal has begun its stop
            self.order(STOP)
            if await self._ends_within(self._stops_within if grace is None else grace):
                return
            self.order(FORCE)
            if await self._ends_within(FORCE_GRACE):
                return
        self._process.kill()

    def order(self, order: str) -> None:
        """Send `STOP` or `FORCE` to the child, unless it is gone."""
        with suppress(OSError):
            self._channel.send(order)

    async def _kill_at_end(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._process.kill()

    async def _ends_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._ended.wait()
        return self._ended.is_set()

    async def _listen(self, heard_out: anyio.Event) -> None:
        while (message := await receive(self._channel)) is not None:
            match message:
                case ("begun", address, stops_within):
                    self._stops_within = stops_within
                    if address != self._shared.address:
                        self._shared.close()
                        self.wanted_address = address if self._rebind else None
                case ShutdownReport():
                    self.report = message
                case _:
                    self.serves.set()
        heard_out.set()


@contextmanager
def interrupts_blocked() -> Generator[None, None, None]:
    """Ctrl-C reaches what is started here only once it asks for it: a program that starts would answer a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def own_command() -> list[str]:
    """The command that started this process, options of the interpreter included.

    Raises:
        ServeError: There is none: Python is embedded, or interactive.
    """
    if len(sys.orig_argv) < 2 or not sys.executable:
        raise ServeError("serve(dev=True) starts its program again, and there is no program here: use dev=False")
    return [sys.executable, *sys.orig_argv[1:]]


def status_of(return_code: int) -> int:
    """An exit status as a shell has it: 128 and the signal's number for a process that was killed."""
    return return_code if return_code >= 0 else 128 - return_code


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


# --- source files


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
    """The Python files below `root` that were saved, moved or removed, together each time; the caller closes it.

    `stop` ends it at once; a mere cancellation waits for the thread that watches, up to a second.
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
