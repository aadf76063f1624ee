"""What does it cost a request that callers are limited, and what do a million of them hold in memory?

Of one process, without a network: what `Door.admit` takes beside the same without limits, over more addresses than any
cache of theirs has. Nobody is refused. Limits that replicas share cost a round trip to their server besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter, process_time
from typing import Any

import psutil

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from definable.agent.auth import APIKeyAuth
from definable.agent.auth.base import AuthProvider, RefusalLog
from definable.agent.runtime.http.auth import Door
from definable.agent.runtime.http.body import UnfinishedBodies
from definable.agent.runtime.http.request import Request
from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.event_loop import run_blocking
from definable.concurrency.rate_limits import Rate

RATE = Rate(1_000_000, 60.0)

MEMORABLE = Rate(60, 3600.0)
"""At which nobody has paid before all have called: each of them would be remembered."""

CALLERS = 5_000
"""Addresses that call in turns where time is measured."""

LIMITS: dict[str, tuple[AuthProvider | None, tuple[Rate | None, Rate | None]]] = {
    "nothing": (None, (None, None)),
    "addresses": (None, (RATE, None)),
    "key": (APIKeyAuth("k"), (RATE, None)),
    "both": (APIKeyAuth("k"), (RATE, RATE)),
}
"""Who is asked, and the rates of each caller and of each address."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return run_blocking(partial(_measure, contender.subject, effort), instead="", backend=contender.backend)


async def _measure(subject: str, effort: Effort) -> Mapping[str, float]:
    provider, rates = LIMITS[subject]
    callers = [_request(number) for number in range(CALLERS if effort.seconds else effort.runs)]
    without = await _cost(Door(RefusalLog()), provider, callers, effort.seconds)
    cost = await _cost(Door(RefusalLog(), *rates), provider, callers, effort.seconds)
    limits, process = Door(RefusalLog(), *rates).limits, psutil.Process()
    before = process.memory_info().rss
    for number in range(effort.objects * 1_000 if subject == "addresses" else 0):
        await limits.take(f"address~{_address(number)}", MEMORABLE)
    held = process.memory_info().rss - before
    return {"cost": cost * 1e6, "added": (cost - without) * 1e6, "memory": held / 1024**2}


async def _cost(door: Door, provider: AuthProvider | None, callers: Sequence[Request], seconds: float) -> float:
    """Processor seconds of one request."""
    count, began, used_before = 0, perf_counter(), process_time()
    while count == 0 or perf_counter() - began < seconds:
        for request in callers:
            await door.admit(provider, request, 0, "run")
        count += len(callers)
    return (process_time() - used_before) / count


async def _receive() -> dict[str, Any]:
    raise AssertionError("no body is asked for")


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def _request(number: int) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/run",
        "query_string": b"",
        "headers": [(b"host", b"example"), (b"x-api-key", b"k")],
        "client": (_address(number), 50_000),
    }
    return Request(scope, _receive, {}, _BODIES, _MEMORY)


_BODIES, _MEMORY = UnfinishedBodies(1024), ByteLimit(1024)

QUESTION = Question(
    name="limiter",
    asks="what does it cost a request that callers are limited, and what do a million callers hold?",
    contenders=(
        Contender("no limits, asyncio", "nothing"),
        Contender("addresses, asyncio", "addresses", ours=True),
        Contender("an API key, asyncio", "key", ours=True),
        Contender("a key and addresses, asyncio", "both", ours=True),
        Contender("a key and addresses, trio", "both", backend="trio", ours=True),
    ),
    columns=(
        Column("cost", "processor, us a request", has_ratio=False),
        Column("added", "by the limits, us", target=10.0, has_ratio=False),
        Column("memory", "memory of a million, MiB", target=64.0, has_ratio=False),
    ),
    measure=measure,
)
