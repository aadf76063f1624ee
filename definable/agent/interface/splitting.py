"""Long replies in pieces that a platform takes: pure.

Lengths are UTF-16 code units, as Telegram and Discord's clients count: most characters are one, emoji two.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from definable.json_text import well_formed

_FENCE = re.compile(
    r"(?P<before>(?:[ \t>]|[-*+][ \t]|[0-9]{1,9}[.)][ \t])*)(?P<marker>(?P<mark>`|~)(?P=mark){2,})(?P<info>.*)"
)
"""A line that opens or closes a block of code (CommonMark 4.5), at any indentation, in quotations and list items."""

TABLE_DELIMITER = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*(?:\|[ \t]*)?")
"""The line beneath a table's header (GFM, Tables); it has a pipe."""

_BREAKS = (r"\n[ \t]*(?=\n)", r"\n", r"(?<=[.!?]) ", r"[ \t]")
"""Where a text may be cut, the best first: between paragraphs, lines, sentences, words."""

_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
_BLANKS = re.compile(r"[ \t]*(?:[ \t]*\n)*")


_VIRAMAS = frozenset("\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d")
"""They join consonants in Indic scripts (Unicode Standard Annex 29, GB9c)."""

_EXTENDING = frozenset("\u0e33\u0eb3\u200c\u200d")
"""What belongs to the character before it, beside marks: Thai and Lao AM, and the joiners."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of code or a table that a cut goes through."""

    opening: str
    """What the next piece begins with: the fence, or the table's header and the line beneath."""
    closing: str = ""
    """What a piece ends with."""
    marker: str = ""
    """The fence's; empty for a table."""
    is_quoted: bool = False

    def holds(self, line: str) -> bool:
        """Whether a line may be part of it: code goes on until its fence, a table or a quotation has a sign for it."""
        if not self.marker:
            return "|" in line
        return not self.is_quoted or line.lstrip().startswith(">")


def utf16_length(text: str) -> int:
    """UTF-16 code units of a text."""
    return len(text) if text.isascii() else len(text) + sum(character > "\uffff" for character in text)


def split_text(text: str, limit: int) -> list[str]:
    """A text in pieces of at most `limit` UTF-16 code units.

    Cut between paragraphs where that is possible, else between lines, sentences or words; within a word only when it is
    longer than a piece, and then between characters as people see them. A block of code that is cut is closed at the
    end of its piece and opened again in the next one, and a table's next piece begins with its header, unless the
    pieces are too short for that. White space at a cut is dropped outside of code. A text of nothing but white space
    has no pieces. The pieces are `well_formed`.

    Args:
        text: Markdown or plain text.
        limit: UTF-16 code units.
    """
    text = well_formed(text)
    pieces: list[str] = []
    block: _Block | None = None
    at = 0
    while at < len(text):
        opening = block.opening if block is not None else ""
        if len(text) - at <= limit and utf16_length(opening) + utf16_length(text[at:]) <= limit:
            pieces.append(opening + text[at:])
            break
        body, at, block = _cut(text, at, limit, block)
        pieces.append(body)
    return [piece for piece in pieces if piece.strip()]


def _cut(text: str, at: int, limit: int, block: _Block | None) -> tuple[str, int, _Block | None]:
    """The piece that begins at `at`, where the next one begins, and the block that goes on in it."""
    window = text[at : at + limit + 1]
    opening = block.opening if block is not None else ""
    available = limit - _longest_closing(window, block) - utf16_length(opening)
    if available < limit // 2 or available < 1:  # more fence than code: the block is not mended
        end = _end(window, limit, in_block=False)
        return window[:end], at + end, None
    end = _before_whole_lines(window, _end(window, available, in_block=block is not None))
    body, inside = window[:end], _open_block(window[:end], block)
    if inside is not None and text.startswith("\n", at + end) and not inside.holds(_line(text, at + end + 1)):
        inside = None  # it ends here
    if inside is not None:
        return f"{opening}{body}{inside.closing}", at + end + text.startswith("\n", at + end), inside
    blanks = (_BLANK_LINES if text.startswith("\n", at + end) else _BLANKS).match(text, at + end)
    return opening + body.rstrip(), at + end if blanks is None else blanks.end(), None


def _end(window: str, available: int, *, in_block: bool) -> int:
    """Where to cut a text that is too long as a whole."""
    fitting = window[: _index(window, available)]
    least = 1 if in_block else len(fitting) // 2
    for pattern in _BREAKS[1:] if in_block else _BREAKS:
        end = _last_break(pattern, window[: len(fitting) + 1])
        if end >= max(least, 1):
            return end
    return _last_break(r"\s", fitting) or next(
        (end for end in range(len(fitting), len(fitting) // 2, -1) if not _is_joined(window, end)), len(fitting)
    )


def _last_break(pattern: str, text: str) -> int:
    starts = [found.start() for found in re.finditer(pattern, text)]
    return next((start for start in reversed(starts) if not _is_joined(text, start + 1)), 0)


def _is_joined(text: str, index: int) -> bool:
    """Whether a reader sees one character where a text would be cut (Unicode Standard Annex 29)."""
    before, after = text[index - 1 : index], text[index : index + 1]
    if not (before and after) or before == "\n" or (before + after).isascii():
        return False
    if after in _EXTENDING or unicodedata.category(after)[0] == "M" or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if "\U000e0020" <= after <= "\U000e007f":  # the letters of England's flag
        return True
    if before == "\u200d" or (before in _VIRAMAS and unicodedata.category(after) == "Lo"):
        return True
    if _is_flag_letter(before) and _is_flag_letter(after):
        letters = next((count for count in range(1, index) if not _is_flag_letter(text[index - count - 1])), index)
        return letters % 2 == 1
    return _is_syllable(before, after)


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _is_syllable(before: str, after: str) -> bool:
    """Whether both are letters of one Korean syllable that was written letter by letter."""
    if "\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7fb":
        return "\u1100" <= before <= "\u11ff" or "\ua960" <= before <= "\ua97c" or "\uac00" <= before <= "\ud7fb"
    is_first = "\u1100" <= before <= "\u115f" or "\ua960" <= before <= "\ua97c"
    return is_first and ("\u1100" <= after <= "\u115f" or "\uac00" <= after <= "\ud7a3")


def _index(text: str, units: int) -> int:
    """How many characters have room in so many code units; at least one."""
    index = min(units, len(text))
    while index > 1 and utf16_length(text[:index]) > units:
        index -= max(1, (utf16_length(text[:index]) - units) // 2)
    return max(index, 1)


def _before_whole_lines(window: str, end: int) -> int:
    """The cut moved to the beginning of its line when the line opens or closes a block of code, and to the beginning of
    a table when it is between its header and its first row."""
    start = window.rfind("\n", 0, end) + 1
    line = _line(window, start)
    if start < end < start + len(line) and start > 1 and _FENCE.fullmatch(line):
        return start - 1
    for beneath in (end + 1, start):  # the header, or the line beneath, would be the last of its piece
        header = window.rfind("\n", 0, max(beneath - 1, 0)) + 1
        if header > 1 and "|" in _line(window, header) and _is_delimiter(_line(window, beneath)):
            return header - 1
    return end


def _open_block(text: str, block: _Block | None) -> _Block | None:
    """The block that is open after a text, given the one that is open before it."""
    before = ""
    for line in text.split("\n"):
        if block is not None and not block.holds(line):
            block = None
        if (found := _FENCE.fullmatch(line)) is not None:
            block = _after_fence(found, block)
        elif block is None and "|" in before and _is_delimiter(line):
            block = _Block(f"{before}\n{line}\n")
        before = line
    return block


def _after_fence(found: re.Match[str], block: _Block | None) -> _Block | None:
    """The block that is open after a line that looks like a fence."""
    marker, info = found["marker"], found["info"]
    if block is None or not block.marker:
        if found["mark"] == "`" and "`" in info:
            return block
        indent = re.sub(r"[^ \t>]", " ", found["before"])
        return _Block(f"{indent}{marker}{info}\n", f"\n{indent}{marker}", marker, ">" in indent)
    is_end = marker.startswith(block.marker) and not info.strip() and not found["before"].strip(" \t>")
    return None if is_end else block


def _longest_closing(window: str, block: _Block | None) -> int:
    fences = [found for line in window.split("\n") if (found := _FENCE.fullmatch(line))]
    lengths = [len(found["before"]) + len(found["marker"]) + 1 for found in fences]
    return max([*lengths, len(block.closing) if block is not None else 0])


def _line(text: str, start: int) -> str:
    stop = text.find("\n", start)
    return text[start:] if stop < 0 else text[start:stop]


def _is_delimiter(line: str) -> bool:
    return "|" in line and TABLE_DELIMITER.fullmatch(line.lstrip(" \t>")) is not None
