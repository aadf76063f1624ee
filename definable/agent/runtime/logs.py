"""Logs of a process that `serve` or the command line owns: visible without any set-up.

A library's host configures its own logging; nothing here happens on import, and nothing when the program has.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal, TextIO, TypeAlias

from .log_context import RunContextFilter
from .log_json import JSONFormatter
from .log_text import TextFormatter

LogFormat: TypeAlias = Literal["text", "json"]

LEVELS = ("debug", "info", "warning", "error")


def ensure_visible() -> None:
    """Show `definable`'s and the program's records on standard error, unless the program has configured logging."""
    if not is_configured():
        show_logs()


def is_configured() -> bool:
    """Whether somebody receives `definable`'s records."""
    return logging.getLogger("definable").hasHandlers()


def show_logs(log_format: LogFormat | None = None, level: str | None = None, *programs: str) -> None:
    """Show records on standard error, as far as the program has not configured it otherwise.

    Args:
        log_format: Lines for people, or JSON for machines, in place of what the program shows on the console. None
            leaves a program's own logging alone, and shows lines for people where there is none.
        level: The lowest that is shown of `definable`'s and the program's own loggers; "info", where the program has
            set no level, when None. Other libraries' records show from warnings up.
        programs: The names of the program's own loggers, beside `__main__`.
    """
    if log_format is not None or not is_configured():
        show_on_console(log_format or "text")
    for name in ("definable", "__main__", *programs):
        logger = logging.getLogger(name)
        if level is not None or logger.level == logging.NOTSET:
            logger.setLevel((level or "info").upper())


def show_on_console(log_format: LogFormat) -> None:
    """Have one handler show all records on standard error, in place of others that show them on the console."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RunContextFilter())
    handler.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter(colour=is_colourful(sys.stderr)))
    root = logging.getLogger()
    for other in [each for each in root.handlers if is_console(each)]:
        root.removeHandler(other)
    root.addHandler(handler)


def is_console(handler: logging.Handler) -> bool:
    """Whether a handler shows records on the console, rather than keep or send them."""
    return type(handler) is logging.StreamHandler


def is_colourful(stream: TextIO) -> bool:
    """Whether a stream shows colours: a terminal, unless NO_COLOR (no-color.org) or a dumb one says no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
