"""The trigger that fires every so many seconds."""

from __future__ import annotations

import math
from typing import ClassVar

from definable.errors import ConfigurationError

from .time_trigger import Overlap, TimeTrigger, is_seconds

SHORTEST = 0.01
"""Seconds: firings go through the event bus, and are told apart by milliseconds."""


class Interval(TimeTrigger):
    """Fires every so many seconds, at the multiples of the interval since the Unix epoch (1970-01-01 00:00 UTC).

    So `Interval(3600)` fires on the hour, whenever the service was started: replicas agree on each firing, which one of
    them makes, and a restart moves none. The first comes at most one interval after the start.

    Args:
        seconds: From one firing to the next; 0.01 or more.
        jitter: Seconds; each firing is delayed by a random time up to this, or until the service stops. The event's
            timestamp stays nominal.
        overlap: When the firing before it still runs: `"skip"` drops the new one, `"queue"` runs it afterwards,
            `"allow"` runs both.
        misfire_grace: Seconds that a firing may come late; see `Cron`.
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many of this trigger's events are handled at once; None for no limit of its own.
        retries: How often a failed firing is tried again, with exponential backoff and jitter; off by default.

    Raises:
        ConfigurationError: A value is out of its range.

    Example:
        >>> Interval(90).upcoming(3, after=100.0)
        [180.0, 270.0, 360.0]
    """

    kind: ClassVar[str] = "interval"

    def __init__(
        self,
        seconds: float,
        *,
        jitter: float = 0,
        overlap: Overlap = "skip",
        misfire_grace: float = 60,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(
            overlap=overlap,
            misfire_grace=misfire_grace,
            jitter=jitter,
            timeout=timeout,
            max_concurrency=max_concurrency,
            retries=retries,
        )
        if not is_seconds(seconds) or not SHORTEST <= seconds < math.inf:
            raise ConfigurationError(f"Interval({seconds!r}): seconds, {SHORTEST:g} or more")
        self.seconds: float = seconds

    @property
    def source(self) -> str:
        """`"interval(60s)"`."""
        return f"interval({shown(self.seconds)}s)"

    @property
    def when(self) -> str:
        """When it fires, in words for the banner."""
        return f"every {shown(self.seconds)} s"

    def next_after(self, unix_seconds: float) -> float:
        """The first multiple of the interval strictly after an instant; both in Unix seconds."""
        return float(self._number_after(unix_seconds) * self.seconds)

    def missed(self, after: float, until: float) -> tuple[int, float | None]:
        """How many firings lie after one instant and up to another, and the latest."""
        first, end = self._number_after(after), self._number_after(until)
        return (end - first, float((end - 1) * self.seconds)) if end > first else (0, None)

    def _number_after(self, unix_seconds: float) -> int:
        """Of the first firing after an instant, counted from the epoch."""
        number = math.floor(unix_seconds / self.seconds) + 1
        while number * self.seconds <= unix_seconds:  # the division may be wrong by its last bit
            number += 1
        while (number - 1) * self.seconds > unix_seconds:
            number -= 1
        return number


def shown(seconds: float) -> str:
    """A number of seconds without a needless fraction."""
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)
