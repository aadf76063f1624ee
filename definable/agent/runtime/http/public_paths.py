"""Which of the user's own routes need no credentials: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

from definable.errors import ConfigurationError


class PublicPaths:
    """The paths of `serve(public=[...])`.

    Args:
        patterns: Paths, or globs over whole paths: `*` is any text, slashes included (`fnmatch`).

    Raises:
        ConfigurationError: One is no path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = [re.compile(translate(checked_pattern(pattern))) for pattern in patterns]

    def __contains__(self, path: str) -> bool:
        return any(pattern.match(path) is not None for pattern in self._patterns)


def checked_pattern(pattern: str) -> str:
    """A pattern of `public`.

    Raises:
        ConfigurationError: It is no path.
    """
    if not isinstance(pattern, str) or not pattern.startswith("/"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"public: {pattern!r} is no path: such as '/status' or '/pages/*'")
    return pattern
