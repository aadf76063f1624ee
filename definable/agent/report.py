"""What became of everything that was accepted: counted while serving, reported when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkCount:
    """The ends that one source's accepted work came to."""

    completed: int = 0
    """Came to an end of its own, good or bad."""
    failed: int = 0
    """Of the completed: ended in an error."""
    cancelled: int = 0
    """Was begun and cut off by the stop."""
    never_started: int = 0
    """Was accepted and never begun."""
    refused: int = 0
    """Came from somebody who is not let in (messages of chats), and was not answered; in none of the other numbers."""

    def __add__(self, other: WorkCount) -> WorkCount:
        return WorkCount(
            self.completed + other.completed,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.never_started + other.never_started,
            self.refused + other.refused,
        )

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off and nothing left undone."""
        return not (self.cancelled or self.never_started)

    def __str__(self) -> str:
        parts = [f"{self.completed} completed"]
        parts += [f"{count} {word}" for word, count in self._others() if count]
        return ", ".join(parts)

    def _others(self) -> tuple[tuple[str, int], ...]:
        return (
            ("failed", self.failed),
            ("refused", self.refused),
            ("cancelled", self.cancelled),
            ("never started", self.never_started),
        )


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """The account of one `serve`."""

    duration: float = 0.0
    """Seconds from the first word of the stop to its end."""
    sources: Mapping[str, WorkCount] = field(default_factory=dict[str, WorkCount])
    """By source: `http`, `event`, `cron`, and one for each interface, under its name."""
    forced: bool = False
    """Whether the stop was cut short: by a second signal, by `stop(force=True)` or by a cancelled scope."""
    stuck_threads: tuple[str, ...] = ()
    """Functions of the user's that still held a worker thread at the end."""

    @property
    def total(self) -> WorkCount:
        """All sources together."""
        return sum(self.sources.values(), WorkCount())

    @property
    def completed(self) -> int:
        """Over all sources: came to an end of its own."""
        return self.total.completed

    @property
    def failed(self) -> int:
        """Over all sources: of the completed, ended in an error."""
        return self.total.failed

    @property
    def cancelled(self) -> int:
        """Over all sources: was begun and cut off by the stop."""
        return self.total.cancelled

    @property
    def never_started(self) -> int:
        """Over all sources: was accepted and never begun."""
        return self.total.never_started

    @property
    def refused(self) -> int:
        """Over all sources: came from somebody who is not let in."""
        return self.total.refused

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off, nothing left undone, and no thread left running."""
        return self.total.clean and not self.stuck_threads

    def __str__(self) -> str:
        sources = "; ".join(f"{source}: {count}" for source, count in self.sources.items())
        stuck = f"; still in a thread: {', '.join(self.stuck_threads)}" if self.stuck_threads else ""
        return f"stopped {'cleanly' if self.clean else 'with work cut off'} in {self.duration:.2f} s ({sources}{stuck})"
