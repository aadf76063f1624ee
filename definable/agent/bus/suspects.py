"""Messages that were claimed again and again, and of which nothing came: one of them may be what ends the process.

`claims.py` hands them out one at a time, so that such a one is found by itself, and the others, which were only there
when it happened, do not become dead letters with it. They wait parked: a process that dies has not tried them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import anyio

Suspect = TypeVar("Suspect")

SUSPECT = 3
"""From this claim on, messages that nothing came of are suspects."""

SUSPECT_DELAY = 1.0
"""Seconds that one may take before those behind it go back to a store that processes share, and until they come again:
another process may try them meanwhile."""


class Suspects(Generic[Suspect]):
    """The suspects of one opening: the first is handed out, or about to be; the others wait for its end."""

    def __init__(self) -> None:
        self.beginning: Suspect | None = None
        """The first, while it is being written that it begins."""
        self.queue: deque[Suspect] = deque()
        """All of them, in their order."""
        self._since = 0.0

    def add(self, suspect: Suspect) -> bool:
        """Have one wait for its turn; whether it is its turn."""
        self.queue.append(suspect)
        if len(self.queue) > 1:
            return False
        self._since = anyio.current_time()
        return True

    def remove(self, suspect: Suspect) -> Suspect | None:
        """Forget one; returns the next if it was its turn."""
        was_first = bool(self.queue) and self.queue[0] is suspect
        if suspect in self.queue:
            self.queue.remove(suspect)
        if not was_first:
            return None
        self.beginning, self._since = None, anyio.current_time()
        return self.queue[0] if self.queue else None

    def is_waiting(self, suspect: Suspect) -> bool:
        """Whether it is not handed out yet."""
        return suspect is self.beginning or (suspect in self.queue and suspect is not self.queue[0])

    def is_slow(self) -> bool:
        """Whether the first one takes longer than others should wait for it."""
        return len(self.queue) > 1 and anyio.current_time() - self._since > SUSPECT_DELAY

    def take_waiting(self) -> Sequence[Suspect]:
        """Take out those that are not handed out."""
        first = 0 if self.beginning is not None else 1
        waiting = [*self.queue][first:]
        while len(self.queue) > first:
            self.queue.pop()
        self.beginning = None
        return waiting
