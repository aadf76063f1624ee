"""Parsed Markdown written onto a page, block by block; for every platform that shows text with entities."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from definable.concurrency.logs import logger_named

from .rich_text import Entity, Page

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

logger: logging.Logger = logger_named(__name__)

MAX_COLUMNS = 36
"""Characters of code that stand beside each other on a phone; a wider table is a list of its rows."""

STYLES = {
    "strong": "bold",
    "b": "bold",
    "em": "italic",
    "i": "italic",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "u": "underline",
    "ins": "underline",
    "code": "code",
    "tg-spoiler": "spoiler",
}
"""Entities by the parser's tokens, and by the tags that Telegram knows: all other HTML is text."""

_TAG = re.compile(r"<(?P<close>/)?(?P<name>[a-z-]+)>", re.IGNORECASE)
_LINE_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_SPOILER = re.compile(r"(?<!\S)\|\|(?=[^\s|])([^|\n]+)(?<=\S)\|\|(?![\w|])")
_NAME = re.compile(r"\w+", re.ASCII)


def pages(markdown: str) -> Iterator[Page]:
    """A text with entities, which may overlap where a platform does not have it; nothing where it cannot be formatted.

    At first with its tables in columns; then, since these cost white space, with lists of their rows.

    Args:
        markdown: What a model wrote.
    """
    if _parser() is None:
        return
    try:
        for columns in (MAX_COLUMNS, 0):
            yield _render(markdown, columns)
    except Exception:
        logger.warning("a reply could not be formatted, it is sent as it is", exc_info=True)


def _render(markdown: str, columns: int) -> Page:
    renderer = _Renderer(markdown, columns)
    parser = _parser()
    if parser is not None:
        renderer.blocks(parser.parse(markdown))
    return renderer.page


@cache
def _parser() -> MarkdownIt | None:
    try:
        from .markdown import parser  # the extras `telegram`, `discord` and `slack`
    except ImportError:
        logger.warning("replies are sent unformatted: pip install markdown-it-py, or the extra of the platform")
        return None
    return parser()


class _Renderer:
    def __init__(self, markdown: str, columns: int) -> None:
        self.page = Page()
        self._lines = re.split(r"\r\n?|\n", markdown)
        self._columns = columns
        self._open: list[tuple[str, int]] = []
        self._links: list[tuple[int, Token]] = []
        self._items: list[tuple[str, int, int]] = []
        """For each list: the last number as it is written and as it is shown, and how far the item is indented."""
        self._quotes = 0

        self._blocks: dict[str, Callable[[Token], None]] = {
            "inline": self._inline_block,
            "heading_open": lambda _: self._begin("bold"),
            "heading_close": self._close_heading,
            "fence": self._code,
            "math": lambda token: self.page.write(token.content),
            "hr": lambda _: self.page.write("———"),
            "table": self._table,
            "bullet_list_open": lambda _: self._items.append(("", 0, 0)),
            "bullet_list_close": lambda _: self._close_list(),
            "ordered_list_open": lambda _: self._items.append(("", 0, 0)),
            "ordered_list_close": lambda _: self._close_list(),
            "list_item_open": self._item,
            "list_item_close": self._close_item,
            "blockquote_open": self._quote,
            "blockquote_close": self._quote,
        }

    def blocks(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            self._separate(token)
            if (write := self._blocks.get(token.type)) is not None:  # none where a paragraph begins or ends
                write(token)

    def _separate(self, token: Token) -> None:
        """As many lines between two blocks as the model left."""
        if token.nesting >= 0 and token.map is not None and token.type != "inline":
            before = self._lines[token.map[0] - 1] if token.map[0] else ""
            self.page.gap(1 if before.strip(" \t>") else 2)

    def _quote(self, token: Token) -> None:
        """Quotations are not nested in Telegram."""
        if token.nesting > 0:
            self.page.new_line()
            if not self._quotes:
                self._begin("blockquote")
        elif self._quotes == 1:
            self._end()
        self._quotes += token.nesting

    def _item(self, token: Token) -> None:
        """The number that the model wrote; where all are the same, they count."""
        written, shown, _ = self._items[-1]
        is_done, marker, width = token.meta.get("is_done"), "" if "is_done" in token.meta else "• ", 2
        if token.info:
            shown = shown + 1 if token.info == written else int(token.info)
            marker, width = f"{shown}{token.markup} ", 3
        if marker:
            self._mark(marker)
        self.page.mark({None: "", False: "☐ ", True: "☑ "}[is_done])
        self._items[-1] = (token.info, shown, width)
        self.page.indent += " " * width

    def _mark(self, marker: str) -> None:
        self.page.marks.append(Entity("item", self.page.start(), len(marker)))
        self.page.mark(marker)

    def _close_heading(self, token: Token) -> None:
        start = self._open[-1][1]
        self.page.marks.append(Entity(token.tag, start, self.page.length - start))
        self._end()

    def _close_item(self, token: Token) -> None:
        self.page.indent = self.page.indent[: -self._items[-1][2]]

    def _close_list(self) -> None:
        self._items.pop()

    def _code(self, token: Token) -> None:
        info, code = token.info.strip(), token.content.rstrip("\n")
        self.page.new_line()
        language = info.split()[0] if info else None
        if info != (language or ""):
            self.page.write(info)
            self.page.gap(1)
        if code.strip():
            self._verbatim(code, language)

    def _verbatim(self, text: str, language: str | None = None) -> None:
        start, indent = self.page.start(), self.page.indent
        self.page.indent = ""
        self.page.write(text)
        self.page.indent = indent
        self._add("pre", start, language=language)

    def _table(self, token: Token) -> None:
        self.page.new_line()
        cells = [[_children(cell) for cell in row] for row in token.meta["rows"]]
        if (lines := self._in_columns(cells)) is not None:
            self._verbatim("\n".join(lines))
            return
        for number, row in enumerate(cells):
            if number == 0:
                self._begin("bold")
            else:
                self.page.gap(1)
                self._mark("• ")
            for column, cell in enumerate(row):
                self.page.write(" | " if column else "")
                self.inline(cell)
            if number == 0:
                self._end()

    def _in_columns(self, rows: Sequence[Sequence[list[Token]]]) -> list[str] | None:
        """The lines of a table; None when a phone has no room for them, or they would lose a link."""
        texts: list[list[str]] = []
        for row in rows:
            texts.append([])
            for cell in row:
                renderer = _Renderer("", self._columns)
                renderer.inline(cell)
                texts[-1].append(renderer.page.text)
                if "\n" in texts[-1][-1] or any(entity.url for entity in renderer.page.entities):
                    return None
        count = max(map(len, texts))
        texts = [[*row, *[""] * (count - len(row))] for row in texts]
        widths = [max(_width(row[column]) for row in texts) for column in range(count)]
        if sum(widths) + 3 * (count - 1) > self._columns:
            return None
        padded = [
            " | ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in texts
        ]
        return [padded[0], "-+-".join("-" * width for width in widths), *padded[1:]]

    # --- within a block

    def inline(self, children: Sequence[Token]) -> None:
        roles = _roles(children)
        for index, token in enumerate(children):
            role = roles.get(index, token.type)
            if role == "text":
                self._text(token.content)
            elif role in ("softbreak", "hardbreak"):
                self.page.write("\n")
            elif role in ("link_open", "link_close", "image"):
                self._link(token)
            elif role in ("begin", "strong_open", "em_open", "s_open"):
                self._begin(STYLES[token.tag or _tag(token)])
            elif role in ("end", "strong_close", "em_close", "s_close"):
                self._end()
            else:
                self._code_span(token) if role == "code_inline" else self.page.write(token.content or token.markup)

    def _inline_block(self, token: Token) -> None:
        self.inline(token.children or [])

    def _code_span(self, token: Token) -> None:
        self._begin("code")
        self.page.write(token.content)
        self._end()

    def _text(self, text: str) -> None:
        at = 0
        for found in _SPOILER.finditer(text):
            self.page.write(text[at : found.start()])
            self._begin("spoiler")
            self.page.write(found[1])
            self._end()
            at = found.end()
        self.page.write(text[at:])

    def _link(self, token: Token) -> None:
        """The text of a link, or of an image, and what makes it one."""
        if token.type == "link_open":
            self._links.append((self.page.start(), token))
        elif token.type == "link_close":
            self._address(*self._links.pop())
        else:
            start = self.page.start()
            self.inline(token.children or [])
            self._address(start, token)

    def _address(self, start: int, token: Token) -> None:
        """What Telegram makes no link of is shown with its address, as is an image within a link."""
        url, title = str(token.attrs.get("href") or token.attrs.get("src") or ""), token.attrs.get("title")
        if self.page.length == start:
            self.page.write(url)
        if token.info != "auto":
            if not self._links and _can_link(url):
                self._add("text_link", start, url=url.replace(" ", "%20"))
                if token.type == "image":
                    self.page.marks.append(Entity("image", start, self.page.length - start))
            elif url and not self.page.text.endswith(url):
                self.page.write(f" ({url})")
        if title:
            self.page.write(f" ({title})")

    def _begin(self, type: str) -> None:
        self._open.append((type, self.page.start()))

    def _end(self) -> None:
        type, start = self._open.pop()
        if all(type != each for each, _ in self._open):
            self._add(type, start)

    def _add(self, type: str, start: int, *, url: str | None = None, language: str | None = None) -> None:
        if self.page.length > start:
            self.page.entities.append(Entity(type, start, self.page.length - start, url, language))


def _roles(children: Sequence[Token]) -> dict[int, str]:
    """Tokens that are not what their type says: tags that format, and asterisks that are text."""
    roles: dict[int, str] = {}
    open_tags: list[int] = []
    opened: list[int] = []
    for index, token in enumerate(children):
        if token.type == "html_inline":
            if _LINE_BREAK.fullmatch(token.content):
                roles[index] = "hardbreak"
            elif open_tags and _closes(children[open_tags[-1]], token):
                roles |= {open_tags.pop(): "begin", index: "end"}
            elif _tag(token) in STYLES and not token.content.startswith("</"):
                open_tags.append(index)
        elif token.nesting > 0:
            opened.append(index)
        elif token.nesting < 0:
            start = opened.pop()
            open_tags = [each for each in open_tags if each < start]  # a tag does not reach out of its emphasis
            if token.type == "strong_close" and _is_text(children, start, index):
                roles |= dict.fromkeys((start, index), "literal")
    return roles


def _tag(token: Token) -> str:
    found = _TAG.fullmatch(token.content)
    return "" if found is None else found["name"].lower()


def _closes(opening: Token, token: Token) -> bool:
    return token.content.startswith("</") and _tag(token) == _tag(opening) and token.level == opening.level


def _is_text(children: Sequence[Token], start: int, end: int) -> bool:
    """Whether emphasis is none: `2**3**4`, or a name such as `__init__`."""
    before = children[start - 1].content[-1:] if start else ""
    after = children[end + 1].content[:1] if end + 1 < len(children) else ""
    if before.isascii() and before.isalnum() and after.isascii() and after.isalnum():
        return True
    return children[start].markup == "__" and end == start + 2 and bool(_NAME.fullmatch(children[start + 1].content))


def _children(cell: str) -> list[Token]:
    parser = _parser()
    return [] if parser is None else parser.parseInline(cell)[0].children or []


def _can_link(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (parts.scheme in ("http", "https") and "." in (parts.hostname or "")) or parts.scheme == "tg"
    except ValueError:
        return False


def _width(text: str) -> int:
    """Columns of a text in a font of one width."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text)
