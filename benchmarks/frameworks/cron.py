"""Cron jobs with definable and with APScheduler: one a number of `seconds`, due at that second of each minute.

A scheduler runs while its context is open, and tells how late each handler started, in seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

Scheduler: TypeAlias = Callable[[Sequence[int], Callable[[float], None]], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def definable(seconds: Sequence[int], tell: Callable[[float], None]) -> AsyncGenerator[None]:
    from definable.agent import Agent
    from definable.agent.trigger import Cron, TriggerEvent

    agent = Agent("offline")

    def handler(number: int) -> Callable[[TriggerEvent], object]:
        async def handle(event: TriggerEvent) -> None:
            tell(time.time() - event.timestamp)

        handle.__qualname__ = f"job_{number}"
        return handle

    for number, second in enumerate(seconds):
        agent.on(Cron(f"* * * * * {second}"))(handler(number))
    async with agent.running(enable_server=False):
        yield


@asynccontextmanager
async def apscheduler(seconds: Sequence[int], tell: Callable[[float], None]) -> AsyncGenerator[None]:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    from apscheduler.triggers.cron import CronTrigger

    async def handle(second: int) -> None:
        tell((time.time() - second) % 60)

    scheduler = AsyncIOScheduler()
    for number, second in enumerate(seconds):
        scheduler.add_job(handle, CronTrigger(second=second), args=[second], id=str(number), misfire_grace_time=60)
    scheduler.start()
    yield
    scheduler.shutdown(wait=False)


SCHEDULERS: Mapping[str, Scheduler] = {"definable": definable, "apscheduler": apscheduler}
