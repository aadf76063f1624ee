"""A program's traceback as its author wants to read it: without the frames of those who loaded it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from traceback import FrameSummary, TracebackException

import click

OURS = str(Path(__file__).parent)
"""The directory of the command line's own code."""

LOADERS = ("<frozen importlib", "<frozen runpy")


def user_traceback(error: BaseException) -> str:
    """The formatted traceback, causes included, less the frames of the import system and of the command line."""
    trace = TracebackException.from_exception(error)
    for part in chain(trace):
        part.stack[:] = [frame for frame in part.stack if not is_foreign(frame)]
    return "".join(trace.format())


def chain(trace: TracebackException | None) -> Iterator[TracebackException]:
    """An exception, its causes and contexts, and the members of its groups."""
    if trace is None:
        return
    yield trace
    yield from chain(trace.__cause__)
    yield from chain(trace.__context__)
    for member in trace.exceptions or ():
        yield from chain(member)


def is_foreign(frame: FrameSummary) -> bool:
    """Whether a frame is none of the user's or of what the user calls."""
    return frame.filename.startswith((*LOADERS, OURS, str(Path(click.__file__).parent)))
