"""Triggers that fire every so many seconds, and once."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import ClassVar, Unpack

from definable.errors import ConfigurationError

from .cron import TimeOptions, TimeTrigger, is_seconds

SHORTEST = 0.01
"""Seconds: firings go through the event bus, and are told apart by milliseconds."""


class Interval(TimeTrigger):
    """Fires every so many seconds, at the multiples of the interval since the Unix epoch (1970-01-01 00:00 UTC).

    So `Interval(3600)` fires on the hour, whenever the service was started: replicas agree on each firing, which one of
    them makes, and a restart moves none. The first comes at most one interval after the start.

    Args:
        seconds: From one firing to the next; 0.01 or more.
        options: those of `TimeOptions`: `overlap`, `misfire_grace`, `jitter`, `timeout`, `max_concurrency`, ...

    Raises:
        ConfigurationError: A value is out of its range.

    Example:
        >>> Interval(90).upcoming(3, after=100.0)
        [180.0, 270.0, 360.0]
    """

    kind: ClassVar[str] = "interval"

    def __init__(self, seconds: float, **options: Unpack[TimeOptions]) -> None:
        super().__init__(**options)
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

    def missed(self, after: float, until: float, *, limit: int = 0) -> tuple[int, float | None]:
        """How many firings lie after one instant and up to another, and the latest; computed, so without a limit."""
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


class OneShot(TimeTrigger):
    """Fires once: at an instant, or some time after the service began.

    One whose instant has passed when the service starts fires late, within its `misfire_grace`, so that a restart at
    the wrong moment loses nothing. A durable bus remembers that it has fired; without one, a service that is restarted
    within the grace fires it again. With `at` one of several replicas fires it, with `delay` each of them does.

    Args:
        at: The instant: a datetime with an offset from UTC, the same in ISO 8601, or Unix seconds.
        delay: Seconds after the service began; in place of `at`.
        misfire_grace: Seconds that it may come late; later it is skipped and counted.
        timeout: Seconds that handler and run may take together; None for no limit.
        retries: How often it is tried again when it failed, with exponential backoff and jitter; off by default.
        name: See `TriggerOptions`.

    Raises:
        ConfigurationError: Neither or both of `at` and `delay`, an instant without an offset from UTC, or a value that
            is out of its range.

    Example:
        >>> OneShot("2026-12-31T23:59:00+01:00").source
        'oneshot(2026-12-31T22:59:00+00:00)'
    """

    kind: ClassVar[str] = "once"
    fires_once: ClassVar[bool] = True

    def __init__(
        self,
        at: datetime | str | float | None = None,
        *,
        delay: float | None = None,
        misfire_grace: float = 60,
        timeout: float | None = None,
        retries: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(misfire_grace=misfire_grace, timeout=timeout, retries=retries, name=name)
        if math.isinf(misfire_grace):
            raise ConfigurationError("misfire_grace=inf: of a OneShot finite, or every start would fire it")
        if (at is None) == (delay is None):
            raise ConfigurationError("OneShot(...) takes an instant, at=..., or seconds after the start, delay=...")
        if delay is not None and (not is_seconds(delay) or math.isinf(delay)):
            raise ConfigurationError(f"OneShot(delay={delay!r}): seconds after the start, 0 or more")
        self.delay = delay
        self.at: float | None = None if at is None else instant(at)
        """Unix seconds; None of one that waits for the start."""

    @property
    def source(self) -> str:
        """`"oneshot(2026-12-31T22:59:00+00:00)"`, `"oneshot(+60s)"`."""
        if self.at is None:
            return f"oneshot(+{shown(self.delay or 0)}s)"
        return f"oneshot({datetime.fromtimestamp(self.at, UTC).isoformat()})"

    @property
    def when(self) -> str:
        """When it fires, in words for the banner."""
        if self.at is None:
            return f"{shown(self.delay or 0)} s after the start"
        return f"at {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M:%S %Z}"

    def next_after(self, unix_seconds: float) -> float:
        """Its instant, if that comes after another one; else `math.inf`, as before the start of one with a delay."""
        return self.at if self.at is not None and self.at > unix_seconds else math.inf

    def first_after(self, now: float, began: float) -> float:
        """Its instant, also one that has passed: within its grace it fires late."""
        return began + (self.delay or 0) if self.at is None else self.at


def shown(seconds: float) -> str:
    """A number of seconds without a needless fraction."""
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)


def instant(at: datetime | str | float) -> float:
    """An instant in Unix seconds.

    Raises:
        ConfigurationError: It is none, or has no offset from UTC.
    """
    if isinstance(at, int | float):
        if not math.isfinite(at):
            raise ConfigurationError(f"OneShot(at={at!r}): Unix seconds are finite")
        return float(at)
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        has_offset = moment.tzinfo is not None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"OneShot(at={at!r}): a datetime, ISO 8601 such as '2026-12-31T23:59:00+01:00', or Unix seconds"
        ) from error
    if not has_offset:
        raise ConfigurationError(f"OneShot(at={at!r}) has no offset from UTC: '...+00:00', or tzinfo=UTC")
    return moment.timestamp()
