"""A process as a test follows it: its lines as they come, its signals, its end; every wait is bounded."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

BOUND = 30.0
"""Seconds: a process that has not done by then what a test waits for will not."""


class WatchedProcess:
    """A Python process, killed with all that it started when the context is left.

    Args:
        arguments: What Python is given.
        cwd: Its directory.
        env: Variables beside this process's own.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        self.lines: list[str] = []
        self._read_until = 0
        self._changed = threading.Condition()
        self._ended = False
        self._seen: set[psutil.Process] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "WatchedProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.children(), self.process]:
            process.kill()
        self.process.wait()
        self._reader.join(timeout=BOUND)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for(self, pattern: str) -> str:
        """Wait for a line that no earlier wait has come to; returns the match's first group, or all of it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._find(pattern) is not None or self._ended, BOUND), self.text
            found = self._find(pattern)
        assert found is not None, f"{pattern!r} is not in:\n{self.text}"
        index, match = found
        self._read_until = index + 1
        return match[1] if match.groups() else match[0]

    def children(self) -> list[psutil.Process]:
        """The processes below it that live."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._seen.update(found)
        return [process for process in self._seen if process.is_running() and process.status() != "zombie"]

    def exit_status(self, bound: float = BOUND) -> int:
        """Wait for its end, for so many seconds."""
        status = self.process.wait(timeout=bound)
        self._reader.join(timeout=BOUND)
        return status

    @property
    def text(self) -> str:
        """All that it has said."""
        return "\n".join(self.lines)

    def _find(self, pattern: str) -> tuple[int, re.Match[str]] | None:
        for index in range(self._read_until, len(self.lines)):
            if (match := re.search(pattern, self.lines[index])) is not None:
                return index, match
        return None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
