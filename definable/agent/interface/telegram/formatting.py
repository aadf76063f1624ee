"""What Telegram shows: a text, and entities that say what is bold (Bot API, MessageEntity).

Entities rather than `parse_mode`: nothing needs to be escaped, so no text of a model's can break the message. What the
model wrote is what the user reads: every character that is not markup is in the text, or in the address of a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from definable.agent.interface.splitting import utf16_length

MAX_ENTITIES = 100
"""Of one message: Telegram drops those that come after them (https://limits.tginfo.me/en)."""

SOLID = ("pre", "code")
"""They have no other entity within them, and only a quotation around them (Bot API, Formatting options)."""


@dataclass(frozen=True, slots=True)
class Entity:
    """How a stretch of a text looks; offset and length are UTF-16 code units."""

    type: str
    offset: int
    length: int
    url: str | None = None
    language: str | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def parameters(self) -> dict[str, Any]:
        """As the Bot API takes it."""
        extra = {"url": self.url, "language": self.language}
        chosen = {name: value for name, value in extra.items() if value}
        return {"type": self.type, "offset": self.offset, "length": self.length, **chosen}


@dataclass(frozen=True, slots=True)
class Formatted:
    """A text and how it looks."""

    text: str
    entities: tuple[Entity, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """As sendMessage and editMessageText take it."""
        entities = [entity.parameters for entity in self.entities]
        return {"text": self.text, **({"entities": entities} if entities else {})}


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


class Page:
    """A text that is written piece by piece, with its entities.

    White space between blocks is written only before what comes next.
    """

    def __init__(self) -> None:
        self.length = 0
        """UTF-16 code units."""
        self.entities: list[Entity] = []
        self.indent = ""
        """Before each line."""
        self._parts: list[str] = []
        self._gap = 0
        self._is_fresh = True
        """Whether nothing was written since a block began."""

    @property
    def text(self) -> str:
        """What was written."""
        return "".join(self._parts)

    def gap(self, lines: int) -> None:
        """A block ends: what comes next is so many lines further down."""
        if not self._is_fresh:
            self._gap = max(self._gap, lines)

    def new_line(self) -> None:
        """What comes next begins a line."""
        if self._parts and not self._parts[-1].endswith("\n"):
            self._gap = max(self._gap, 1)

    def start(self) -> int:
        """Where the next character will be."""
        if self._gap:
            self._put("\n" * self._gap + self.indent)
            self._gap, self._is_fresh = 0, True
        return self.length

    def write(self, text: str) -> None:
        """Write a text, which may have several lines."""
        if text:
            self.start()
            self._put(re.sub(r"\n(?=.)", "\n" + self.indent, text) if self.indent else text)
            self._is_fresh = False

    def mark(self, marker: str) -> None:
        """Write what stands before a block in its first line."""
        self.write(marker)
        self._is_fresh = True

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self.length += utf16_length(text)
