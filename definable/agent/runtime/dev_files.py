"""Which files make the service restart, and whether they can: `dev_reload.py` asks."""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

import anyio
from watchfiles import Change, DefaultFilter, awatch

import definable

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
