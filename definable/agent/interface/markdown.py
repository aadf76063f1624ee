"""The Markdown that models write, parsed: CommonMark and tables, with what chats need otherwise.

Four rules differ from CommonMark, each since it would lose text there: HTML is text, a reference definition stays where
it stands, indented text is no code but keeps its indentation (a fence is a fence at any indentation), and a row keeps
the cells that its header has no column for. Mathematics is not Markdown: `x_1` and `- y` stay as they are within `$`,
`$$`, `\\(` and `\\[`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.fence import fence
from markdown_it.rules_block.paragraph import paragraph
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.emphasis import tokenize
from markdown_it.rules_inline.newline import newline

from definable.agent.interface.splitting import TABLE_DELIMITER

_CELL = re.compile(r"((?:\\.|(?<!`)(`+)(?!`)[^\n]*?(?<!`)\2(?!`)|[^|])*)(?:\||$)")
"""A cell: an escaped pipe, and one within code, are part of it."""

_MATH = re.compile(r"\\\(.+?\\\)|\\\[.+?\\\]|\$\$.+?\$\$|\$(?! )[^$\n]*?[^\s$]\$(?!\d)", re.DOTALL)
"""A dollar closes with no space before it and no digit after it (Pandoc's tex_math_dollars): `$5 and $10` is text."""

_MATH_SIGNS = frozenset("\\^_={}+")
"""One of these is in mathematics; `\\[1\\]` is a bracket that was escaped."""

_MATH_ENDS = {"$$": "$$", "\\[": "\\]"}

CODE_INDENT = 4
"""Columns from which indented text is code (CommonMark)."""

_INDENT = re.compile(r" {2,}(?=\S)")
"""What stands in front of a line on purpose."""

_TASK = re.compile(r"\[(?P<mark>[ xX])\]\s+")


class _Parser(MarkdownIt):
    def normalizeLink(self, url: str) -> str:
        """As the model wrote it: Telegram takes addresses in any script, and it may be shown."""
        return url


@cache
def parser() -> MarkdownIt:
    """The one parser; its depth is not limited, since what is too deep would be dropped."""
    made = _Parser("commonmark", {"maxNesting": 1_000_000})
    made.disable(["html_block", "code", "reference", "lheading"]).enable("strikethrough")
    made.block.ruler.at("fence", _fence, {"alt": ["paragraph", "blockquote", "list"]})
    made.block.ruler.before("fence", "math_block", _math_block, {"alt": ["paragraph"]})
    made.block.ruler.before("paragraph", "rows", _table, {"alt": ["paragraph"]})
    made.block.ruler.at("paragraph", _paragraph)
    made.inline.ruler.at("newline", _newline)
    made.inline.ruler.before("escape", "math", _math)
    made.inline.ruler.at("emphasis", _emphasis)
    made.core.ruler.push("tasks", _tasks)
    return made


def _fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A block of code ends with its fence: models forget to indent code within a list."""
    indent, state.blkIndent = state.blkIndent, 0
    try:
        return fence(state, start, end, silent)
    finally:
        state.blkIndent = indent


def _paragraph(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Text keeps the indentation of its first line, as the code has that stands there without a fence."""
    indent = state.sCount[start] - state.blkIndent
    if not paragraph(state, start, end, silent):
        return False
    if indent >= CODE_INDENT:
        state.tokens[-2].content = " " * indent + state.tokens[-2].content
    return True


def _newline(state: StateInline, silent: bool) -> bool:
    """And that of its other lines: trees of files, code without a fence."""
    start = state.pos
    if not newline(state, silent):
        return False
    indent = _INDENT.match(state.src, start + 1)
    if indent is not None:
        state.pos = start + 1
    return True


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Mathematics over several lines."""
    closing = _MATH_ENDS.get(_line(state, start)[:2])
    if closing is None or closing in _line(state, start)[2:]:
        return False
    for line in range(start + 1, end):
        if _line(state, line).rstrip().endswith(closing):
            break
    else:
        return False
    if not silent:
        state.line = line + 1
        token = state.push("math", "", 0)
        token.map, token.content = [start, line + 1], state.getLines(start, line + 1, state.blkIndent, False)
    return True


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A token with all the rows; a line without a pipe is no row."""
    if start + 2 > end or state.sCount[start + 1] < state.blkIndent or "|" not in _line(state, start):
        return False
    delimiters = _line(state, start + 1)
    if "|" not in delimiters or not TABLE_DELIMITER.fullmatch(delimiters):
        return False
    if silent:
        return True
    rows, line = [_cells(_line(state, start))], start + 2
    while line < end and state.sCount[line] >= state.blkIndent and "|" in _line(state, line):
        rows.append(_cells(_line(state, line)))
        line += 1
    state.line = line
    token = state.push("table", "", 0)
    token.map, token.meta = [start, line], {"rows": rows}
    return True


def _cells(row: str) -> list[str]:
    cells = [found[1].replace("\\|", "|").strip() for found in _CELL.finditer(row.strip().removeprefix("|"))]
    while len(cells) > 1 and not cells[-1]:
        cells.pop()
    return cells


def _math(state: StateInline, silent: bool) -> bool:
    """Mathematics within a line."""
    found = _MATH.match(state.src, state.pos)
    if found is None or (found[0][0] == "\\" and _MATH_SIGNS.isdisjoint(found[0][2:-2])):
        return False
    if not silent:
        state.push("math", "", 0).content = found[0]
    state.pos = found.end()
    return True


def _emphasis(state: StateInline, silent: bool) -> bool:
    """One asterisk within a word is text: `2*3`. Asterisks beside a script without spaces may have punctuation on their
    other side: `**"a"**` within a sentence (https://github.com/commonmark/commonmark-spec/issues/650).
    """
    known, before = len(state.delimiters), state.src[state.pos - 1] if state.pos else " "
    if not tokenize(state, silent):
        return False
    after = state.src[state.pos : state.pos + 1] or " "
    is_product = (before + after).isascii() and before.isalnum() and after.isalnum()
    for delimiter in state.delimiters[known:]:
        if delimiter.marker == ord("*"):
            delimiter.open |= _is_wide(before) and not after.isspace()
            delimiter.close |= _is_wide(after) and not before.isspace()
            if is_product and delimiter.length == 1:
                delimiter.open = delimiter.close = False
    return True


def _tasks(state: StateCore) -> None:
    """GFM's task lists: the item knows whether it is done, and its text does not say so."""
    for item, _, text in zip(state.tokens, state.tokens[1:], state.tokens[2:], strict=False):
        found = _TASK.match(text.content) if item.type == "list_item_open" and text.type == "inline" else None
        if found is not None and text.children:
            item.meta["is_done"] = found["mark"] != " "
            text.children[0].content = _TASK.sub("", text.children[0].content, count=1)


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
