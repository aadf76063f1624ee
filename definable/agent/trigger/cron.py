"""The trigger that fires by the clock.

`Agent.on(Cron(...))` registers it; `runtime/cron_loop.py` publishes its firings to the event bus, and
`runtime/workers.py` keeps to its `overlap`. When it fires is said by `schedule.py`.
"""

from __future__ import annotations

from .schedule import Schedule
from .time_trigger import Overlap, TimeTrigger


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
