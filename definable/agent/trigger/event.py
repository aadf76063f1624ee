"""Triggers of programmatic events: `agent.emit(name, data)` reaches every `EventTrigger` whose pattern matches."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import Unpack

from definable.errors import ConfigurationError

from .base import BaseTrigger, TriggerOptions


class EventTrigger(BaseTrigger):
    """Fires for emitted events.

    Args:
        event_name: An event's name, or a glob over names: `*`, `?` and `[...]`, with regard to case (`fnmatch`).
        pattern: The same as `event_name`.
        options: `timeout`, `max_concurrency`, `retries`: see `TriggerOptions`.

    Raises:
        ConfigurationError: The pattern is empty, or a value is out of its range.

    Example:
        >>> EventTrigger("user.*").matches("user.signup")
        True
    """

    def __init__(self, event_name: str = "", *, pattern: str | None = None, **options: Unpack[TriggerOptions]) -> None:
        super().__init__(**options)
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
