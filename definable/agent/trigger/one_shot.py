"""The trigger that fires once."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import ClassVar

from definable.errors import ConfigurationError

from .interval import shown
from .time_trigger import TimeTrigger, is_seconds


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
    ) -> None:
        super().__init__(misfire_grace=misfire_grace, timeout=timeout, retries=retries)
        if math.isinf(misfire_grace):
            raise ConfigurationError(
                f"misfire_grace={misfire_grace!r}: of a OneShot finite, or every start would fire it"
            )
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
        if self.at is not None:
            return f"oneshot({datetime.fromtimestamp(self.at, UTC).isoformat()})"
        return f"oneshot(+{shown(self.delay or 0)}s)"

    @property
    def when(self) -> str:
        """When it fires, in words for the banner."""
        if self.at is not None:
            return f"at {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M:%S %Z}"
        return f"{shown(self.delay or 0)} s after the start"

    def next_after(self, unix_seconds: float) -> float:
        """Its instant, if that comes after another one; else `math.inf`, as before the start of one with a delay."""
        return self.at if self.at is not None and self.at > unix_seconds else math.inf

    def first_after(self, now: float, began: float) -> float:
        """Its instant, also one that has passed: within its grace it fires late."""
        return began + (self.delay or 0) if self.at is None else self.at


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
