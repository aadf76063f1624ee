"""A firing becomes a delivery of the event bus, once over all replicas and restarts; `cron.py` says when."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from definable.agent.bus.base import DEDUPE_TTL, EventBus, PublishesMany, Submission
from definable.agent.bus.emitter import LATER_KEY
from definable.agent.trigger.cron import TimeTrigger
from definable.concurrency.logs import logger_named
from definable.errors import EventBufferFull

from .triggers import TriggerTable

logger: logging.Logger = logger_named(__name__)

YIELD_EVERY = 16
"""Jobs that are dealt with before other tasks get their turn: fewer than the workers take in one of theirs, or what was
published would wait for all the rest to be."""

MakeUp: TypeAlias = Callable[[Iterable[tuple[TimeTrigger, float]]], Awaitable[Sequence[TimeTrigger]]]
"""Publishes those of late firings that nobody has made; returns their jobs."""

FIRED_AT_ONCE = 500
"""Firings that are published together where the bus waits for a disk or a server."""


class FiresMany(NamedTuple):
    """Publishes firings together."""

    publish: Callable[[Sequence[tuple[TimeTrigger, float]]], Awaitable[None]]
    """Jobs and their nominal times in Unix seconds."""
    at_once: int
    """How many at most."""


SERVED_KEY = "cron: served before"
"""A dedupe key that is taken from the first start on a durable bus on."""

SERVED_TTL = 366 * 24 * 3600.0
"""Seconds for which it is."""

MAX_SKEW = 3600.0
"""Seconds by which the clocks of replicas may be apart: so long after it could come late, a firing is remembered."""


class CronSource:
    """Publishes firings, each under its job and nominal time.

    Args:
        bus: Carries them.
        triggers: Knows the jobs' keys.
    """

    def __init__(self, bus: EventBus, triggers: TriggerTable) -> None:
        self._bus = bus
        self._many = bus if isinstance(bus, PublishesMany) else None
        self._triggers = triggers

    async def fire(self, job: TimeTrigger, nominal: float) -> None:
        """Publish one firing, unless another replica has.

        Args:
            job: What fires.
            nominal: When its schedule says, in Unix seconds.
        """
        key, data, dedupe_key, ttl = self._submission(job, nominal)[:4]
        accepted = False
        try:  # waiting for the event loop at each of thousands makes the last ones late
            accepted = self._bus.publish_nowait(key, data, dedupe_key=dedupe_key, dedupe_ttl=ttl)
        except EventBufferFull:
            accepted = await self._bus.publish(key, data, dedupe_key=dedupe_key, dedupe_ttl=ttl)
        _note_repeats([(job, nominal)], [accepted])

    @property
    def fire_many(self) -> FiresMany | None:
        """Publishes firings together; None where the bus can only take one after the other, at once."""
        if self._many is not None:
            return FiresMany(self._publish_many, FIRED_AT_ONCE if self._bus.durable else YIELD_EVERY)
        return FiresMany(self._publish_one_by_one, FIRED_AT_ONCE) if self._bus.durable else None

    async def _publish_many(self, firings: Sequence[tuple[TimeTrigger, float]]) -> None:
        bus = self._many
        assert bus is not None
        submissions = [self._submission(job, nominal) for job, nominal in firings]
        if not self._bus.durable:  # waiting for the event loop makes the last ones of thousands late
            with suppress(EventBufferFull):
                _note_repeats(firings, bus.submit_nowait(submissions))
                return
        _note_repeats(firings, await bus.publish_many(submissions))

    async def _publish_one_by_one(self, firings: Sequence[tuple[TimeTrigger, float]]) -> None:
        for job, nominal in firings:
            name, data, dedupe_key, ttl = self._submission(job, nominal)[:4]
            accepted = await self._bus.publish(name, data, dedupe_key=dedupe_key, dedupe_ttl=ttl)
            _note_repeats([(job, nominal)], [accepted])

    async def make_up(self, firings: Iterable[tuple[TimeTrigger, float]]) -> Sequence[TimeTrigger]:
        """Publish those of late firings that nobody has made, where a service was on this durable bus before.

        Returns:
            The jobs that fire so.
        """
        bus = self._many
        if not self._bus.durable or bus is None or await self._is_first_start(bus):
            return ()
        made: list[TimeTrigger] = []
        for some in batched(firings, FIRED_AT_ONCE):
            accepted = await bus.publish_many([self._submission(*firing, delay=delay_of(firing[0])) for firing in some])
            made += [job for (job, _), is_new in zip(some, accepted, strict=True) if is_new]
        return made

    async def _is_first_start(self, bus: PublishesMany) -> bool:
        """Whether this is the first service on the bus: what came due before it is nobody's loss."""
        # A message is what a dedupe key is kept with; this one is withdrawn long before its time.
        data = {"body": {"event": SERVED_KEY, "data": None}}
        mark = Submission(LATER_KEY, data, SERVED_KEY, SERVED_TTL, delay=SERVED_TTL, key=SERVED_KEY)
        [is_first] = await bus.publish_many([mark])
        if is_first:
            await bus.cancel(SERVED_KEY)
        return is_first

    def _submission(self, job: TimeTrigger, nominal: float, delay: float = 0.0) -> Submission:
        key = self._triggers.key_of(job)
        data = {"body": None, "source": job.source, "timestamp": nominal}
        return Submission(key, data, f"{key}@{nominal:.3f}", remembered(job, nominal), delay)


def _note_repeats(firings: Sequence[tuple[TimeTrigger, float]], accepted: Sequence[bool]) -> None:
    for (job, nominal), is_new in zip(firings, accepted, strict=True):
        if not is_new:
            logger.debug("%s at %s was fired by another replica", job.source, nominal)


def remembered(job: TimeTrigger, nominal: float) -> float:
    """Seconds for which a firing is remembered: longer than another replica may come late with it."""
    grace = job.misfire_grace
    if grace > DEDUPE_TTL:  # a late one is overtaken by the next time of the job
        grace = min(grace, job.next_after(nominal) - nominal)
    return grace + job.jitter + MAX_SKEW


def batched(firings: Iterable[tuple[TimeTrigger, float]], count: int) -> Iterator[Sequence[tuple[TimeTrigger, float]]]:
    """Firings in groups of so many."""
    left = iter(firings)
    while some := tuple(itertools.islice(left, count)):
        yield some


def delay_of(job: TimeTrigger) -> float:
    """Seconds for which the job's jitter holds a firing back."""
    return random.uniform(0, job.jitter) if job.jitter else 0.0
