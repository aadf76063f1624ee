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
    load: float
    """Seconds of asking a service all the time."""
    in_flight: int
    """Requests that a service has in hand at once."""
    cron_jobs: int
    """Cron jobs of one service."""


FULL = Effort(
    "full",
    seconds=1.0,
    runs=5_000,
    latency=1.0,
    deltas=1_000,
    objects=1_000,
    processes=3,
    idle=5.0,
    load=3.0,
    in_flight=2_000,
    cron_jobs=10_000,
)
QUICK = Effort(
    "quick",
    seconds=0.2,
    runs=500,
    latency=0.2,
    deltas=300,
    objects=200,
    processes=1,
    idle=1.0,
    load=1.0,
    in_flight=500,
    cron_jobs=1_000,
)
TINY = Effort(
    "tiny",
    seconds=0.0,
    runs=3,
    latency=0.0,
    deltas=5,
    objects=3,
    processes=1,
    idle=0.1,
    load=0.1,
    in_flight=4,
    cron_jobs=180,
)
"""For the smoke test."""

EFFORTS = {effort.name: effort for effort in (FULL, QUICK, TINY)}
