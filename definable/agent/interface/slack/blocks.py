"""Markdown and buttons as Block Kit: pure.

Formatted text goes out as a `rich_text` block, whose elements say what is bold: nothing needs to be escaped, so no text
of a model's can break a message or ping anybody. Slack's mrkdwn has no escapes for `*`, `_`, `~` and backticks, and
reads them at word boundaries alone; what a `markdown` block makes of HTML, mathematics and half-written Markdown is
Slack's choice, and it is limited to 12,000 characters of all blocks together.
Sources: https://docs.slack.dev/reference/block-kit/blocks/rich-text-block and .../markdown-block
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from definable.agent.interface.message import Button
from definable.agent.interface.rendering import pages
from definable.agent.interface.rich_text import Entity, Page

Block = dict[str, Any]

MAX_BLOCKS_SIZE = 12_000
"""Characters of all blocks of a message as JSON. Slack refuses more than about 13,200, buttons included
(https://github.com/slackapi/bolt-js/issues/2509)."""

MAX_FALLBACK = 3_800
"""Bytes of the text for notifications: `chat.update` refuses more than 4,000."""

MAX_BUTTON_TEXT, MAX_BUTTONS = 75, 25
"""Characters of a button, and buttons of a row
(https://docs.slack.dev/reference/block-kit/block-elements/button-element)."""

MAX_URL = 3_000
"""Characters."""

STYLES = {
    "bold": "bold",
    "italic": "italic",
    "strikethrough": "strike",
    "code": "code",
    **{f"h{level}": "bold" for level in range(1, 7)},
}
"""Styles of Slack by the entities of a page; the others look like text."""

_URL = re.compile(r"https?://[^\s<>\"`]+")
_AFTER_URL = re.compile(r"[.,;:!?'*_~|)\]}]+\Z")


def rich_text(markdown: str) -> Block:
    """Markdown as a block; as it stands where it cannot be formatted, or would become too large.

    Args:
        markdown: What a model wrote; its length fits into one message.
    """
    for page in pages(markdown):
        block = {"type": "rich_text", "elements": list(_elements(page))}
        if block["elements"] and size_of([block]) <= MAX_BLOCKS_SIZE:
            return block
    return plain_block(markdown)


def plain_block(text: str) -> Block:
    """A text that is shown as it is."""
    return {
        "type": "rich_text",
        "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": text}]}],
    }


def size_of(blocks: Sequence[Block]) -> int:
    """Characters of blocks as JSON."""
    return len(json.dumps(blocks, ensure_ascii=False, separators=(",", ":")))


def fallback(text: str) -> str:
    """What notifications and screen readers get: the beginning of a text, escaped."""
    cut = escaped(text).encode("utf-8", "replace")[:MAX_FALLBACK].decode("utf-8", "ignore")
    return re.sub(r"&[a-z]{0,3}\Z", "", cut)


def escaped(text: str) -> str:
    """A text in which nothing is markup or a mention (https://docs.slack.dev/messaging/formatting-message-text)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def button_blocks(rows: Iterable[Iterable[Button]]) -> list[Block]:
    """Rows of buttons; what they say is cut where Slack has no room for it."""
    blocks: list[Block] = []
    for number, row in enumerate(rows):
        elements = [_button(button, f"{number}.{index}") for index, button in enumerate(row)]
        blocks += [
            {"type": "actions", "elements": elements[at : at + MAX_BUTTONS]}
            for at in range(0, len(elements), MAX_BUTTONS)
        ]
    return blocks


def _button(button: Button, id: str) -> Block:
    text = button.text if len(button.text) <= MAX_BUTTON_TEXT else f"{button.text[: MAX_BUTTON_TEXT - 1]}…"
    made: Block = {"type": "button", "action_id": id, "text": {"type": "plain_text", "text": text, "emoji": True}}
    return made | ({"value": button.pressed} if button.url is None else {"url": button.url})


def image_block(url: str, text: str) -> Block:
    """An image that Slack fetches by itself."""
    return {"type": "image", "image_url": url, "alt_text": text}


def can_link(url: str) -> bool:
    """Whether Slack takes an address for a link."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return len(url) <= MAX_URL and "." in host.strip(".") and _URL.fullmatch(url) is not None


# --- from a page to the elements of a block


def _elements(page: Page) -> Iterator[Block]:
    """Sections, quotations and blocks of code, in their order."""
    kinds: list[tuple[str, list[Block]]] = []
    for kind, element in _pieces(page):
        if not kinds or kinds[-1][0] != kind:
            kinds.append((kind, []))
        kinds[-1][1].append(element)
    for index, (kind, inner) in enumerate(kinds):
        # These stand in lines of their own anyway; what parts them is in the text too.
        trimmed = _trimmed(inner, at_start=index > 0, at_end=index + 1 < len(kinds))
        if trimmed:
            yield {"type": kind.partition(" ")[0], "elements": trimmed}


def _pieces(page: Page) -> Iterator[tuple[str, Block]]:
    """Stretches of the text that look alike, each with the kind of element that it stands in."""
    text = page.text.rstrip().encode("utf-16-le", "surrogatepass")
    end = len(text) // 2
    entities = [each for each in page.entities if each.offset < min(each.end, end)]
    bounds = sorted({0, end, *(min(at, end) for each in entities for at in (each.offset, each.end))})
    for start, stop in pairwise(bounds):
        active = [each for each in entities if each.offset <= start and stop <= each.end]
        piece = text[start * 2 : stop * 2].decode("utf-16-le", "surrogatepass")
        code = next((each for each in active if each.type == "pre"), None)
        if code is not None:
            yield f"rich_text_preformatted {code.offset}", {"type": "text", "text": piece}
            continue
        quote = next((each for each in active if each.type == "blockquote"), None)
        kind = "rich_text_section" if quote is None else f"rich_text_quote {quote.offset}"
        for element in _inline(piece, active, start, stop):
            yield kind, element


def _inline(piece: str, active: Sequence[Entity], start: int, stop: int) -> Iterator[Block]:
    style = {STYLES[each.type]: True for each in active if each.type in STYLES}
    styled: Block = {"style": style} if style else {}
    link = next((each for each in active if each.url), None)
    if (hidden := next((each for each in active if each.type == "spoiler"), None)) is not None:
        # Slack has no spoilers: what the model wrote is shown.
        piece = f"{'||' * (hidden.offset == start)}{piece}{'||' * (hidden.end == stop)}"
    if link is not None and link.url is not None and can_link(link.url):
        yield {"type": "link", "url": link.url, "text": piece, **styled}
        return
    at = 0
    for found in _URL.finditer(piece if "code" not in style else ""):
        url = _AFTER_URL.sub("", found[0])
        if can_link(url):
            if found.start() > at:
                yield {"type": "text", "text": piece[at : found.start()], **styled}
            yield {"type": "link", "url": url, **styled}
            at = found.start() + len(url)
    rest = piece[at:] + (f" ({link.url})" if link is not None and link.end == stop else "")
    if rest:
        yield {"type": "text", "text": rest, **styled}


def _trimmed(elements: list[Block], *, at_start: bool, at_end: bool) -> list[Block]:
    """Elements without the line breaks at their start or end."""
    kept = list(elements)
    while at_start and kept and kept[0]["type"] == "text":
        kept[0] = kept[0] | {"text": kept[0]["text"].lstrip("\n")}
        if kept[0]["text"]:
            break
        kept.pop(0)
    while at_end and kept and kept[-1]["type"] == "text":
        kept[-1] = kept[-1] | {"text": kept[-1]["text"].rstrip("\n")}
        if kept[-1]["text"]:
            break
        kept.pop()
    return kept
