"""One mutant against its tests, in a process of its own.

The process is forked from one that has imported what takes long, which halves the time of a trial; nothing of
`definable` is among that, so that each trial imports the mutated copy.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from .mutants import Mutant
from .rooms import Room

HEAVY = (
    "anyio",
    "coredis",
    "croniter",
    "httpx2",
    "hypercorn",
    "hypothesis",
    "openai",
    "pydantic",
    "pytest",
    "quart_trio",
)

COPIED = ("definable", "tests", "examples", "benchmarks", "pyproject.toml", "README.md")

TEST_LIMIT = 8
"""Seconds that one test may take; those that are run take one at most, where nothing else needs the processor. With
more to do for it they may take so long with any mutant, which would count as killed: then they need more."""

NOT_RUN = 70
"""The exit code when pytest itself could not run; of its own codes, 1 is a failed test and 2 a failed import."""

NOTICED_NOTHING = (0, 5)
"""Exit codes of pytest: all have passed, or there was none to run."""

HUNG = re.compile(r"\++ Timeout \++")
"""How pytest-timeout begins what it says of a test, before it ends the process."""

SLOWNESS = 5
"""So many times what the tests take without a mutant may they take with one: a mutant may make all of them slower, and
each single one be within its limit."""

PYTEST = (
    "-x",
    "--tb=no",
    "-rfE",
    "--timeout-method=thread",  # ends the process: an exception may be swallowed by what hangs
    "-pno:schemathesis",  # no room needs it, and it takes a second
    "-Wignore::pytest.PytestAssertRewriteWarning",  # of plugins that are among `HEAVY`
    "--hypothesis-profile=ci",  # the same examples each time: the seed is to decide alone
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which what still runs is held to hang."""

    test: int
    run: float
    """One of pytest; a trial has two."""


class Outcome(StrEnum):
    KILLED = "killed"
    SURVIVED = "survived"
    TIMED_OUT = "timed out"
    """Killed too: a test noticed nothing, but never ended."""


@contextlib.contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A copy of the repository that may be broken."""
    with TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        for part in COPIED:
            if (root / part).is_dir():
                shutil.copytree(root / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / part).exists():
                shutil.copy2(root / part, copy / part)
        yield copy


def import_heavy() -> None:
    """Import what no trial changes; a package that is not installed is not needed."""
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "definable" not in sys.modules


def try_mutant(copy: Path, mutant: Mutant, room: Room, limits: Limits) -> tuple[Outcome, str]:
    """Put a mutant into the copy for the length of its tests.

    Returns:
        The outcome, and pytest's word on what failed.
    """
    file = copy / mutant.module
    original, times = file.read_text(), file.stat()
    file.write_text(mutant.source(original))
    try:
        for files in filter(None, room.test_files(copy, mutant.module)):
            outcome, said = try_tests(copy, files, room.not_selected, limits)
            if outcome is not Outcome.SURVIVED:
                return outcome, said
        return Outcome.SURVIVED, ""
    finally:
        file.write_text(original)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # its bytecode is good again


def try_tests(
    copy: Path, files: Sequence[str], deselected: str, limits: Limits, *, is_mutated: bool = True
) -> tuple[Outcome, str]:
    """Run test files in the copy. What is not mutated leaves its bytecode to those that come after it.

    Returns:
        The outcome, and pytest's word on what failed.
    """
    report = copy / "report.txt"
    pid = os.fork()
    if pid == 0:
        sys.dont_write_bytecode = is_mutated
        selection = ["-k", f"not ({deselected})"] if deselected else []
        run_pytest(copy, report, [f"--timeout={limits.test}", *files, *selection])
    status = wait_for(pid, limits.run)
    end_group(pid)
    if status is None:
        return Outcome.TIMED_OUT, f"no end within {limits.run:.0f} seconds"
    lines = report.read_text(errors="replace").splitlines()
    if any(HUNG.fullmatch(line) for line in lines):
        return Outcome.TIMED_OUT, f"a test did not end within {limits.test} seconds"
    failure = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), None)
    if status == NOT_RUN and failure is None:  # it also ends so when what a failed test left is collected at its end
        raise RuntimeError("\n".join(["pytest could not run:", *lines]))
    said = failure or (lines[-1] if lines else "")
    return (Outcome.SURVIVED if status in NOTICED_NOTHING else Outcome.KILLED), said


def run_pytest(copy: Path, report: Path, arguments: list[str]) -> NoReturn:
    """What the forked process does."""
    code = NOT_RUN
    try:
        os.setsid()  # a group of its own, which is ended as a whole
        output = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path.insert(0, str(copy))
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        import pytest  # in the forked process alone

        code = int(pytest.main([*PYTEST, *arguments]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(pid: int, limit: float) -> int | None:
    """The exit code of a child; None when it did not end in time."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def end_group(pid: int) -> None:
    """End what a trial left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
