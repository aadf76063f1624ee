"""Which of the agent's endpoints a request is for: pure. Fixed paths first, then those with parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from definable.agent.trigger.webhook import PARAMETER

Endpoint = TypeVar("Endpoint")

NO_PARAMETERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Match(Generic[Endpoint]):
    """What a method and a path led to."""

    endpoint: Endpoint | None = None
    """None when there is none of this method on this path."""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    allowed: tuple[str, ...] = ()
    """Where there is no endpoint: the methods of those that there are on this path."""


class Routes(Generic[Endpoint]):
    """A table of endpoints by path and method."""

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, Endpoint]] = {}
        self._found: dict[tuple[str, str], Match[Endpoint]] = {}
        """What leads to an endpoint on a fixed path: most requests, ready-made."""
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Endpoint]]] = {}

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Put an endpoint in the table; what is added first wins. A GET endpoint answers HEAD too."""
        if PARAMETER.search(path):
            methods = self._patterns.setdefault(path, (compiled(path), {}))[1]
        else:
            methods = self._fixed.setdefault(path, {})
        methods.setdefault(method, endpoint)
        if method == "GET":
            methods.setdefault("HEAD", endpoint)
        for known, leads_to in self._fixed.get(path, {}).items():
            self._found[known, path] = Match(leads_to, NO_PARAMETERS)

    def match(self, method: str, path: str) -> Match[Endpoint]:
        """The endpoint of a method and a path."""
        found = self._found.get((method, path))
        if found is not None:
            return found
        allowed: list[str] = []
        for methods, parameters in self._leading_to(path):
            endpoint = methods.get(method)
            if endpoint is not None:
                return Match(endpoint, parameters)
            allowed += methods
        return Match(allowed=tuple(allowed))

    def _leading_to(self, path: str) -> Iterator[tuple[Mapping[str, Endpoint], Mapping[str, str]]]:
        fixed = self._fixed.get(path)
        if fixed is not None:
            yield fixed, NO_PARAMETERS
        for pattern, methods in self._patterns.values():
            found = pattern.fullmatch(path)
            if found is not None:
                yield methods, found.groupdict()


def compiled(path: str) -> re.Pattern[str]:
    """A path with parameters as a regular expression; a parameter never spans a slash."""
    parts: list[str] = []
    end = 0
    for parameter in PARAMETER.finditer(path):
        parts += [re.escape(path[end : parameter.start()]), f"(?P<{parameter[1]}>[^/]+)"]
        end = parameter.end()
    return re.compile("".join(parts) + re.escape(path[end:]))
