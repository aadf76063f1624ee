"""Logs of a process that `serve` or the command line owns: visible without any set-up.

A library's host configures its own logging; nothing here happens on import, and nothing when the program has. One
formatter writes lines for people, one JSON for machines; a filter puts the ids of the run on every record.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any, Literal, TextIO, TypeAlias

from definable.agent.run.context import RunIds, current_ids, ids_of
from definable.concurrency.isolation import error_message


class RunContextFilter(logging.Filter):
    """Puts `run_id`, `session_id` and `trigger_id` on every record; each is "" where there is none.

    To be added to handlers: a logger's filters see only what is logged to that very logger. Records of handlers, tools
    and hooks get the ids too, also those logged in worker threads, and so does the record of a failure that was logged
    after its run had ended. With a `QueueHandler` it belongs there, not on the handlers behind the queue.

    Example:
        >>> import logging
        >>> from definable.agent.runtime import RunContextFilter
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(RunContextFilter())
        >>> handler.setFormatter(logging.Formatter("%(levelname)s %(run_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids; lets every record through."""
        ids = current_ids()
        if ids is None and record.exc_info and record.exc_info[1] is not None:
            ids = ids_of(record.exc_info[1])
        run_id, session_id, trigger_id = ids or NO_IDS
        for name, value in (("run_id", run_id), ("session_id", session_id), ("trigger_id", trigger_id)):
            if not hasattr(record, name):  # given by `extra=`
                setattr(record, name, value)
        return True


NO_IDS = RunIds()


UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators and what turns the direction of text: they could forge lines or hide them."""

COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}
"""SGR parameters (ECMA-48) of levels that should catch the eye."""

DIM, BOLD = "2", "1"


class Block(str):
    """A text of several lines that are our own: logged as they are, where any other line break is escaped."""

    __slots__ = ()


class TextFormatter(logging.Formatter):
    """`13:36:02 INFO definable: message (run_..., session_...)`.

    What is logged cannot forge a record: control characters are escaped, line breaks among them. The lines of a
    traceback and of a `Block` are indented.

    Args:
        colour: Whether to colour levels and dim what is less important, with ANSI sequences.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and the traceback's below it."""
        time = self._styled(self.formatTime(record, self.datefmt), DIM)
        level = self._styled(record.levelname, COLOURS.get(record.levelno, ""))
        line = f"{time} {level} {escaped(record.name)}: {self._message(record)}"
        ids = [value for name in ("run_id", "session_id", "trigger_id") if (value := getattr(record, name, ""))]
        if ids:
            line += self._styled(f" ({escaped(', '.join(map(str, ids)))})", DIM)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        for text in (record.exc_text, record.stack_info):
            if text:
                line += "\n" + indented(text)
        return line

    def _message(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and len(record.args) == 1 and isinstance(record.args[0], Block):
            first, _, rest = record.args[0].partition("\n")
            return self._styled(escaped(first), BOLD) + (f"\n{indented(dedent(rest))}" if rest else "")
        return escaped(record.getMessage())

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and style else text


def escaped(text: str) -> str:
    """A text without a character that does something to a terminal or ends a line: `\\n`, `\\x1b` are spelled out."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def indented(text: str) -> str:
    """Every line set off from where records begin, and safe."""
    return "\n".join(f"  {escaped(line)}" for line in text.split("\n"))


IDS = ("run_id", "session_id", "trigger_id")

STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", *IDS})
"""What every record has; the rest was given as `extra=`."""


class JSONFormatter(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "message": ..., "run_id": ...}`, and what was given as `extra=`.

    The time is UTC (RFC 3339). Ids are there when the record has them, `exception` with its traceback when it logs one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's line; ASCII, so that nothing logged can end it."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name in IDS if (value := getattr(record, name, ""))}
        if record.exc_info and record.exc_info[1] is not None:
            kind = type(record.exc_info[1])
            fields["exception"] = {
                "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
                "message": error_message(record.exc_info[1]),
                "traceback": self.formatException(record.exc_info),
            }
        fields |= {name: value for name, value in vars(record).items() if name not in STANDARD and name not in fields}
        return json.dumps(fields, default=repr)


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


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Shows records on standard error; one that cannot be shown takes nothing along.

    The standard library says on standard error that a record could not be shown, and raises where that fails too: into
    the task that logs, which may be one that the service cannot do without.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        """Say that a record could not be shown, where that can be said."""
        try:
            super().handleError(record)
        except Exception:  # standard error is closed, or no traceback can be made of the exception
            pass


def show_on_console(log_format: LogFormat) -> None:
    """Have one handler show all records on standard error, in place of others that show them on the console."""
    handler = ConsoleHandler(sys.stderr)
    handler.addFilter(RunContextFilter())
    handler.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter(colour=is_colourful(sys.stderr)))
    root = logging.getLogger()
    for other in [each for each in root.handlers if is_console(each)]:
        root.removeHandler(other)
    root.addHandler(handler)


def is_console(handler: logging.Handler) -> bool:
    """Whether a handler shows records on the console, rather than keep or send them."""
    return type(handler) in (logging.StreamHandler, ConsoleHandler)


def is_colourful(stream: TextIO) -> bool:
    """Whether a stream shows colours: a terminal, unless NO_COLOR (no-color.org) or a dumb one says no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
