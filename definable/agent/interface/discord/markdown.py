"""What a model wrote, in the Markdown that Discord reads: pure.

Discord's differs from CommonMark: `__` underlines, `||` hides, `-# ` and made-up mentions mean something, tables,
images, tasks and HTML mean nothing, and a backslash hides itself before any sign. So the parsed text is written anew,
with a backslash before what Discord would read as markup and the model did not write as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from definable.agent.interface.rendering import pages
from definable.agent.interface.rich_text import Entity, Page
from definable.agent.interface.splitting import split_text, utf16_length

from .escaping import APART, address, code_block, escaped

SIGNS = {"bold": "**", "italic": "_", "underline": "__", "strikethrough": "~~", "spoiler": "||", "code": "`"}
"""What stands before and after a stretch of text."""

MAX_HEADING = 3
"""Levels of headings that Discord shows; deeper ones are bold."""

_URL = re.compile(r"https?://[^\s<>]+")
_AFTER_URL = re.compile(r"[.,:;!?\"'*_~|\]}]+$")


def discord_texts(markdown: str, limit: int) -> list[str]:
    """A text as the messages that show it, each within the limit.

    Args:
        markdown: What a model wrote.
        limit: UTF-16 code units of one message.
    """
    written = ""
    for page in pages(markdown):
        written = _Writer(page).text()
        if utf16_length(written) <= limit:
            break
    if not written.strip():
        return split_text(markdown, limit)  # as it stands
    if utf16_length(written) <= limit:
        return [written]
    pieces = split_text(markdown, max(1, min(limit, utf16_length(markdown)) * 2 // 3))
    if len(pieces) < 2:
        return split_text(markdown, limit)
    return [text for piece in pieces for text in discord_texts(piece, limit)]


def discord_text(markdown: str, limit: int) -> str:
    """A text as the one message that shows it; as it stands where that would be too long.

    Args:
        markdown: What a model wrote; within the limit.
        limit: UTF-16 code units.
    """
    texts = discord_texts(markdown, limit)
    return texts[0] if len(texts) == 1 else markdown


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of a line, in characters."""

    type: str
    start: int
    end: int
    opening: str
    closing: str


class _Writer:
    """Writes one page."""

    def __init__(self, page: Page) -> None:
        self._text = page.text.rstrip()
        self._entities = _in_characters(self._text, page.entities)
        self._marks = _in_characters(self._text, page.marks)
        self._images = {each.offset for each in self._marks if each.type == "image"}
        self._items = {each.offset: each for each in self._marks if each.type == "item"}
        self._has_underscores = any(each.type in ("italic", "underline") for each in page.entities)
        self._numbers: dict[int, int] = {}
        """By the indentation of a list, its last number as Discord counts."""

    def text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        code = {self._text.rfind("\n", 0, each.offset) + 1: each for each in self._entities if each.type == "pre"}
        at = 0
        while at <= len(self._text):
            end = self._end_of_line(at)
            if (block := code.get(at)) is None:
                yield self._line(at, end)
            else:
                if self._text[at : block.offset].strip():
                    yield self._line(at, block.offset)
                yield code_block(self._text[block.offset : block.end], block.language)
                self._numbers.clear()
                end = self._end_of_line(block.end)
            at = end + 1

    def _end_of_line(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end

    def _line(self, start: int, end: int) -> str:
        signs = (
            "> "
            if any(each.type == "blockquote" and each.offset <= start < each.end for each in self._entities)
            else ""
        )
        at = start + len(self._text[start:end]) - len(self._text[start:end].lstrip(" "))
        signs += self._text[start:at]
        indent, is_item = at - start, False
        while (item := self._items.get(at)) is not None:
            signs += self._item(self._text[at : item.end].rstrip(), indent)
            at, is_item = item.end, True
        if self._text[at:end].strip() and not is_item:
            self._numbers = {each: number for each, number in self._numbers.items() if each < indent}
        level = next(
            (int(each.type[1]) for each in self._marks if each.type[0] == "h" and each.offset <= at < each.end), 0
        )
        if 0 < level <= MAX_HEADING:
            signs += "#" * level + " "
        return signs + self._inline(at, end, is_heading=0 < level <= MAX_HEADING)

    def _item(self, marker: str, indent: int) -> str:
        """A list counts on from its first number, whatever the others are."""
        number = marker.removesuffix(".")
        if not number.isdecimal():
            self._numbers.pop(indent, None)
            return "- " if marker == "•" else f"{marker} "
        last, self._numbers[indent] = self._numbers.get(indent), int(number)
        if last is None or last + 1 == int(number):
            return f"{number}. "
        del self._numbers[indent]
        return f"{number}\\. "

    # --- within a line

    def _inline(self, start: int, end: int, *, is_heading: bool) -> str:
        spans = sorted(self._spans(start, end, is_heading), key=lambda each: (each.start, -each.end))
        cuts = sorted({start, end, *[each.start for each in spans], *[each.end for each in spans]})
        out = _Line()
        for at, to in pairwise(cuts):
            out.within([each for each in spans if each.start <= at < each.end])
            out.write(self._piece(at, to, out.stack, is_start=at == start))
        out.within([])
        return out.text

    def _piece(self, at: int, to: int, stack: Sequence[_Span], *, is_start: bool) -> str:
        types = {each.type for each in stack}
        text = self._text[at:to]
        if types & {"code", "url"}:
            return text
        in_link = "text_link" in types
        return escaped(self._text, at, to, is_start=is_start, in_link=in_link, underscored=self._has_underscores)

    def _spans(self, start: int, end: int, is_heading: bool) -> Iterator[_Span]:
        """What of the page's entities can be shown in a line, and the addresses that stand in its text."""
        found = [
            each for each in self._entities if each.offset < end and start < each.end and each.type != "blockquote"
        ]
        found = [each for each in (self._within(each, start, end) for each in found) if each.length > 0]
        links = [each for each in found if each.type == "text_link" and "://" not in self._of(each)]
        code = [each for each in found if each.type == "code" and self._can_be_code(each, links)]
        styles = [each for each in found if each.type in SIGNS and each.type != "code"]
        if is_heading:  # which is bold by itself
            styles = [each for each in styles if each.type != "bold"]
        raw = [*code, *links]
        edges = {at for each in (*found, *styles) for at in (each.offset, each.end)}
        for url in self._urls(start, end):
            is_cut = any(url.start < at < url.end for at in edges)
            if not is_cut and not any(each.offset < url.end and url.start < each.end for each in raw):
                yield url
                raw.append(Entity("url", url.start, url.end - url.start))
        for each in found:  # a link whose text is an address is no link in Discord
            if each.type == "text_link" and each not in links and each.url not in (None, self._of(each)):
                yield _Span("address", each.offset, each.end, "", f" (<{each.url}>)")
        for each in links:
            url = address(each.url or "")
            closing = f"]({url})" if each.offset in self._images else f"](<{url}>)"
            yield _Span("text_link", each.offset, each.end, "[", closing)
        for each in code:
            sign = SIGNS["code"] * (2 if "`" in self._of(each) else 1)
            space = " " if len(sign) > 1 else ""
            yield _Span("code", each.offset, each.end, sign + space, space + sign)
        for each in styles:
            sign = self._sign(
                each, [other for other in raw if other.offset < each.end and each.offset < other.end], styles
            )
            if sign:
                yield _Span(each.type, each.offset, each.end, sign, sign)

    def _sign(self, style: Entity, raw: Sequence[Entity], styles: Sequence[Entity]) -> str:
        """The sign of a style; none where what is not escaped within it would end it."""
        verbatim = "".join(self._of(each) + (each.url or "") for each in raw)
        sign = SIGNS[style.type]
        if style.type == "italic":
            after = self._text[style.end : style.end + 1]
            underlined = any(
                each.type == "underline" and each.offset <= style.end and style.offset <= each.end for each in styles
            )
            if "_" in verbatim or underlined or (after.isascii() and after.isalnum()):
                sign = "*"
        return "" if sign in verbatim else sign

    def _can_be_code(self, code: Entity, links: Sequence[Entity]) -> bool:
        text = self._of(code)
        is_linked = any(each.offset < code.end and code.offset < each.end for each in links)
        return "``" not in text and not (is_linked and ("[" in text or "]" in text)) and text.strip("`") != ""

    def _urls(self, start: int, end: int) -> Iterator[_Span]:
        for found in _URL.finditer(self._text, start, end):
            url = found[0]
            while True:
                shorter = _AFTER_URL.sub("", url)
                if shorter.endswith(")") and shorter.count(")") > shorter.count("("):
                    shorter = shorter[:-1]
                if shorter == url:
                    break
                url = shorter
            yield _Span("url", found.start(), found.start() + len(url), "<", ">")

    def _of(self, entity: Entity) -> str:
        return self._text[entity.offset : entity.end]

    def _within(self, entity: Entity, start: int, end: int) -> Entity:
        """What of an entity is in a line, without the white space at its ends, which Discord takes for no style."""
        start, end = max(start, entity.offset), min(end, entity.end)
        text = self._text[start:end]
        start += len(text) - len(text.lstrip())
        return replace(entity, offset=start, length=len(text.strip()))


class _Line:
    """A line that is written piece by piece, with the styles that are open."""

    def __init__(self) -> None:
        self.text = ""
        self.stack: list[_Span] = []
        self._last_closing = ""

    def within(self, spans: Sequence[_Span]) -> None:
        """Close and open styles until exactly these are open."""
        common = next(
            (index for index, each in enumerate(self.stack) if index >= len(spans) or spans[index] != each),
            len(self.stack),
        )
        while len(self.stack) > common:
            self._last_closing = self.stack.pop().closing
            self.text += self._last_closing
        for each in spans[common:]:
            parent = self.stack[-1].opening if self.stack else ""
            is_first = parent and self.text.endswith(parent)
            before = self._last_closing or (parent if is_first and len(parent) < len(each.opening) else "")
            if before and each.opening and before[-1] == each.opening[0]:
                self.text += APART
            self.text += each.opening
            self.stack.append(each)
            self._last_closing = ""

    def write(self, text: str) -> None:
        if text:
            self.text += text
            self._last_closing = ""


def _in_characters(text: str, entities: Sequence[Entity]) -> list[Entity]:
    """Entities with offsets in characters, those beyond the text cut off."""
    if text.isascii():
        index = range(len(text) + 1)
    else:
        index = [number for number, each in enumerate(text) for _ in range(2 if each > "\uffff" else 1)]
        index.append(len(text))
    last = len(index) - 1
    cut = [(each, index[min(each.offset, last)], index[min(each.end, last)]) for each in entities]
    return [replace(each, offset=start, length=end - start) for each, start, end in cut if end > start]
