"""Which nominal times a cron job has fired, so that a clock that steps back repeats none: pure.

`cron_loop.py` keeps one for each job.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

MAX_SPANS = 4
"""A step of the clock begins a new span, and the oldest one is forgotten."""


class FiredTimes:
    """Spans of successive nominal times (Unix seconds), so that it takes no more room for years than for a minute."""

    __slots__ = ("_spans", "_successor")

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=MAX_SPANS)
        self._successor = math.nan

    def add(self, nominal: float, successor: float) -> None:
        """Notes `nominal`; `successor` is the time that follows it in the schedule."""
        if nominal == self._successor:
            start, _ = self._spans.pop()
            self._spans.append((start, nominal))
        else:
            self._spans.append((nominal, nominal))
        self._successor = successor

    def __bool__(self) -> bool:
        return bool(self._spans)

    def __contains__(self, nominal: float) -> bool:
        return self._span_end(nominal) is not None

    def first_unfired(self, nominal: float, next_after: Callable[[float], float]) -> float:
        """`nominal`, or the first time after it, by the schedule's `next_after`, that has not fired."""
        while (end := self._span_end(nominal)) is not None:
            nominal = next_after(end)
        return nominal

    def _span_end(self, nominal: float) -> float | None:
        for start, end in self._spans:
            if start <= nominal <= end:
                return end
        return None
