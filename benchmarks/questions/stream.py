"""What does an agent add to its model's stream: to the first delta, and to each further one?

The same model is iterated over without the agent, in the same process; the difference is what the agent adds. Only that
can be compared between frameworks: the models differ, definable's offline one splits its whole reply up first.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import perf_counter

import anyio

from benchmarks.effort import Effort
from benchmarks.frameworks.base import DELTA, Deltas, Framework, load
from benchmarks.frameworks.line_up import FRAMEWORKS
from benchmarks.question import Column, Contender, Question

MIN_STREAMS = 3


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return anyio.run(_measure, load(contender.subject), effort, backend=contender.backend)


async def _measure(framework: Framework, effort: Effort) -> Mapping[str, float]:
    through_agent, alone = framework.agent_deltas(effort.deltas), framework.model_deltas(effort.deltas)
    for deltas in (through_agent, alone):  # also warms both up
        assert "".join([text async for text in deltas()]).split() == [DELTA.strip()] * effort.deltas
    firsts: tuple[list[float], list[float]] = ([], [])
    furthers: tuple[list[float], list[float]] = ([], [])
    end = perf_counter() + effort.seconds
    while len(firsts[0]) < MIN_STREAMS or perf_counter() < end:
        for index, deltas in enumerate((through_agent, alone)):
            first, further = await time_stream(deltas)
            firsts[index].append(first)
            furthers[index].append(further)
    first, first_alone = map(median, firsts)
    further, further_alone = map(median, furthers)
    return {
        "first": first,
        "first_added": first - first_alone,
        "further": further,
        "further_added": further - further_alone,
    }


async def time_stream(deltas: Deltas) -> tuple[float, float]:
    """Microseconds to the first delta, and of each further one."""
    started = perf_counter()
    arrivals = [perf_counter() async for _ in deltas()]
    first, last = arrivals[0], arrivals[-1]
    return (first - started) * 1e6, (last - first) / (len(arrivals) - 1) * 1e6


QUESTION = Question(
    name="stream",
    asks="what does an agent add to its model's stream?",
    contenders=FRAMEWORKS,
    columns=(
        Column("first", "first delta, us", has_ratio=False),
        Column("first_added", "added by the agent, us", target=1_000.0),
        Column("further", "further delta, us", has_ratio=False),
        Column("further_added", "added by the agent, us", target=20.0),
    ),
    measure=measure,
)
