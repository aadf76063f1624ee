"""What every trigger is, and what it hands to its handler.

Webhooks, time triggers and event triggers derive from `BaseTrigger`; `runtime/dispatch.py` calls the handler with a
`TriggerEvent` and acts on what it returns.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeAlias, TypedDict

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
    name: str | None
    """What tells it from others over restarts and replicas, such as `"daily report"`; None, the default, where its
    source, its handler's name and its handler's arguments do."""


class BaseTrigger(ABC):
    """What all triggers have in common; a trigger of your own defines `source`, or its alias `name`.

    Args:
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many of this trigger's events are handled at once, over all replicas on a shared bus
            (webhooks that are answered at once: in each process); None for no limit of its own.
        retries: How often a failed event is tried again, with exponential backoff and jitter; off by default.
        name: See `TriggerOptions`.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    given_name: str | None = None
    """What tells it from others over restarts and replicas, where its source, its handler and its arguments do not."""

    def __init__(
        self,
        *,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retries: int = 0,
        name: str | None = None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigurationError(f"timeout={timeout!r}: seconds, greater than 0, or None")
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency!r}: at least 1, or None for no limit")
        if retries < 0:
            raise ConfigurationError(f"retries={retries!r}: 0 or more")
        if name is not None and not (isinstance(name, str) and name.strip()):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"name={name!r}: a text that is not empty, or None")
        self.given_name = name
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
        """The name that it was given, else the same as `source`."""
        return self.given_name or self.source

    @property
    def key(self) -> str:
        """Names the trigger over restarts and replicas; `identity.py` tells those apart that have it in common."""
        return self.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source}>"
