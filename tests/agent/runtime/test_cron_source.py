"""A firing is published once, however late another replica comes with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import MemoryBus
from definable.agent.runtime.cron import CronLoop
from definable.agent.runtime.cron_source import CronSource
from definable.agent.runtime.triggers import TriggerTable
from definable.agent.trigger import Cron, TriggerEvent
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

MONDAY = datetime.fromisoformat("2026-01-05T09:00:00+00:00")


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param, start=(MONDAY - timedelta(hours=1)).isoformat()) as backend:
        yield backend


async def handle(event: TriggerEvent) -> None: ...


async def replica(job: Cron, bus: MemoryBus, *, suspended: float = 0.0) -> None:
    """Another process with the same job on the same bus, which is suspended for some seconds in its first firing."""
    agent = Agent("offline")
    agent.on(job)(handle)
    source = CronSource(bus, TriggerTable(agent.triggers))

    async def fire(job: Cron, nominal: float) -> None:
        await anyio.sleep(suspended)
        await source.fire(job, nominal)

    await CronLoop([job], fire).run()


@pytest.mark.parametrize("grace", [7 * 86400.0, math.inf])
async def test_a_replica_that_comes_days_late_with_a_firing_within_its_grace_repeats_none(grace: float) -> None:
    bus = MemoryBus()
    async with bus.open(), anyio.create_task_group() as replicas:
        for suspended in (0.0, 3 * 86400.0):
            job = Cron("0 9 * * mon", misfire_grace=grace)
            replicas.start_soon(lambda job=job, suspended=suspended: replica(job, bus, suspended=suspended))
        await anyio.sleep(6 * 86400)
        assert bus.capacity == 10_000 - 1
        replicas.cancel_scope.cancel()


async def test_jitter_of_days_draws_one_firing_over_all_replicas() -> None:
    bus = MemoryBus()
    async with bus.open(), anyio.create_task_group() as replicas:
        for _ in range(10):
            replicas.start_soon(replica, Cron("0 9 5 * *", jitter=20 * 86400), bus)
        await anyio.sleep(25 * 86400)
        assert bus.capacity == 10_000 - 1
        replicas.cancel_scope.cancel()
