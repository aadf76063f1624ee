"""Log lines for people: plain, or coloured on a terminal, and one line a record whatever is logged."""

from __future__ import annotations

import logging
import re
from textwrap import dedent

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
