"""Development mode: a parent that watches the source files and keeps one serving child up to date.

`entry.serve` and `definable serve --dev` come here. The parent never serves: it starts the same command again as a
child (`dev_process.py`), whose `serve` finds its `Inheritance` and does (`dev_child.py`). The listening sockets are the
child's to bind and the parent's to keep, so that connections wait in the kernel's queue between two children.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

import anyio

from definable.agent.blocking import run_blocking
from definable.agent.event_loop import EventLoopHandle
from definable.errors import ServeError

from .dev_channel import FORCE
from .dev_files import saved_files, syntax_errors, watched_root
from .dev_process import DevProcess, KeptSockets
from .log_text import Block
from .plain_errors import plain_errors
from .report import ShutdownReport
from .signals import SignalWatcher

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
