"""What do thousands of runs at once cost, all of them waiting for a slow model?"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from time import perf_counter

import anyio
import psutil

from benchmarks.effort import Effort
from benchmarks.frameworks.base import INPUT, Run, load
from benchmarks.frameworks.line_up import FRAMEWORKS
from benchmarks.question import Column, Contender, Question

LOOK_INTERVAL = 0.05
"""Seconds between two looks at the process's memory."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    run = load(contender.subject).echoing(effort.latency)
    return anyio.run(_measure, run, effort.runs, backend=contender.backend)


async def _measure(run: Run, count: int) -> Mapping[str, float]:
    assert await run() == INPUT
    gc.collect()
    first_start = last_start = ended = perf_counter()

    async def start() -> None:
        nonlocal last_start
        last_start = perf_counter()
        await run()

    memory = PeakMemory()
    async with anyio.create_task_group() as watching:
        watching.start_soon(memory.watch)
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(start)
        ended = perf_counter()
        watching.cancel_scope.cancel()
    return {
        "after_last_start": ended - last_start,
        "in_all": ended - first_start,
        "memory": memory.grown / count / 1024,
    }


class PeakMemory:
    """How much more of the machine's memory (RSS) the process comes to hold, in bytes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.grown = 0

    async def watch(self) -> None:
        while True:
            self.grown = max(self.grown, self._process.memory_info().rss - self._before)
            await anyio.sleep(LOOK_INTERVAL)


QUESTION = Question(
    name="concurrent_runs",
    asks="what do thousands of runs at once cost, on a slow model?",
    contenders=FRAMEWORKS,
    columns=(
        Column("after_last_start", "done after the last start, s", target=2.0),
        Column("in_all", "first start to last end, s"),
        Column("memory", "memory per run, KiB", target=20.0),
    ),
    measure=measure,
)
