"""What does an agent with one tool cost to make, and how much does it weigh?

A framework may put off work until the first run, so that is measured too: made anew and run once, with its tool called.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Mapping

import anyio

from benchmarks.effort import Effort
from benchmarks.frameworks.base import SUM_REPLY, Framework, load
from benchmarks.frameworks.line_up import FRAMEWORKS
from benchmarks.question import Column, Contender, Question
from benchmarks.stopwatch import time_awaits, time_calls


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    framework = load(contender.subject)
    construct = framework.construct()
    return {
        "construct": time_calls(construct, effort.seconds),
        "weight": weight(construct, effort.objects),
        "first_run": anyio.run(_first_run, framework, effort, backend=contender.backend),
    }


def weight(construct: Callable[[], object], count: int) -> float:
    """KiB that one object holds, of its own: what `count` of them share is not counted `count` times."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = [construct() for _ in range(count)]
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(kept) / 1024


async def _first_run(framework: Framework, effort: Effort) -> float:
    construct_and_run = framework.construct_and_run()
    assert await construct_and_run() == SUM_REPLY
    return await time_awaits(construct_and_run, effort.seconds)


QUESTION = Question(
    name="agent_construction",
    asks="what does an agent with one tool cost to make?",
    contenders=FRAMEWORKS,
    columns=(
        Column("construct", "make, us", target=10.0),
        Column("weight", "weight, KiB", target=6.0),
        Column("first_run", "make and run once, us"),
    ),
    measure=measure,
)
