"""Development mode: a parent that watches the source files and keeps one serving child up to date. POSIX only.

`entry.serve` and `definable serve --dev` come here. The parent never serves: it binds the listening sockets and starts
the same command again as a child (`process.py`), whose `serve` takes them over (`child.py`). They stay open over the
children, so connections wait in the kernel's queue between two of them.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from importlib.util import cache_from_source
from pathlib import Path

import anyio
from watchfiles import Change, DefaultFilter, awatch

import definable
from definable.agent.runtime.logging import Block
from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.shutdown import ShutdownReport
from definable.agent.runtime.signals import SignalWatcher
from definable.concurrency.event_loop import EventLoopHandle, plain_errors, run_blocking
from definable.concurrency.logs import logger_named
from definable.errors import ServeError
from definable.server import BoundAddress

from .child import FORCE
from .process import ChildProcess, SharedSockets, status_of

logger: logging.Logger = logger_named("definable.dev")

RELOAD_GRACE = 2.0
"""Seconds that a restart gives to what was accepted."""

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
    address = None if settings.enable_server is False else settings.address
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
        self._saved = set[Path]()
        """Since the last child was started."""
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
                self._saved.update(paths)
                if problems := syntax_errors(paths):
                    logger.error("%s", Block(f"this does not compile: waiting for the next save\n{problems}"))
                else:
                    self._reload(", ".join(path.name for path in paths) + " changed")

    async def _serve_generations(self) -> None:
        first = rebind = True
        while not self._stopping:
            self._change = anyio.Event()
            while self._saved:
                forget_bytecode(self._saved.pop())
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


def own_command() -> list[str]:
    """The command that started this process, options of the interpreter included.

    Raises:
        ServeError: There is none: Python is embedded, or interactive.
    """
    if len(sys.orig_argv) < 2 or not sys.executable:
        raise ServeError("serve(dev=True) starts its program again, and there is no program here: use dev=False")
    return [sys.executable, *sys.orig_argv[1:]]


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


def forget_bytecode(source: Path) -> None:
    """Remove what Python keeps of a source: it goes by size and second, and does not see a save within the same one
    (https://docs.python.org/3/reference/import.html#cached-bytecode-invalidation)."""
    with suppress(OSError, NotImplementedError):  # there is none, or Python keeps none at all
        os.unlink(cache_from_source(source))


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
