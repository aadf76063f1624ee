"""Does an event or a request cost more among many triggers?

A third of the event triggers have a name, a third a glob that ends in a wildcard, a third one that begins with it. Each
webhook has a parameter in its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from benchmarks.questions.emit import Tally
from definable.agent import Agent
from definable.agent.runtime.http.router import Router
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.concurrency.event_loop import run_blocking

PATTERNS = ("job-{}", "user.{}.*", "*.topic{}")

BURST = 1_000
"""Events that are emitted at once."""

NAMES = 10
"""How many events and paths are asked for in turns, from all over the triggers: not what a processor's cache holds."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    size, burst = int(contender.subject), BURST if effort.seconds else effort.runs
    emitting = partial(_emit, size, burst, effort.seconds)
    return {
        "emit": run_blocking(emitting, instead="", backend=contender.backend) * 1e6,
        "route": _route(size, burst, effort.seconds) * 1e6,
    }


async def _emit(size: int, burst: int, seconds: float) -> float:
    """Seconds from `emit` to the end of the handler, of one event among many."""
    agent, tally = Agent("offline"), Tally(burst)

    async def handle(event: TriggerEvent) -> None:
        tally.handled()

    patterns = [PATTERNS[number % 3].format(number) for number in range(size)]
    for pattern in patterns:
        agent.on(EventTrigger(pattern))(handle)
    some = [patterns[number * size // NAMES].replace("*", "some") for number in range(NAMES)]
    names = [some[number % NAMES] for number in range(burst)]
    async with agent.running(enable_server=False):
        count, began = 0, perf_counter()
        while count == 0 or perf_counter() - began < seconds:
            done = tally.done
            for name in names:
                agent.emit(name)
            await done.wait()
            count += burst
        return (perf_counter() - began) / count


def _route(size: int, burst: int, seconds: float) -> float:
    """Seconds in which a path leads to its webhook, of one path among many."""
    router = Router[Any]()
    for number in range(size):
        router.add("POST", f"/hook{number}/{{repo}}", number)
    paths = [f"/hook{number % NAMES * size // NAMES}/spam" for number in range(burst)]
    count, began = 0, perf_counter()
    while count == 0 or perf_counter() - began < seconds:
        for path in paths:
            assert router.match("POST", path).endpoint is not None
        count += burst
    return (perf_counter() - began) / count


def question(backend: Any) -> Question:
    """What one event and one request cost among 10 to 10,000."""
    return Question(
        name=f"matching_{backend}",
        asks=f"what do an event and a request cost among ten thousand triggers, on {backend}?",
        contenders=tuple(
            Contender(f"{size:,} triggers", str(size), backend=backend, ours=size > 10) for size in (10, 1_000, 10_000)
        ),
        columns=(
            Column("emit", "emit to handler, us", target=1.5, target_is_ratio=True),
            Column("route", "route, us", target=1.5, target_is_ratio=True),
        ),
        measure=measure,
    )


MATCHING = (question("asyncio"), question("trio"))
