"""Long replies in pieces that a platform takes: pure.

Lengths are UTF-16 code units, as Telegram and Discord's clients count: most characters are one, emoji two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})([^\n]*)")
"""CommonMark, 4.5: what opens or closes a block of code."""

_BREAKS = (re.compile(r"\n[ \t]*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?]) "), re.compile(r"[ \t]"))
"""Where a text may be cut, the best first: between paragraphs, lines, sentences, words."""


@dataclass(frozen=True, slots=True)
class _Fence:
    marker: str
    line: str
    """The whole line that opens the block, with its language."""


def utf16_length(text: str) -> int:
    """UTF-16 code units of a text."""
    return len(text) + sum(character > "\uffff" for character in text)


def split_text(text: str, limit: int) -> list[str]:
    """A text in pieces of at most `limit` UTF-16 code units.

    Cut between paragraphs where that is possible, else between lines, sentences or words, and within a word that is
    longer than a piece alone. A block of code that is cut is closed at the end of its piece and opened again in the next
    one. White space at a cut is dropped outside of code. A text of white space alone has no pieces.

    Args:
        text: Markdown or plain text.
        limit: UTF-16 code units.
    """
    pieces: list[str] = []
    fence: _Fence | None = None
    rest = text.strip("\n") if text.strip() else ""
    while rest:
        opening = f"{fence.line}\n" if fence is not None else ""
        if utf16_length(opening) + utf16_length(rest) <= limit:
            pieces.append(opening + rest)
            break
        body, rest, fence = _cut(rest, limit, fence, opening)
        if body.strip():
            pieces.append(body)
    return pieces


def _cut(rest: str, limit: int, fence: _Fence | None, opening: str) -> tuple[str, str, _Fence | None]:
    """The first piece, what is left, and the block of code that the cut goes through."""
    room = limit - utf16_length(opening) - (len(fence.marker) + 1 if fence is not None else 0)
    if room < max(1, limit // 2) and fence is not None:  # no room for code beside its fences: let them go
        room, opening, fence = limit, "", None
    end = _end(rest, room, in_code=fence is not None)
    inside = _open_fence(rest[:end], fence)
    if inside is not None and fence is None:
        end = _end_before_code(rest, end, limit - len(inside.marker) - 1, limit)
        inside = _open_fence(rest[:end], None)
    body, rest = rest[:end], rest[end:]
    if inside is None:
        return opening + body.rstrip(), rest.lstrip() if not _opens_indented(rest) else rest.lstrip("\n"), None
    body, rest = body.removesuffix("\n"), rest.removeprefix("\n")
    return f"{opening}{body}\n{inside.marker}", rest, inside
