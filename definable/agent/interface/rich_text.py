"""A text and how it looks, as stretches of it: what Markdown becomes for platforms that show neither it nor HTML.

Stretches rather than markup: nothing needs to be escaped, so no text of a model's can break a message. What the model
wrote is what the user reads: every character that is not markup is in the text, or in the address of a link.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .splitting import utf16_length


@dataclass(frozen=True, slots=True)
class Entity:
    """How a stretch of a text looks, by the types of Telegram's Bot API; offset and length are UTF-16 code units."""

    type: str
    offset: int
    length: int
    url: str | None = None
    language: str | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length


class Page:
    """A text that is written piece by piece, with its entities.

    White space between blocks is written only before what comes next.
    """

    def __init__(self) -> None:
        self.length: int = 0
        """UTF-16 code units."""
        self.entities: list[Entity] = []
        self.marks: list[Entity] = []
        """What a platform with a markup of its own has signs for: headings ("h1" to "h6"), which are bold besides, the
        markers of list items ("item"), and the images among the links ("image")."""
        self.indent = ""
        """Before each line."""
        self._parts: list[str] = []
        self._gap = 0
        self._is_fresh = True
        """Whether nothing was written since a block began."""

    @property
    def text(self) -> str:
        """What was written."""
        return "".join(self._parts)

    def gap(self, lines: int) -> None:
        """A block ends: what comes next is so many lines further down."""
        if not self._is_fresh:
            self._gap = max(self._gap, lines)

    def new_line(self) -> None:
        """What comes next begins a line."""
        if self._parts and not self._parts[-1].endswith("\n"):
            self._gap = max(self._gap, 1)

    def start(self) -> int:
        """Where the next character will be."""
        if self._gap:
            self._put("\n" * self._gap + self.indent)
            self._gap, self._is_fresh = 0, True
        return self.length

    def write(self, text: str) -> None:
        """Write a text, which may have several lines."""
        if text:
            self.start()
            self._put(re.sub(r"\n(?=.)", "\n" + self.indent, text) if self.indent else text)
            self._is_fresh = False

    def mark(self, marker: str) -> None:
        """Write what stands before a block in its first line."""
        self.write(marker)
        self._is_fresh = True

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self.length += utf16_length(text)
