"""A model's Markdown as Telegram shows it: a text with entities (https://core.telegram.org/bots/api#messageentity).

Entities rather than `parse_mode`: nothing needs to be escaped, so no text of a model's can break the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from definable.agent.interface.rendering import pages
from definable.agent.interface.rich_text import Entity
from definable.agent.interface.splitting import utf16_length

MAX_ENTITIES = 100
"""Of one message: Telegram drops those that come after them (https://limits.tginfo.me/en)."""

PLAIN = re.compile(r"(?![\s\d+-])[^\x00-\x1f*_`#>\[\]|~<&\\$=]+(?<!\s)")
"""A line without a sign that Markdown gives a meaning: it need not be parsed."""

SOLID = ("pre", "code")
"""They have no other entity within them, and only a quotation around them (Bot API, Formatting options)."""


@dataclass(frozen=True, slots=True)
class Formatted:
    """A text and how it looks."""

    text: str
    entities: tuple[Entity, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """As sendMessage and editMessageText take it."""
        return self._named("text", "entities")

    @property
    def caption(self) -> dict[str, Any]:
        """As the methods that send media take it."""
        return self._named("caption", "caption_entities")

    def _named(self, text: str, entities: str) -> dict[str, Any]:
        given = [_parameters(entity) for entity in self.entities]
        return {text: self.text, **({entities: given} if given else {})}


def formatted(markdown: str, limit: int) -> Formatted:
    """Markdown as text with entities; as it stands when it cannot be converted, or would become too long.

    Args:
        markdown: What a model wrote.
        limit: UTF-16 code units that the result may have.
    """
    if PLAIN.fullmatch(markdown):
        return Formatted(markdown)
    for page in pages(markdown):
        text = page.text.rstrip()
        if text and utf16_length(text) <= limit:
            return within_limits(markdown, text, page.entities)
    return Formatted(markdown)


def _parameters(entity: Entity) -> dict[str, Any]:
    extra = {"url": entity.url, "language": entity.language}
    chosen = {name: value for name, value in extra.items() if value}
    return {"type": entity.type, "offset": entity.offset, "length": entity.length, **chosen}


def within_limits(markdown: str, text: str, entities: Iterable[Entity]) -> Formatted:
    """With as many entities as a message has room for: a link that was left out would be lost, so all goes as it is."""
    valid = sorted(_valid(entities, utf16_length(text)), key=lambda each: (each.offset, -each.length))
    if len(valid) > MAX_ENTITIES:
        links = [each for each in valid if each.url is not None]
        if len(links) > MAX_ENTITIES:
            return Formatted(markdown)
        ranked = sorted(valid, key=lambda each: (each.url is None, each.type not in SOLID))
        valid = sorted(ranked[:MAX_ENTITIES], key=lambda each: (each.offset, -each.length))
    return Formatted(text, tuple(valid))


def _valid(entities: Iterable[Entity], length: int) -> Iterator[Entity]:
    """Entities within the text, and what is bold or the like cut where code is."""
    entities = [replace(each, length=min(each.end, length) - each.offset) for each in entities]
    links = [each for each in entities if each.url is not None]
    solid = [each for each in entities if each.type in SOLID and not any(_overlap(each, link) for link in links)]
    for entity in entities:
        if entity.type in SOLID:
            if entity in solid and entity.length > 0:
                yield entity
        elif entity.url is not None or entity.type == "blockquote":
            if entity.length > 0:
                yield entity
        else:
            yield from _outside(entity, solid)


def _outside(entity: Entity, solid: Iterable[Entity]) -> Iterator[Entity]:
    at = entity.offset
    for each in sorted(solid, key=lambda each: each.offset):
        if _overlap(entity, each):
            if each.offset > at:
                yield replace(entity, offset=at, length=each.offset - at)
            at = max(at, each.end)
    if at < entity.end:
        yield replace(entity, offset=at, length=entity.end - at)


def _overlap(one: Entity, other: Entity) -> bool:
    return one.offset < other.end and other.offset < one.end
