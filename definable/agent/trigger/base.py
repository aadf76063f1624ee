"""What every trigger is, and what it hands to its handler.

Webhooks, time triggers and event triggers derive from `BaseTrigger`; `runtime/dispatch.py` calls the handler with a
`TriggerEvent` and acts on what it returns.

Triggers of programmatic events: `agent.emit(name, data)` reaches every `EventTrigger` whose pattern matches.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field
from fnmatch import translate
from importlib.machinery import ModuleSpec
from os.path import basename, splitext
from typing import Any, TypeAlias, TypedDict, Unpack

from definable.agent.run.context import random_id
from definable.errors import ConfigurationError
from definable.frozen import frozen, made_when_asked_for

from .request import Headers, RawRequest, decoded

Handler: TypeAlias = Callable[..., Any]
"""A function of one `TriggerEvent`, sync or async."""


@frozen
class TriggerEvent:
    """What a trigger hands to its handler."""

    body: Any = None
    """Parsed JSON or form body, or the event's data; None when absent, and for a body that is neither: its bytes are
    `raw.body`, its text `raw.text`."""
    headers: Headers | None = None
    """Of a webhook: a dict, looked up case-insensitively. Of a run that was accepted for later, those that name its
    trace. None of every other event."""
    source: str = ""
    """`"POST /github"`, `"cron(0 9 * * *)"` or `"event(user_signup)"`."""
    timestamp: float = field(default_factory=time.time)
    """Unix seconds; of a cron firing the nominal time. Now, of an event that is made by hand."""
    raw: RawRequest | None = None
    """Of a webhook: the request."""
    id: str = field(default_factory=random_id)
    """The same over all attempts."""
    attempt: int = 1
    """1 for the first, then one more for each retry."""


made_when_asked_for(TriggerEvent, "headers", decoded, "Of a webhook: a dict, looked up case-insensitively.")


class TriggerOptions(TypedDict, total=False):
    """What every trigger takes."""

    timeout: float | None
    """Seconds that handler and run may take together; None, the default, for no limit."""
    max_concurrency: int | None
    """How many of this trigger's events are handled at once; None, the default, for no limit of its own."""
    retries: int
    """How often a failed event is tried again, with exponential backoff and jitter; 0 by default."""


class BaseTrigger(ABC):
    """What all triggers have in common; a trigger of your own defines `source`, or its alias `name`.

    Args:
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many of this trigger's events are handled at once; None for no limit of its own.
        retries: How often a failed event is tried again, with exponential backoff and jitter; off by default.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(self, *, timeout: float | None = None, max_concurrency: int | None = None, retries: int = 0) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigurationError(f"timeout={timeout!r}: seconds, greater than 0, or None")
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency!r}: at least 1, or None for no limit")
        if retries < 0:
            raise ConfigurationError(f"retries={retries!r}: 0 or more")
        self.timeout = timeout
        self.max_concurrency = max_concurrency
        self.retries = retries
        self.handler: Handler | None = None
        """Set by `Agent.on`."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.name is not BaseTrigger.name and cls.source is BaseTrigger.source:
            setattr(cls, "source", property(lambda self: self.name))  # noqa: B010 - it is declared read-only

    @property
    @abstractmethod
    def source(self) -> str:
        """Where this trigger's events come from, as `TriggerEvent.source` says it."""

    @property
    def name(self) -> str:
        """The same as `source`."""
        return self.source

    @property
    def key(self) -> str:
        """Names the trigger over restarts and replicas: its source and its handler's qualified name."""
        return f"{self.source}:{qualified_name(self.handler)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source}>"


def qualified_name(handler: Callable[..., Any] | None) -> str:
    """A handler's module and qualified name; of a `partial` its function's, of a callable object its class's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    name: str = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{program_name(getattr(handler, '__module__', ''))}.{name}"


def program_name(module: str) -> str:
    """A module's name; for `__main__` the one by which `definable serve` and others import it."""
    if module != "__main__":
        return module
    main = sys.modules[module]
    spec: ModuleSpec | None = getattr(main, "__spec__", None)
    if spec is not None:  # python -m
        return spec.name.removesuffix(".__main__")
    file: str | None = getattr(main, "__file__", None)
    return module if file is None else splitext(basename(file))[0]


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
