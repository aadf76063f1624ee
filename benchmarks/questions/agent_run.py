"""What does one run cost beside its model? One run after the other, on a model that answers at once."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from benchmarks.effort import Effort
from benchmarks.frameworks.base import INPUT, SUM_REPLY, Framework, load
from benchmarks.frameworks.line_up import FRAMEWORKS
from benchmarks.question import Column, Contender, Question
from benchmarks.stopwatch import time_awaits


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return anyio.run(_measure, load(contender.subject), effort, backend=contender.backend)


async def _measure(framework: Framework, effort: Effort) -> Mapping[str, float]:
    echo, add = framework.echoing(), framework.adding()
    assert await echo() == INPUT
    assert await add() == SUM_REPLY
    return {"run": await time_awaits(echo, effort.seconds), "tool_run": await time_awaits(add, effort.seconds)}


QUESTION = Question(
    name="agent_run",
    asks="what does one run cost beside its model?",
    contenders=FRAMEWORKS,
    columns=(
        Column("run", "run, us", target=40.0),
        Column("tool_run", "run with one tool call, us"),
    ),
    measure=measure,
)
