"""How many events go from `emit` to their handler, next to a memory object stream with a task that takes from it?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil
from time import perf_counter

import anyio

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from definable.agent import Agent
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.concurrency.event_loop import run_blocking

BURST = 5_000
"""Events that are emitted at once: half of what the bus holds."""

DATA = {"n": 1}


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    subject = {"MemoryBus": through_agent, "stream": by_hand}[contender.subject]
    count = ceil(effort.runs * 10 / BURST) * BURST if effort.seconds else effort.runs
    rate = run_blocking(partial(subject, count, min(BURST, count)), instead="", backend=contender.backend)
    return {"rate": rate}


class Tally:
    """Counts what was handled, and says when a burst is."""

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._count = 0
        self.done = anyio.Event()

    def handled(self) -> None:
        """One more."""
        self._count += 1
        if self._count % self._burst == 0:
            self.done.set()
            self.done = anyio.Event()


async def through_agent(count: int, burst: int) -> float:
    agent, tally = Agent("offline"), Tally(burst)

    @agent.on(EventTrigger("job"))
    async def handle(event: TriggerEvent) -> None:
        tally.handled()

    async with agent.running(enable_server=False):
        began = perf_counter()
        for _ in range(count // burst):
            done = tally.done
            for _ in range(burst):
                agent.emit("job", DATA)
            await done.wait()
        return count / (perf_counter() - began)


async def by_hand(count: int, burst: int) -> float:
    tally = Tally(burst)
    send, receive = anyio.create_memory_object_stream[dict[str, int]](2 * BURST)

    async def handle(data: dict[str, int]) -> None:
        tally.handled()

    async def work() -> None:
        async for data in receive:
            await handle(data)

    async with anyio.create_task_group() as tasks:
        with send, receive:
            tasks.start_soon(work)
            began = perf_counter()
            for _ in range(count // burst):
                done = tally.done
                for _ in range(burst):
                    send.send_nowait(DATA)
                await done.wait()
            lasted = perf_counter() - began
            tasks.cancel_scope.cancel()
    return count / lasted


QUESTION = Question(
    name="emit",
    asks="how many events a second go from emit to their handler?",
    contenders=(
        Contender("a stream and a task, asyncio", "stream"),
        Contender("a stream and a task, trio", "stream", backend="trio"),
        Contender("MemoryBus, asyncio", "MemoryBus", ours=True),
        Contender("MemoryBus, trio", "MemoryBus", backend="trio", ours=True),
    ),
    columns=(Column("rate", "events/s", target=60_000.0, at_least=True),),
    measure=measure,
)
