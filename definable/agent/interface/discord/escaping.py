"""A backslash before what Discord would read as markup: pure.

Rules: Discord's "Reference", Message Formatting; its help page "Markdown Text 101"; its library SimpleAST
(SimpleMarkdownRules).
"""

from __future__ import annotations

import re

APART = "\u200b"
"""A space without width, between signs that would be read as one."""

_LANGUAGE = re.compile(r"[A-Za-z0-9_+.-]+")
_FORMAT = re.compile(r"<(?=[@#:+]|/[^<>\n]*:\d+>|(?:a|t|id|mailto|tel|sound|https?|discord):|[^\s<>]*@)")
"""What begins a mention, an emoji, a time, a link and the like (Discord's "Reference", Message Formatting)."""

_EMOJI = re.compile(r"(?<=\w):(?=[\w+-]*[A-Za-z+-][\w+-]*:)")
"""A colon within a word: `a:b:c` would show the sign of a blood group."""

_LINK = re.compile(r"\[(?=[^\]\n]*\]\(\s*<?[a-z]+:)")
_NUMBER = re.compile(r" *(?:\d+(?=\. ))?")
_LINE_START = re.compile(r"(?=#{1,3} |-# |[-*+] |>(?:>>)? )|(?<=\d)(?=\. )")


def escaped(text: str, at: int, to: int, *, is_start: bool, in_link: bool, underscored: bool) -> str:
    """A piece of a line with a backslash before whatever Discord would read as markup."""
    line_end = text.find("\n", to)
    line_end = len(text) if line_end < 0 else line_end
    marks = {found.start() for rule in (_FORMAT, _EMOJI, _LINK) for found in rule.finditer(text, at, line_end)}
    if is_start:
        first = _NUMBER.match(text, at, line_end)
        start = at if first is None else first.end()  # a heading, a quotation or an item
        if _LINE_START.match(text, start, line_end):
            marks.add(start)
    out: list[str] = []
    for index in range(at, to):
        character = text[index]
        before, after = text[index - 1] if index > at else "", text[index + 1] if index + 1 < to else ""
        if index in marks or _is_markup(character, before, after, in_link=in_link, underscored=underscored):
            out.append("\\")
        out.append(character)
    return "".join(out)


def _is_markup(character: str, before: str, after: str, *, in_link: bool, underscored: bool) -> bool:
    match character:
        case "*" | "`":
            return True
        case "\\":  # a backslash before letters, digits and white space is one
            return not ((after.isascii() and after.isalnum()) or after.isspace())
        case "_":  # within a word Discord leaves it alone, unless another one may end what it begins
            is_in_word = before.isascii() and before.isalnum() and after.isascii() and after.isalnum()
            return underscored or not is_in_word
        case "~" | "|":
            return character in (before, after) or not before or not after
        case "[" | "]":
            return in_link
        case _:
            return False


def code_block(code: str, language: str | None) -> str:
    name = language if language is not None and _LANGUAGE.fullmatch(language) else ""
    code = re.sub("`(?=``)", f"`{APART}", code)
    return f"```{name}\n{code}\n```"


def address(url: str) -> str:
    """An address without what would end the link."""
    return re.sub(r"[()<>\\ \t]", lambda found: f"%{ord(found[0]):02X}", url)
