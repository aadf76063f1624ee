"""Long replies in pieces that a platform takes: pure.

Lengths are UTF-16 code units, as Telegram and Discord's clients count: most characters are one, emoji two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from definable.json_text import well_formed

_FENCE = re.compile(r" {0,3}(?P<marker>(?P<mark>`|~)(?P=mark){2,})(?P<info>.*)")
"""CommonMark 4.5: a line that opens or closes a block of code."""

_BREAKS = (r"\n[ \t]*(?=\n)", r"\n", r"(?<=[.!?]) ", r"[ \t]")
"""Where a text may be cut, the best first: between paragraphs, lines, sentences, words."""

_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
_BLANKS = re.compile(r"[ \t]*(?:[ \t]*\n)*")


@dataclass(frozen=True, slots=True)
class _Fence:
    """A block of code that is open."""

    line: str
    """What opens it, with its language."""
    marker: str

    @property
    def opening(self) -> str:
        return f"{self.line}\n"

    @property
    def closing(self) -> str:
        return f"\n{self.marker}"


def utf16_length(text: str) -> int:
    """UTF-16 code units of a text."""
    return len(text) if text.isascii() else len(text) + sum(character > "\uffff" for character in text)


def split_text(text: str, limit: int) -> list[str]:
    """A text in pieces of at most `limit` UTF-16 code units.

    Cut between paragraphs where that is possible, else between lines, sentences or words; within a word only when it is
    longer than a piece. A block of code that is cut is closed at the end of its piece and opened again in the next one,
    unless the pieces are too short for that. White space at a cut is dropped outside of code. A text of nothing but
    white space has no pieces. The pieces are `well_formed`.

    Args:
        text: Markdown or plain text.
        limit: UTF-16 code units.
    """
    text = well_formed(text)
    pieces: list[str] = []
    fence: _Fence | None = None
    at = 0
    while at < len(text):
        opening = fence.opening if fence is not None else ""
        if len(text) - at <= limit and utf16_length(opening) + utf16_length(text[at:]) <= limit:
            pieces.append(opening + text[at:])
            break
        body, at, fence = _cut(text, at, limit, fence)
        pieces.append(body)
    return [piece for piece in pieces if piece.strip()]


def _cut(text: str, at: int, limit: int, fence: _Fence | None) -> tuple[str, int, _Fence | None]:
    """The piece that begins at `at`, where the next one begins, and the block of code that goes on in it."""
    window = text[at : at + limit + 1]
    room = limit - _longest_closing(window, fence) - (utf16_length(fence.opening) if fence is not None else 0)
    if room < limit // 2 or room < 1:  # more fence than code: the block is not mended
        end = _end(window, limit, in_code=False)
        return window[:end], at + end, None
    end = _before_fence_line(window, _end(window, room, in_code=fence is not None))
    body, inside = window[:end], _open_fence(window[:end], fence)
    opening = fence.opening if fence is not None else ""
    if inside is not None:
        return f"{opening}{body}{inside.closing}", at + end + text.startswith("\n", at + end), inside
    blanks = (_BLANK_LINES if text.startswith("\n", at + end) else _BLANKS).match(text, at + end)
    return opening + body.rstrip(), at + end if blanks is None else blanks.end(), None


def _end(window: str, room: int, *, in_code: bool) -> int:
    """Where to cut a text that has no room as a whole."""
    fitting = window[: _index(window, room)]
    least = 1 if in_code else len(fitting) // 2
    for pattern in _BREAKS[1:] if in_code else _BREAKS:
        end = max((found.start() for found in re.finditer(pattern, window[: len(fitting) + 1])), default=0)
        if end >= max(least, 1):
            return end
    return max((found.start() for found in re.finditer(r"\s", fitting)), default=0) or len(fitting)


def _index(text: str, units: int) -> int:
    """How many characters have room in so many code units; at least one."""
    index = min(units, len(text))
    while index > 1 and utf16_length(text[:index]) > units:
        index -= max(1, (utf16_length(text[:index]) - units) // 2)
    return max(index, 1)


def _before_fence_line(window: str, end: int) -> int:
    """The cut moved to the beginning of its line when the line opens or closes a block of code."""
    start = window.rfind("\n", 0, end) + 1
    stop = window.find("\n", end)
    line = window[start : len(window) if stop < 0 else stop]
    is_inside = start < end < start + len(line)
    return start - 1 if is_inside and start > 1 and _FENCE.fullmatch(line) else end


def _open_fence(text: str, fence: _Fence | None) -> _Fence | None:
    """The block of code that is open after a text, given the one that is open before it."""
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line)
        if found is None:
            continue
        marker, info = found["marker"], found["info"]
        if fence is None:
            fence = None if found["mark"] == "`" and "`" in info else _Fence(line, marker)
        elif marker.startswith(fence.marker) and not info.strip():
            fence = None
    return fence


def _longest_closing(window: str, fence: _Fence | None) -> int:
    markers = [found["marker"] for line in window.split("\n") if (found := _FENCE.fullmatch(line))]
    markers += [fence.marker] if fence is not None else []
    return max(map(len, markers), default=-1) + 1
