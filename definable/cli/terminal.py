"""Text for a terminal: tables, and lines that stay lines. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from definable.agent.runtime.log_text import escaped


def single_line(text: str) -> str:
    """A text on one line, whatever is in it; nothing in it can move the cursor or colour the screen."""
    return escaped(" ".join(text.split("\n")))


def harmless(text: str) -> str:
    """A text for a terminal, its lines and tabs kept, without what could move the cursor or colour the screen."""
    return "\n".join("\t".join(map(escaped, line.split("\t"))) for line in text.split("\n"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    cells = [list(head), *[[escaped(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
