"""The trigger that fires by the clock.

`Agent.on(Cron(...))` registers it; `runtime/cron_loop.py` publishes its firings to the event bus, and
`runtime/workers.py` keeps to its `overlap`. When it fires is said by `schedule.py`.

What the triggers that fire by the clock have in common: `Cron`, `Interval` and `OneShot`.

`runtime/cron_loop.py` asks them when they fire next, and publishes their firings to the event bus; `runtime/workers.py`
keeps to their `overlap`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from definable.errors import ConfigurationError

from .base import BaseTrigger
from .schedule import Schedule

Overlap: TypeAlias = Literal["skip", "queue", "allow"]
"""What happens to a firing while the one before it still runs."""


class TimeTrigger(BaseTrigger):
    """A trigger that fires by the clock.

    Args:
        timezone: The zone in which its times are shown, an IANA name.
        overlap: When the firing before it still runs: `"skip"` drops the new one, `"queue"` runs it afterwards,
            `"allow"` runs both.
        misfire_grace: Seconds that a firing may come late.
        jitter: Seconds; each firing is delayed by a random time up to this.
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many of this trigger's events are handled at once; None for no limit of its own.
        retries: How often a failed firing is tried again.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    kind: ClassVar[str] = "cron"
    """What the start banner calls it."""
    fires_once: ClassVar[bool] = False

    def __init__(
        self,
        *,
        timezone: str = "UTC",
        overlap: Overlap = "skip",
        misfire_grace: float = 60,
        jitter: float = 0,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(timeout=timeout, max_concurrency=max_concurrency, retries=retries)
        if overlap not in get_args(Overlap):
            raise ConfigurationError(f"overlap={overlap!r}: 'skip', 'queue' or 'allow'")
        if not is_seconds(misfire_grace):
            raise ConfigurationError(f"misfire_grace={misfire_grace!r}: seconds, 0 or more")
        if not is_seconds(jitter) or math.isinf(jitter):
            raise ConfigurationError(f"jitter={jitter!r}: seconds, 0 or more, and finite")
        self.timezone = timezone
        self.overlap: Overlap = overlap
        self.misfire_grace = misfire_grace
        self.jitter = jitter

    @property
    @abstractmethod
    def when(self) -> str:
        """When it fires, in words for the banner."""

    @abstractmethod
    def next_after(self, unix_seconds: float) -> float:
        """The first firing strictly after an instant; both in Unix seconds, `math.inf` where none follows."""

    def first_after(self, now: float, began: float) -> float:
        """The firing that a service waits for first, in Unix seconds.

        Args:
            now: Unix seconds.
            began: When the service began, in Unix seconds.
        """
        return self.next_after(now)

    def next_run(self, base_time: float) -> float:
        """The same as `next_after`."""
        return self.next_after(base_time)

    def upcoming(self, n: int, after: float) -> list[float]:
        """The next `n` firings strictly after an instant, or as many as there are; all in Unix seconds."""
        firings: list[float] = []
        while len(firings) < n and (after := self.next_after(after)) < math.inf:
            firings.append(after)
        return firings

    def missed(self, after: float, until: float) -> tuple[int, float | None]:
        """How many firings lie after one instant and up to another, and the latest; counted up to 10,000."""
        firings = list(islice(self._firings(after, until), 10_000))
        return len(firings), (firings[-1] if firings else None)

    def _firings(self, after: float, until: float) -> Iterator[float]:
        while (after := self.next_after(after)) <= until:
            yield after


def is_seconds(value: Any) -> bool:
    """Whether a value is a number of seconds, 0 or more."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


class Cron(TimeTrigger):
    """Fires at the times that a cron expression names, on the wall clock of a time zone.

    Over a change to or from summer time it does as Debian cron does: a job at fixed times fires exactly once for each
    of them, a job with `*` in its time fields keeps its real interval (see `Schedule`).

    Args:
        schedule: croniter's syntax: 5 fields, a sixth for seconds at the end, or `@daily` and friends.
        timezone: An IANA name such as `"Europe/Berlin"`.
        overlap: When the firing before it still runs: `"skip"` drops the new one, `"queue"` runs it afterwards,
            `"allow"` runs both.
        misfire_grace: Seconds that a firing may come late, after a suspend, a step of the clock, a blocked loop or a
            failure of the event bus; one later than this is skipped and counted, and of several missed ones at most
            the latest fires. Lateness below a second never counts, since cron tells no shorter times apart;
            `math.inf` skips none for being late.
        jitter: Seconds; each firing is delayed by a random time up to this, or until the service stops. The event's
            timestamp stays nominal.
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many of this trigger's events are handled at once; None for no limit of its own.
        retries: How often a failed firing is tried again, with exponential backoff and jitter; off by default.

    Raises:
        ConfigurationError: The expression is not valid or can never fire, there is no such time zone, or another value
            is out of its range.
    """

    def __init__(
        self,
        schedule: str,
        *,
        timezone: str = "UTC",
        overlap: Overlap = "skip",
        misfire_grace: float = 60,
        jitter: float = 0,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(
            timezone=timezone,
            overlap=overlap,
            misfire_grace=misfire_grace,
            jitter=jitter,
            timeout=timeout,
            max_concurrency=max_concurrency,
            retries=retries,
        )
        self._schedule = Schedule(schedule, timezone)
        self.schedule: str = self._schedule.expression

    @property
    def source(self) -> str:
        """`"cron(0 9 * * *)"`."""
        return f"cron({self.schedule})"

    @property
    def when(self) -> str:
        """When it fires, in words for the banner."""
        return self.schedule

    @property
    def key(self) -> str:
        """Names the job over restarts and replicas; the time zone tells two jobs of one expression apart."""
        return f"{super().key}@{self.timezone}"

    def next_after(self, unix_seconds: float) -> float:
        """The first firing strictly after an instant; both in Unix seconds."""
        return self._schedule.next_after(unix_seconds)

    def upcoming(self, n: int, after: float) -> list[float]:
        """The next `n` firings strictly after an instant; all in Unix seconds."""
        return self._schedule.upcoming(n, after)

    def missed(self, after: float, until: float) -> tuple[int, float | None]:
        """How many firings lie after one instant and up to another, and the latest (see `Schedule.missed`)."""
        return self._schedule.missed(after, until)
