"""Timing loops: the median of many short batches, which a busy neighbour disturbs less than one long one."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter

BATCH = 20
"""Calls between two looks at the clock."""

MIN_BATCHES = 3


def time_calls(call: Callable[[], object], seconds: float) -> float:
    """Microseconds of one call, after a batch of warming up."""
    batches: list[float] = []
    for _ in range(BATCH):
        call()
    gc.collect()
    end = perf_counter() + seconds
    while len(batches) < MIN_BATCHES or perf_counter() < end:
        started = perf_counter()
        for _ in range(BATCH):
            call()
        batches.append(perf_counter() - started)
    return median(batches) / BATCH * 1e6


async def time_awaits(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Microseconds of one awaited call, after a batch of warming up."""
    batches: list[float] = []
    for _ in range(BATCH):
        await call()
    gc.collect()
    end = perf_counter() + seconds
    while len(batches) < MIN_BATCHES or perf_counter() < end:
        started = perf_counter()
        for _ in range(BATCH):
            await call()
        batches.append(perf_counter() - started)
    return median(batches) / BATCH * 1e6
