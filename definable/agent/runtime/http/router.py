"""Which endpoint a method and a path lead to: pure. The ASGI entry asks for every request.

A tree of path segments: the number of endpoints costs nothing, and no path takes more than linear time. So there are no
regular expressions, which take time by the square or cube of a segment with two or three parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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


Endpoint = TypeVar("Endpoint")

NO_PARAMETERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class RouteMatch(Generic[Endpoint]):
    """What a method and a path led to."""

    endpoint: Endpoint | None = None
    """None when there is none of this method on this path."""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    allowed: tuple[str, ...] = ()
    """Where there is no endpoint: the methods of those that there are on this path."""


@dataclass(slots=True)
class Node(Generic[Endpoint]):
    """What one part of a path, up to a slash, leads to."""

    fixed: dict[str, Node[Endpoint]] = field(default_factory=dict[str, "Node[Endpoint]"])
    """The following segments that have no parameters."""
    patterns: SegmentPatterns[Node[Endpoint]] | None = None
    """The following segments that hold parameters and other text."""
    parameter: Node[Endpoint] | None = None
    """The following segment that is one parameter."""
    methods: dict[str, tuple[Endpoint, tuple[str, ...]]] = field(
        default_factory=dict[str, tuple[Endpoint, tuple[str, ...]]]
    )
    """The endpoints of paths that end here, each with the names of its parameters."""

    def child(self, segment: str) -> Node[Endpoint]:
        """What a segment of an endpoint's path leads to; made where there is none."""
        pattern = segment_pattern(segment)
        if pattern is None:
            return self.fixed.setdefault(segment, Node())
        if pattern == WHOLE_SEGMENT:
            self.parameter = self.parameter or Node()
            return self.parameter
        self.patterns = self.patterns or SegmentPatterns()
        return self.patterns.setdefault(pattern, Node())

    def find(
        self, method: str, segments: list[str], depth: int, values: tuple[str, ...], allowed: list[str]
    ) -> RouteMatch[Endpoint] | None:
        """What a path leads to whose segments from `depth` on follow here; adds the methods of the paths that fit."""
        if depth == len(segments):
            return self._endpoint(method, values, allowed)
        segment, depth = segments[depth], depth + 1
        node = self.fixed.get(segment)
        found = None if node is None else node.find(method, segments, depth, values, allowed)
        if found is not None or not segment:
            return found
        if self.patterns is not None:
            for node, more in self.patterns.matching(segment):
                found = node.find(method, segments, depth, values + more, allowed)
                if found is not None:
                    return found
        if self.parameter is None:
            return None
        return self.parameter.find(method, segments, depth, (*values, segment), allowed)

    def _endpoint(self, method: str, values: tuple[str, ...], allowed: list[str]) -> RouteMatch[Endpoint] | None:
        leads_to = self.methods.get(method)
        if leads_to is not None:
            return RouteMatch(leads_to[0], dict(zip(leads_to[1], values, strict=True)))
        allowed += self.methods
        return None


class Router(Generic[Endpoint]):
    """A table of endpoints by path and method.

    Of several paths that a request fits, the one wins whose first segment that differs has no parameters, or else
    more fixed text around them.
    """

    def __init__(self) -> None:
        self._root: Node[Endpoint] = Node()
        self._depth = 0
        """Segments of the longest path."""
        self._found: dict[tuple[str, str], RouteMatch[Endpoint]] = {}
        """What leads to an endpoint on a fixed path: most requests, ready-made."""

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Put an endpoint in the table; what is added first wins. GET answers HEAD too, unless another does."""
        node = self._root
        segments = path.split("/")[1:]
        for segment in segments:
            node = node.child(segment)
        self._depth = max(self._depth, len(segments))
        names = tuple(PARAMETER.findall(path))
        if method == "HEAD" and node.methods.get("HEAD") is node.methods.get("GET"):
            node.methods.pop("HEAD", None)  # it was GET's that answered it so far
        node.methods.setdefault(method, (endpoint, names))
        if method == "GET":
            node.methods.setdefault("HEAD", node.methods["GET"])
        if not names:
            for known, (leads_to, _) in node.methods.items():
                self._found[known, path] = RouteMatch(leads_to, NO_PARAMETERS)

    def match(self, method: str, path: str) -> RouteMatch[Endpoint]:
        """The endpoint of a method and a path."""
        found = self._found.get((method, path))
        if found is not None:
            return found
        allowed: list[str] = []
        if path[:1] == "/":
            segments = path[1:].split("/", self._depth)
            found = self._root.find(method, segments, 0, (), allowed)
        return RouteMatch(allowed=tuple(dict.fromkeys(allowed))) if found is None else found
