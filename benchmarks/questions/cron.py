"""What do ten thousand cron jobs cost: to start, to fire on time, and to wait for?

Each fires once a minute, spread over its seconds. Late is how long after its nominal time a handler starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import ceil

import anyio

from benchmarks.effort import Effort
from benchmarks.frameworks.cron import SCHEDULERS
from benchmarks.question import Column, Contender, Question

MINUTE = 60

BUSIEST = 1.0
"""Seconds that are watched after the start, when all imports and caches are warm."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return anyio.run(_measure, contender.subject, effort, backend=contender.backend)


async def _measure(subject: str, effort: Effort) -> Mapping[str, float]:
    late: list[float] = []
    seconds = [number * MINUTE // effort.cron_jobs for number in range(effort.cron_jobs)]
    async with SCHEDULERS[subject]([0], late.append):
        pass  # imports are another question's
    began = time.perf_counter()
    async with SCHEDULERS[subject](seconds, late.append):
        started = time.perf_counter() - began
        await anyio.sleep(BUSIEST)
        late.clear()
        lasted = max(effort.idle, 3.0 * MINUTE / effort.cron_jobs)
        before = time.process_time()
        await anyio.sleep(lasted)
        used = time.process_time() - before
        late.sort()
    return {
        "start": started,
        "p50": late[len(late) // 2] * 1e3,
        "p99": late[ceil(len(late) * 0.99) - 1] * 1e3,
        "processor": used / lasted * 100,
    }


QUESTION = Question(
    name="cron",
    asks="what do ten thousand cron jobs cost, a 60th of which is due each second?",
    contenders=(
        Contender("definable, asyncio", "definable", ours=True),
        Contender("definable, trio", "definable", backend="trio", ours=True),
        Contender("APScheduler", "apscheduler", needs=("apscheduler",)),
    ),
    columns=(
        Column("start", "start, s", target=1.0),
        Column("p50", "late, ms"),
        Column("p99", "p99, ms", target=20.0),
        Column("processor", "processor, %", has_ratio=False),
    ),
    measure=measure,
)
