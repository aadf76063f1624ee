"""Triggers of programmatic events: `agent.emit(name, data)` reaches every `EventTrigger` whose pattern matches."""

from __future__ import annotations

import re
from fnmatch import translate

from definable.errors import ConfigurationError

from .base import BaseTrigger


class EventTrigger(BaseTrigger):
    """Fires for emitted events.

    Args:
        event_name: An event's name, or a glob over names: `*`, `?` and `[...]`, with regard to case (`fnmatch`).
        pattern: The same as `event_name`.
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many events are handled at once; None for no limit but the workers'.
        retries: How often a failed event is tried again, with exponential backoff and jitter; off by default.

    Raises:
        ConfigurationError: The pattern is empty, or a value is out of its range.

    Example:
        >>> EventTrigger("user.*").matches("user.signup")
        True
    """

    def __init__(
        self,
        event_name: str = "",
        *,
        pattern: str | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(timeout=timeout, max_concurrency=max_concurrency, retries=retries)
        pattern = event_name if pattern is None else pattern
        if not isinstance(pattern, str) or not pattern.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"EventTrigger({pattern!r}): the name of an event, or a glob such as 'user.*'")
        self.pattern: str = pattern
        self._glob = re.compile(translate(pattern))

    @property
    def source(self) -> str:
        return f"event({self.pattern})"

    @property
    def event_name(self) -> str:
        """The same as `pattern`."""
        return self.pattern

    def matches(self, name: str) -> bool:
        """Whether events of this name fire the trigger."""
        return name == self.pattern or self._glob.match(name) is not None
