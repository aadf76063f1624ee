"""Fires cron jobs, intervals and one-shots on time: the next firing, a sleep until then, one call that publishes it.

`runtime.py` starts a `CronLoop` in its task group when there are cron jobs, as a source: it is cancelled first when the
agent stops, and what it published is drained by the workers. `/health`, the banner and the report read its counters.

`CronLoop` finds out what is due, calls the source (`cron_source.py`), and counts.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from definable.agent.trigger.cron import FiredTimes, TimeTrigger
from definable.concurrency.backoff import Backoff
from definable.concurrency.clock import WallClock, current_clock
from definable.concurrency.logs import logger_named
from definable.errors import EventBusError, StorageError

from .cron_source import YIELD_EVERY, FiresMany, MakeUp, delay_of

logger: logging.Logger = logger_named(__name__)


Fire: TypeAlias = Callable[[TimeTrigger, float], Awaitable[None]]
"""Publishes one firing: the job and its nominal time in Unix seconds. It should be quick, later jobs wait for it."""

STEP_TOLERANCE = 1.0
"""Seconds by which the wall clock may fall behind the loop's clock between two looks before it counts as a step."""

ON_TIME = 1.0
"""Seconds of lateness that never count, whatever the job's grace: cron tells no shorter times apart."""

PUBLISH_BACKOFF = Backoff(initial=1.0, maximum=10.0, jitter=0.25)
"""Between the attempts to publish one firing."""

SHORTEST_INTERVAL = 1.0
"""Seconds between two times of a cron job: so long after one, no other has come."""


class Due(NamedTuple):
    """An entry of the heap; the earliest first, equal ones in the order in which they came in."""

    when: float
    """Unix seconds."""
    order: int
    job: TimeTrigger
    nominal: float
    """What the schedule says, in Unix seconds; `when` less the jitter."""
    is_delayed: bool
    """The nominal time has come already, and the job's jitter holds the firing back, or it is tried again."""
    failures: int = 0
    """How often it could not be published."""


class CronLoop:
    """Fires `jobs` by the current wall clock (`current_clock()`).

    - A firing later than its job's `misfire_grace` is skipped. Of several that have come due for one job at once, at
      most the latest fires. What does not fire is counted in `missed` and logged.
    - When the wall clock steps back, no nominal time fires again; times that it now shows and that have not fired,
      fire. A step of the machine's clock, and the end of a suspend, are noticed within seconds: `SystemClock`.
    - Jitter delays one firing and nothing else; the nominal time stays as the schedule says.
    - A firing that cannot be published is tried again, as long as it is neither too late nor overtaken by a later one.
    - The latest time of a job that came while no service ran is fired at the start, within its grace.

    Args:
        jobs: The jobs; there may be none.
        fire: Called for each firing, and again when it fails. What it raises is logged, and the loop goes on.
        fire_many: Called in its place where firings are better published together.
        make_up: Called once, when the loop has begun, with what came due before.

    Attributes:
        fired: Firings handed to `fire` without an exception, by job.
        missed: Firings that were skipped, by job; in one step of the clock at most 10,000 a job are counted.
        failed: Firings for which `fire` raised, also those that were published later, by job.
        late: Of the fired: more than a second after the time that the schedule and the jitter said, by job.
    """

    def __init__(
        self,
        jobs: Iterable[TimeTrigger],
        fire: Fire,
        fire_many: FiresMany | None = None,
        make_up: MakeUp | None = None,
    ) -> None:
        self.jobs: tuple[TimeTrigger, ...] = tuple(dict.fromkeys(jobs))
        self.fired: Counter[TimeTrigger] = Counter()
        self.missed: Counter[TimeTrigger] = Counter()
        self.failed: Counter[TimeTrigger] = Counter()
        self.late: Counter[TimeTrigger] = Counter()
        self._fire = fire
        self._fire_many = None if fire_many is None else fire_many.publish
        self._at_once = 0 if fire_many is None else fire_many.at_once
        self._make_up = make_up
        self._collected: list[tuple[TimeTrigger, float, int]] = []
        """Firings that are published together next, with how often each could not be."""
        self._heap: list[Due] = []
        self._order = itertools.count()
        self._next: dict[TimeTrigger, float] = {}
        self._done = {job: FiredTimes() for job in self.jobs}
        self._began = 0.0
        """When the loop began, in Unix seconds as the wall clock shows them now."""
        self._unpublished: dict[TimeTrigger, float] = {}
        """The nominal time that is tried again, by job."""

    def next_firing(self, job: TimeTrigger) -> float | None:
        """The next nominal time of `job` in Unix seconds; None while the loop does not run."""
        return self._next.get(job)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Runs until it is cancelled, also where there are no jobs; started once the first firings are known."""
        clock = current_clock()
        lead = _lead(clock)
        self._began = clock.now()
        self._heap.clear()
        self._unpublished.clear()
        try:
            await self._schedule_all(clock.now())
            task_status.started()
            await self._make_up_missed(self._began)
            while self._heap:
                await self._fire_due(clock)
                before, lead = lead, _lead(clock)
                if lead < before - STEP_TOLERANCE:
                    await self._step_back(clock, before - lead)
                if self._heap:
                    await clock.sleep_until(self._heap[0].when)
            await anyio.sleep_forever()
        finally:
            self._next.clear()

    async def fire_pending(self) -> None:
        """Publish now what `run` had not when it ended, what jitter holds back, and what waits for another attempt.

        Their times have come, and no later loop computes them again.
        """
        ended = current_clock().now()
        pending, self._heap = [due for due in sorted(self._heap) if due.is_delayed or due.when <= ended], []
        for due in pending:
            nominal = due.nominal
            if due.is_delayed:
                is_wanted = self._is_still_wanted(due, current_clock().now())
            else:
                nominal, _ = self._latest(due, ended)
                is_wanted = self._fires(due.job, nominal, current_clock().now())
            if is_wanted:
                await self._publish(due.job, nominal, due.failures)
        await self._publish_collected()

    async def _make_up_missed(self, until: float) -> None:
        """Fire what came due while no service ran. What fails here is late anyway: the loop goes on without it."""
        if self._make_up is None or not self.jobs:
            return
        late: list[tuple[TimeTrigger, float]] = []
        for number, job in enumerate(self.jobs, 1):
            if not job.fires_once and (nominal := job.last_within(job.misfire_grace, until)) is not None:
                late.append((job, nominal))
            if number % YIELD_EVERY == 0:
                await checkpoint()
        try:
            made = await self._make_up(late)
        except (StorageError, EventBusError):
            logger.exception("firings that came due while no service ran could not be made: the event bus failed")
            return
        self.fired.update(made)
        self.late.update(made)
        if made:
            logger.info("made %d firings that came due while no service ran, e.g. of %s", len(made), made[0].source)

    async def _schedule_all(self, now: float) -> None:
        for number, job in enumerate(self.jobs, 1):
            if not (job.fires_once and self._done[job]):
                self._schedule(job, job.first_after(now, self._began))
            if number % YIELD_EVERY == 0:
                await checkpoint()

    def _schedule(self, job: TimeTrigger, nominal: float) -> None:
        nominal = self._done[job].first_unfired(nominal, job.next_after)
        if nominal == math.inf:  # it fires no more
            self._next.pop(job, None)
            return
        self._next[job] = nominal
        self._push(nominal, job, nominal, is_delayed=False)

    def _push(self, when: float, job: TimeTrigger, nominal: float, *, is_delayed: bool) -> None:
        heapq.heappush(self._heap, Due(when, next(self._order), job, nominal, is_delayed))

    async def _step_back(self, clock: WallClock, seconds: float) -> None:
        logger.warning("the wall clock stepped back by %.0f s: cron firings are computed anew", seconds)
        self._began -= seconds
        self._heap = [due._replace(when=due.when - seconds) for due in self._heap if due.is_delayed]
        heapq.heapify(self._heap)
        await self._schedule_all(clock.now())

    async def _fire_due(self, clock: WallClock) -> None:
        """Publish what is due, and only then find out when it is due next, which takes as long again."""
        missed_before = self.missed.total()
        on_time: list[tuple[Due, bool]] = []
        number = 0
        while self._heap and self._heap[0].when <= (now := clock.now()):
            due = heapq.heappop(self._heap)
            if due.is_delayed:
                if self._is_still_wanted(due, now):
                    await self._publish(due.job, due.nominal, due.failures)
            elif now < due.nominal + SHORTEST_INTERVAL:
                delay = delay_of(due.job)
                fires = self._fires(due.job, due.nominal, now - delay)
                on_time.append((due, fires))
                if fires:
                    await self._fire_after(delay, due.job, due.nominal, now)
            else:
                await self._reach_late(due, now)
            number += 1
            if number % YIELD_EVERY == 0:
                await checkpoint()
        await self._publish_collected()
        for number, (due, fired) in enumerate(on_time, 1):
            self._succeed(due.job, due.nominal, due.job.next_after(due.nominal), fired)
            if number % YIELD_EVERY == 0:
                await checkpoint()
        if missed := self.missed.total() - missed_before:
            logger.warning("skipped %d cron firings: too late, or overtaken by a later one of the same job", missed)

    async def _reach_late(self, due: Due, now: float) -> None:
        """Fire the latest time of a job that has come since; earlier ones are missed."""
        job = due.job
        nominal, successor = self._latest(due, now)
        delay = delay_of(job)
        fires = self._fires(job, nominal, now - delay)
        self._succeed(job, nominal, successor, fires)
        if fires:
            await self._fire_after(delay, job, nominal, now)

    def _fires(self, job: TimeTrigger, nominal: float, at: float) -> bool:
        return nominal not in self._done[job] and not self._is_too_late(job, at - nominal)

    async def _fire_after(self, delay: float, job: TimeTrigger, nominal: float, now: float) -> None:
        if nominal + delay > now:
            self._push(nominal + delay, job, nominal, is_delayed=True)
        else:
            await self._publish(job, nominal)

    def _succeed(self, job: TimeTrigger, nominal: float, successor: float, fired: bool) -> None:
        """What comes after a time that was reached."""
        if fired:
            self._done[job].add(nominal, successor)
        self._schedule(job, successor)

    def _latest(self, due: Due, now: float) -> tuple[float, float]:
        """The latest time of its job that has come, and the one that follows it."""
        successor = due.job.next_after(due.nominal)
        return self._overtake(due.job, due.nominal, now) if successor <= now else (due.nominal, successor)

    def _overtake(self, job: TimeTrigger, nominal: float, now: float) -> tuple[float, float]:
        count, latest = job.missed(nominal, now)
        self.missed[job] += count
        nominal = nominal if latest is None else latest
        return nominal, job.next_after(nominal)

    def _is_too_late(self, job: TimeTrigger, lateness: float) -> bool:
        if lateness <= max(job.misfire_grace, ON_TIME):
            return False
        self.missed[job] += 1
        return True

    def _is_still_wanted(self, due: Due, now: float) -> bool:
        if not due.failures:
            return not self._is_too_late(due.job, now - due.when)
        if self._unpublished.get(due.job) != due.nominal:
            return False
        del self._unpublished[due.job]
        return not self._is_too_late(due.job, now - due.nominal - due.job.jitter)

    async def _publish(self, job: TimeTrigger, nominal: float, failures: int = 0) -> None:
        if self._unpublished.get(job, math.inf) < nominal:
            del self._unpublished[job]
        if self._fire_many is not None:
            self._collected.append((job, nominal, failures))
            if len(self._collected) >= self._at_once:
                await self._publish_collected()
            return
        try:
            await self._fire(job, nominal)
        except Exception:
            self.failed[job] += not failures
            logger.exception("a firing of %s could not be published", job.source)
            self._try_again(job, nominal, failures + 1)
        except BaseException:  # a stop; the bus refuses what it has accepted already
            self._push(current_clock().now(), job, nominal, is_delayed=True)
            raise
        else:
            self._count_fired([(job, nominal)])

    async def _publish_collected(self) -> None:
        if self._fire_many is None or not self._collected:
            return
        collected, self._collected = self._collected, []
        try:
            await self._fire_many([(job, nominal) for job, nominal, _ in collected])
        except Exception:
            logger.exception("%d firings could not be published, e.g. of %s", len(collected), collected[0][0].source)
            for job, nominal, failures in collected:
                self.failed[job] += not failures
                self._try_again(job, nominal, failures + 1)
        except BaseException:  # a stop; the bus refuses what it has accepted already
            for job, nominal, _ in collected:
                self._push(current_clock().now(), job, nominal, is_delayed=True)
            raise
        else:
            self._count_fired([(job, nominal) for job, nominal, _ in collected])

    def _count_fired(self, firings: Sequence[tuple[TimeTrigger, float]]) -> None:
        now = current_clock().now()
        for job, nominal in firings:
            self.fired[job] += 1
            if now - nominal - job.jitter > ON_TIME:
                self.late[job] += 1

    def _try_again(self, job: TimeTrigger, nominal: float, failures: int) -> None:
        if job in self._unpublished:  # a later one
            return
        self._unpublished[job] = nominal
        when = current_clock().now() + PUBLISH_BACKOFF.delay(failures)
        heapq.heappush(self._heap, Due(when, next(self._order), job, nominal, True, failures))


def _lead(clock: WallClock) -> float:
    """Seconds by which the wall clock is ahead of the event loop's; it changes when one of them steps."""
    return clock.now() - anyio.current_time()
