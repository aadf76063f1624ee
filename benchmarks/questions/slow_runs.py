"""Thousands of clients at once, each waiting a second for its run: how many are served, and at what cost of memory?

The memory is that of the first run of each client, while all of them wait: its connection's too, and nothing of what a
service keeps of runs and sessions that have ended.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing

import psutil

from benchmarks.effort import Effort
from benchmarks.load.requests import RUN
from benchmarks.load.service import ask_for, under_load
from benchmarks.question import Column, Contender, Question
from benchmarks.served.process import serving

from .stop import STUCK, wait_until_taken

LATENCY = 1.0
"""Seconds that the model takes."""

WARMING_UP = 20
"""Runs for which a service loads what it needs, before its memory counts."""

LASTS = 3
"""Times the time under load: a run takes a second of it."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    latency = LATENCY if effort.load >= 1 else effort.load / 10
    with serving(contender.subject, f"{contender.backend}:{latency}") as service:
        ask_for(max(effort.load / 2, 0.05), service, RUN, 4)
        found = under_load(effort.load * LASTS, service, RUN, effort.in_flight)
    served = found.load.answered / (found.load.seconds - latency)  # nothing can be answered in the first second
    return {
        "rate": served / (effort.in_flight / latency),
        "p99": found.load.p99 / latency,
        "memory": memory_per_run(contender, effort) / 1024,
    }


def memory_per_run(contender: Contender, effort: Effort) -> float:
    """How much more of the machine's memory (RSS) a service holds for each run that waits, in bytes."""
    with serving(contender.subject, f"{contender.backend}:{STUCK}") as service, ExitStack() as clients:
        port, memory = int(service.url.rpartition(":")[2]), psutil.Process(service.pid).memory_info

        def begin(count: int) -> None:
            for _ in range(count):
                client = clients.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
                client.sendall(RUN.to_bytes())
            wait_until_taken(service.pid)

        begin(WARMING_UP)
        before = memory().rss
        begin(effort.in_flight)
        return (memory().rss - before) / effort.in_flight


QUESTION = Question(
    name="slow_runs",
    asks="what does a service do for thousands of clients at once, on a model that takes a second?",
    contenders=(
        Contender(
            "FastAPI route that sleeps, no agent",
            "benchmarks.served.slow_fastapi",
            needs=("fastapi", "uvicorn", "httptools", "uvloop"),
        ),
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
