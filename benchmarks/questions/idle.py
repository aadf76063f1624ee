"""What does a served agent cost while nobody calls it?"""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from benchmarks.served.line_up import SERVICES
from benchmarks.served.process import serving

SETTLE = 0.5
"""Seconds after the first answer, for what a service does when it has just started."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    with serving(contender.subject, contender.backend) as service:
        time.sleep(SETTLE)
        process = psutil.Process(service.pid)
        began, used_before = time.perf_counter(), cpu_seconds(process)
        time.sleep(effort.idle)
        used, lasted = cpu_seconds(process) - used_before, time.perf_counter() - began
        return {"memory": process.memory_info().rss / 1024**2, "cpu": used / lasted * 100}


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds of a processor that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


QUESTION = Question(
    name="idle",
    asks="what does a served agent cost while nobody calls it?",
    contenders=SERVICES,
    columns=(
        Column("memory", "memory, MiB", target=65.0),
        Column("cpu", "processor, %", has_ratio=False),
    ),
    measure=measure,
)
