"""Thousands of clients at once, each waiting a second for its run: how many are served, and at what cost of memory?"""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from benchmarks.effort import Effort
from benchmarks.load.requests import RUN
from benchmarks.load.service import ask_for, under_load
from benchmarks.question import Column, Contender, Question
from benchmarks.served.process import serving

LATENCY = 1.0
"""Seconds that the model takes."""

LASTS = 3
"""Times the time under load: a run takes a second of it."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    latency = LATENCY if effort.load >= 1 else effort.load / 10
    with serving(contender.subject, f"{contender.backend}:{latency}") as service:
        ask_for(max(effort.load / 2, 0.05), service, RUN, 4)
        before = psutil.Process(service.pid).memory_info().rss
        found = under_load(effort.load * LASTS, service, RUN, effort.in_flight)
        grown = psutil.Process(service.pid).memory_info().rss - before
    served = found.load.answered / (found.load.seconds - latency)  # nothing can be answered in the first second
    return {
        "rate": served / (effort.in_flight / latency),
        "p99": found.load.p99 / latency,
        "memory": grown / effort.in_flight / 1024,
    }


QUESTION = Question(
    name="slow_runs",
    asks="what does a service do for thousands of clients at once, on a model that takes a second?",
    contenders=(
        Contender("definable, asyncio", "benchmarks.served.slow", ours=True),
        Contender("definable, trio", "benchmarks.served.slow", backend="trio", ours=True),
    ),
    columns=(
        Column("rate", "of the ideal rate", target=0.9, at_least=True),
        Column("p99", "p99, s"),
        Column("memory", "memory per run, KiB", target=20.0),
    ),
    measure=measure,
)
