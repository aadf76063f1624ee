"""What waits to be written by the `SQLiteBus`: gathered while one transaction is made, written whole by the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import anyio

from definable.errors import StorageError

Row: TypeAlias = tuple[int, str, str, bytes]
"""A new delivery: its position in the line, its id, its name, its data."""


@dataclass(slots=True, eq=False)
class Batch:
    """One group commit: everybody's wishes since the last one was taken.

    No two of them concern the same delivery, but for a new publication that is taken back.
    """

    awaited: list[Row] = field(default_factory=list[Row])
    """New deliveries whose publishers wait to be told."""
    unawaited: list[Row] = field(default_factory=list[Row])
    """New deliveries whose publishers were told already: these must be written, now or later."""
    forgotten: set[str] = field(default_factory=set[str])
    """Dedupe keys to forget, before those that are taken."""
    keys: dict[str, float] = field(default_factory=dict[str, float])
    """Dedupe keys and when they expire (Unix seconds)."""
    awaited_keys: list[str] = field(default_factory=list[str])
    """Of the keys: those of `awaited`."""
    acked: list[tuple[int]] = field(default_factory=list[tuple[int]])
    """Positions."""
    later: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When each is due (Unix seconds), and positions."""
    dead: list[tuple[str, float, int]] = field(default_factory=list[tuple[str, float, int]])
    """Why, when (Unix seconds), and positions."""
    untaken: list[tuple[int]] = field(default_factory=list[tuple[int]])
    """Positions of what was taken for somebody who is gone: no attempt was made."""
    replays: dict[str, int] = field(default_factory=dict[str, int])
    """Ids of dead letters, and their new positions."""
    barrier: bool = False
    """Somebody waits for all that was wished before."""
    done: anyio.Event = field(default_factory=anyio.Event)
    """Set when it was written, or has failed."""
    failure: Exception | None = None
    replayed: frozenset[str] = frozenset()
    """Once written: which of the `replays` there were."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody wishes for anything."""
        return not (
            self.publications or self.forgotten or self.keys or self.settlements or self.replays or self.barrier
        )

    @property
    def publications(self) -> int:
        """How many new deliveries there are."""
        return len(self.awaited) + len(self.unawaited)

    @property
    def settlements(self) -> int:
        """How many deliveries have come out of somebody's hands."""
        return len(self.acked) + len(self.later) + len(self.dead) + len(self.untaken)

    def forget(self, key: str) -> None:
        """Wish for a dedupe key to be forgotten."""
        self.keys.pop(key, None)
        self.forgotten.add(key)

    async def written(self) -> None:
        """Wait for the end.

        Raises:
            StorageError: It has failed.
        """
        await self.done.wait()
        if self.failure is not None:
            raise StorageError(str(self.failure)) from self.failure

    def take_over(self, failed: Batch) -> None:
        """Wish for what an earlier batch could not do and whose people were told that it would be done."""
        free = self.forgotten.union(failed.awaited_keys)
        self.keys = {key: at for key, at in failed.keys.items() if key not in free} | self.keys
        self.forgotten |= failed.forgotten
        self.unawaited[:0] = failed.unawaited
        self.acked[:0] = failed.acked
        self.later[:0] = failed.later
        self.dead[:0] = failed.dead
        self.untaken[:0] = failed.untaken
