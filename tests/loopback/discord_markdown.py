"""How Discord's clients read a message's Markdown, by their own rules: what a user sees, and what else was understood.

Rules: Discord's library SimpleAST (SimpleMarkdownRules), "Markdown Text 101" and "Reference", Message Formatting.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

STYLES = {
    "bold": re.compile(r"\*\*([\s\S]+?)\*\*(?!\*)"),
    "underline": re.compile(r"__([\s\S]+?)__(?!_)"),
    "italic": re.compile(
        r"_((?:__|\\[\s\S]|[^\\_])+?)_(?![0-9A-Za-z_])"
        r"|\*(?=\S)((?:\\\*|\*\*|\s+(?:[^*\s]|\\\*|\*\*)|[^\s*])+?)(?<!\\)\*(?!\*)"
    ),
    "strikethrough": re.compile(r"~~([\s\S]+?)~~"),
    "spoiler": re.compile(r"\|\|([\s\S]+?)\|\|"),
}
ESCAPE = re.compile(r"\\([^0-9A-Za-z\s])")
CODE_BLOCK = re.compile(r"```(?:([\w+\-.]+?)?(\s*\n))?([^\n].*?)\n*```", re.DOTALL)
CODE = re.compile(r"(``?)(?!`)(.*?[^`])\1(?!`)", re.DOTALL)
URL = re.compile(r"https?://[^\s<]+[^<.,:;\"'\]\s]")
BRACKETED_URL = re.compile(r"<(https?://[^\s<>]+)>")
FORMATS = {
    "mention": re.compile(r"<(?:@[!&]?|#)\d+>"),
    "command": re.compile(r"</[^<>\n:]+:\d+>"),
    "emoji": re.compile(r"<a?:\w+:\d+>|:(?:b|a|x|o|v|m|key|smile|warning|name|value)\w*:"),
    "time": re.compile(r"<t:-?\d+(?::[tTdDfFsSR])?>"),
    "place": re.compile(r"<id:[\w:-]+>"),
    "contact": re.compile(r"<(?:mailto:|tel:|sms:)?[^\s<>@]+@[^\s<>@]+\.[^\s<>@]+>|<\+[\d() -]+>"),
}
QUOTE = re.compile(r" *>>> ?([\s\S]+)| *>(?!>>) ([^\n]*\n?)")
SUBTEXT = re.compile(r"-# (?!-#) *([^\n]+\n?)")
HEADING = re.compile(r"(#{1,3}) (?!#) *([^\n]+\n?)")
LIST = re.compile(r"( *)([+*-]|(\d+)\.) +([^\n]+(?:\n\1 {2}[^\n]+)*\n?)")
LINK = re.compile(r"\[((?:\\.|[^\]\\])*)\]\(\s*<?(https?://(?:\\.|[^)\s<>\\])*)>?\)")
TEXT = re.compile(r"[\s\S]+?(?=[^0-9A-Za-z\s\u00c0-\uffff]|\n|\w+:\S|$)")


@dataclass
class Read:
    """What a user sees of a message."""

    text: str = ""
    kinds: Counter[str] = field(default_factory=Counter[str])
    """How often each kind of markup was understood."""


@dataclass
class _State:
    starts_line: bool = True
    in_quote: bool = False
    in_link: bool = False


def read(content: str) -> Read:
    found = Read()
    _parse(content, found, _State())
    return found


def _parse(source: str, found: Read, state: _State) -> None:
    at = 0
    while at < len(source):
        rest = source[at:]
        at += _block(rest, found, state) or _inline(rest, found, state) or _plain(rest, found, state)


def _block(rest: str, found: Read, state: _State) -> int:
    if (match := CODE_BLOCK.match(rest)) and match[3].strip("`"):
        found.kinds["code block"] += 1
        found.text += f"\n{match[3]}\n"
        state.starts_line = True
        return match.end()
    if not state.starts_line:
        return 0
    if not state.in_quote and (match := QUOTE.match(rest)):
        state.in_quote = True
        _inside("quote", match[1] or match[2], found, state)
        state.in_quote, state.starts_line = False, True
        return match.end()
    for kind, rule, group in (("subtext", SUBTEXT, 1), ("heading", HEADING, 2)):
        if match := rule.match(rest):
            _inside(kind, match[group], found, state)
            state.starts_line = True
            return match.end()
    return _list(rest, found, state)


def _list(rest: str, found: Read, state: _State) -> int:
    at, number = 0, 0
    while match := LIST.match(rest[at:]):
        number = number + 1 if at and match[3] else int(match[3] or 0)  # it counts from its first number on
        found.text += f"{number}." if match[3] else "•"
        _inside("item", re.sub(rf"\n{match[1]}  ", "\n", match[4]), found, state)
        state.starts_line = True
        at += match.end()
    return at


def _inline(rest: str, found: Read, state: _State) -> int:
    if match := ESCAPE.match(rest):
        found.text += match[1]
        state.starts_line = False
        return match.end()
    if match := BRACKETED_URL.match(rest):
        found.text += match[1]
        found.kinds["url"] += 1
        return match.end()
    if match := URL.match(rest):
        found.text += match[0]
        return match.end()
    if (match := LINK.match(rest)) and "://" not in match[1] and not state.in_link:
        state.in_link = True
        _inside("link", match[1], found, state)
        state.in_link = False
        found.text += match[2]
        return match.end()
    for kind, rule in FORMATS.items():
        if match := rule.match(rest):
            found.kinds[kind] += 1
            return match.end()
    if match := CODE.match(rest):
        found.kinds["code"] += 1
        found.text += match[2]
        return match.end()
    for kind, rule in STYLES.items():
        if match := rule.match(rest):
            _inside(kind, match[1] or match[2], found, state)
            return match.end()
    return 0


def _inside(kind: str, content: str, found: Read, state: _State) -> None:
    found.kinds[kind] += 1
    _parse(content, found, state)


def _plain(rest: str, found: Read, state: _State) -> int:
    match = TEXT.match(rest)
    text = match[0] if match else rest[0]
    found.text += text
    for character in text:
        state.starts_line = character == "\n" or (state.starts_line and character.isspace())
    return len(text)
