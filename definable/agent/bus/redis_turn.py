"""What waits to be told to Redis by the `RedisBus`: gathered while one turn is made, told whole in the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import anyio

MAX_PUBLICATIONS = 500
"""In one turn: while Redis runs a script, nobody else is served."""


@dataclass(slots=True, eq=False)
class Publication:
    """New work."""

    id: str
    name: str
    data: bytes
    key: bytes | None
    """Its dedupe key as Redis knows it."""
    ttl: float
    """Seconds for which the key is remembered."""
    is_awaited: bool
    """Whether its publisher waits to be told."""
    turn: Turn = field(init=False)


@dataclass(slots=True, eq=False)
class Turn:
    """One script call: everybody's wishes since the last one was taken.

    A turn whose answer got lost is made again under its number, and Redis does it once.
    """

    number: int
    publications: list[Publication] = field(default_factory=list[Publication])
    acked: list[bytes] = field(default_factory=list[bytes])
    """Entries of the stream, here and below."""
    later: list[tuple[bytes, float]] = field(default_factory=list["tuple[bytes, float]"])
    """With seconds until they are due."""
    dead: list[tuple[bytes, str]] = field(default_factory=list["tuple[bytes, str]"])
    """With reasons."""
    untaken: list[bytes] = field(default_factory=list[bytes])
    """Handed out to nobody: no attempt was made."""
    unclaimed: list[tuple[bytes, str]] = field(default_factory=list["tuple[bytes, str]"])
    """Dedupe keys to forget, with the values that they must have; empty for any."""
    is_wished: bool = False
    """Somebody waits for all that was wished before."""
    was_sent: bool = False
    """Whether Redis may have it, though it has not said so."""
    done: anyio.Event = field(default_factory=anyio.Event)
    """Set when Redis has it, or when there is no hope left."""
    failure: Exception | None = None
    refused: frozenset[str] = frozenset()
    """Once done: the ids of publications whose keys were taken."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody wishes for anything."""
        return not (self.publications or self.settlements or self.unclaimed or self.is_wished)

    @property
    def settlements(self) -> int:
        """How many deliveries have come out of somebody's hands."""
        return len(self.acked) + len(self.later) + len(self.dead) + len(self.untaken)

    def settling(self) -> Turn:
        """A turn that only settles what this one does; it may be made twice, and has no number."""
        return Turn(0, [], [*self.acked], [*self.later], [*self.dead], [*self.untaken])

    def is_settled(self, settled: Turn) -> None:
        """What was in `settling` need not be told any more."""
        del self.acked[: len(settled.acked)]
        del self.later[: len(settled.later)]
        del self.dead[: len(settled.dead)]
        del self.untaken[: len(settled.untaken)]

    def keys(self) -> list[bytes]:
        """The dedupe keys, which the script is told apart from its arguments."""
        published = [publication.key for publication in self.publications if publication.key is not None]
        return published + [key for key, _ in self.unclaimed]

    def args(self, first_key: int) -> Sequence[Any]:
        """The script's arguments; the dedupe keys are those from `first_key` on (Lua counts from 1)."""
        args: list[Any] = [self.number, len(self.publications)]
        for publication in self.publications:
            args += (publication.id, storable(publication.name), publication.data)
            if publication.key is None:
                args += (0, 0)
            else:
                args += (first_key, milliseconds(publication.ttl))
                first_key += 1
        args.append(len(self.acked))
        args += self.acked
        args.append(len(self.later))
        for entry, delay in self.later:
            args += (entry, milliseconds(delay))
        args.append(len(self.dead))
        for entry, why in self.dead:
            args += (entry, storable(why))
        args.append(len(self.untaken))
        args += self.untaken
        args.append(len(self.unclaimed))
        for number, (_, value) in enumerate(self.unclaimed, first_key):
            args += (number, value)
        return args


def milliseconds(seconds: float) -> int:
    """Rounded up: neither a delay nor a time to live may end too soon."""
    return ceil(seconds * 1000)


def storable(text: str) -> bytes:
    """Text as bytes; half of a surrogate pair, which UTF-8 proper cannot hold, is passed through."""
    return text.encode("utf-8", "surrogatepass")


def readable(text: bytes) -> str:
    """The text of `storable`'s bytes."""
    return text.decode("utf-8", "surrogatepass")
