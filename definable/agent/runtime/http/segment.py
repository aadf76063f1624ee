"""Segments of a path that hold parameters, such as `{repo}` or `{owner}-{repo}.git`: pure, and without regular
expressions, which take time by the square or cube of a segment that has two or three parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from definable.agent.trigger.webhook import PARAMETER

Value = TypeVar("Value")

SegmentPattern = tuple[str, ...]
"""The fixed text before, between and after a segment's parameters."""

WHOLE_SEGMENT: SegmentPattern = ("", "")
"""The pattern of a segment that is one parameter."""


def segment_pattern(segment: str) -> SegmentPattern | None:
    """The fixed text around a segment's parameters; None when it has none."""
    texts = PARAMETER.split(segment)[::2]
    return tuple(texts) if len(texts) > 1 else None


def parameters_of(pattern: SegmentPattern, segment: str) -> tuple[str, ...] | None:
    """The values of a pattern's parameters, none of them empty; None where the segment does not fit.

    Where several splits would do, earlier parameters get as much as they can. The last possible place of each text,
    from the end on, leaves most to those before it, so no other place need be tried.
    """
    first, *between, last = pattern
    begin, end = len(first), len(segment) - len(last)
    if end <= begin or not (segment.startswith(first) and segment.endswith(last)):
        return None
    values: list[str] = []
    for text in reversed(between):
        at = segment.rfind(text, begin + 1, end - 1)
        if at < 0:
            return None
        values.append(segment[at + len(text) : end])
        end = at
    values.append(segment[begin:end])
    return tuple(reversed(values))


class SegmentPatterns(Generic[Value]):
    """Patterns of a segment, found by the text that they begin and end with."""

    __slots__ = ("_by_ends", "_lengths")

    def __init__(self) -> None:
        self._by_ends: dict[tuple[str, str], dict[SegmentPattern, Value]] = {}
        self._lengths: list[tuple[int, int]] = []
        """Of the ends, each pair once; those with most text first, which are tried first."""

    def setdefault(self, pattern: SegmentPattern, value: Value) -> Value:
        """The value of a pattern; `value` where it had none."""
        ends = (pattern[0], pattern[-1])
        lengths = (len(ends[0]), len(ends[1]))
        if lengths not in self._lengths:
            self._lengths = sorted([*self._lengths, lengths], key=sum, reverse=True)
        return self._by_ends.setdefault(ends, {}).setdefault(pattern, value)

    def matching(self, segment: str) -> Iterator[tuple[Value, tuple[str, ...]]]:
        """The values of the patterns that a segment fits, each with those of its parameters."""
        for before, after in self._lengths:
            patterns = self._by_ends.get((segment[:before], segment[len(segment) - after :]))
            if patterns is not None:
                for pattern, value in patterns.items():
                    found = parameters_of(pattern, segment)
                    if found is not None:
                        yield value, found
