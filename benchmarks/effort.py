"""How much is done to answer a question: enough for a number, enough to see that it works, next to nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Counts and durations of one contender in one round."""

    name: str
    seconds: float
    """How long a timing loop goes on."""
    runs: int
    """Runs at once."""
    latency: float
    """Seconds that the model takes where runs are made at once."""
    deltas: int
    """Deltas of a streamed reply."""
    objects: int
    """Objects kept alive to weigh one."""
    processes: int
    """Fresh processes, where one process gives one number."""
    idle: float
    """Seconds of watching a service do nothing."""


FULL = Effort("full", seconds=1.0, runs=5_000, latency=1.0, deltas=1_000, objects=1_000, processes=3, idle=5.0)
QUICK = Effort("quick", seconds=0.2, runs=500, latency=0.2, deltas=300, objects=200, processes=1, idle=1.0)
TINY = Effort("tiny", seconds=0.0, runs=3, latency=0.0, deltas=5, objects=3, processes=1, idle=0.1)
"""For the smoke test."""

EFFORTS = {effort.name: effort for effort in (FULL, QUICK, TINY)}
