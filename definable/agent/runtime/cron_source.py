"""A cron job's firing becomes a delivery of the event bus: once, over all replicas and restarts.

The `CronLoop` calls it, and the workers take from the bus what it publishes.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from definable.agent.bus.base import DEDUPE_TTL, EventBus
from definable.agent.trigger.time_trigger import TimeTrigger
from definable.errors import EventBufferFull

from .triggers import TriggerTable

logger: logging.Logger = logging.getLogger(__name__)


class CronSource:
    """Publishes firings, each under its job and nominal time.

    Args:
        bus: Carries them.
        triggers: Knows the jobs' keys.
    """

    def __init__(self, bus: EventBus, triggers: TriggerTable) -> None:
        self._bus = bus
        self._triggers = triggers

    async def fire(self, job: TimeTrigger, nominal: float) -> None:
        """Publish one firing, unless another replica has.

        Args:
            job: What fires.
            nominal: When its schedule says, in Unix seconds.
        """
        key = self._triggers.key_of(job)
        data = {"body": None, "source": job.source, "timestamp": nominal}
        if not await self._published(key, data, f"{key}@{nominal:.3f}", remembered(job, nominal)):
            logger.debug("%s at %s was fired by another replica", job.source, nominal)

    async def _published(self, key: str, data: dict[str, Any], dedupe_key: str, ttl: float) -> bool:
        if not self._bus.durable:
            with suppress(EventBufferFull):  # a turn of the event loop for each of thousands makes the last ones late
                return self._bus.publish_nowait(key, data, dedupe_key=dedupe_key, dedupe_ttl=ttl)
        return await self._bus.publish(key, data, dedupe_key=dedupe_key, dedupe_ttl=ttl)


def remembered(job: TimeTrigger, nominal: float) -> float:
    """Seconds for which a firing is remembered: longer than another replica may come late with it."""
    grace = job.misfire_grace
    if grace > DEDUPE_TTL:  # a late one is overtaken by the next time of the job
        grace = min(grace, job.next_after(nominal) - nominal)
    return grace + job.jitter + DEDUPE_TTL
