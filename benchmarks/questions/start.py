"""How long does a service take from its start to its first answer?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from benchmarks.served.line_up import SERVICES
from benchmarks.served.process import serving


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return {"start": median(seconds(contender) for _ in range(effort.processes)) * 1e3}


def seconds(contender: Contender) -> float:
    """From the start of the process to the answer of `GET /health`."""
    began = time.perf_counter()
    with serving(contender.subject, contender.backend):
        return time.perf_counter() - began


QUESTION = Question(
    name="start",
    asks="how long does a service take from its start to its first answer?",
    contenders=SERVICES,
    columns=(Column("start", "start, ms"),),
    measure=measure,
)
