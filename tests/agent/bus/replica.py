"""One of several replicas with a cron job every second, for `test_replicas.py`.

`python replica.py URL LOG BACKEND SKEW`: its wall clock is `SKEW` seconds ahead. It notes down every firing that it
handles, and stops on SIGTERM.
"""

from __future__ import annotations

import os
import sys

import anyio

from definable.agent import Agent
from definable.agent.bus import PostgresBus, RedisBus
from definable.agent.trigger import Cron, TriggerEvent
from definable.concurrency.clock import SystemClock, use_clock

url, log, backend, skew = sys.argv[1:]
bus = RedisBus(url, lease=1.5) if url.startswith("redis://") else PostgresBus(url, lease=1.5)
agent = Agent("offline", bus=bus)
log_descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class SkewedClock(SystemClock):
    def now(self) -> float:
        return super().now() + float(skew)


@agent.on(Cron("* * * * * *", overlap="allow"))
async def tick(event: TriggerEvent) -> None:
    os.write(log_descriptor, f"{event.timestamp:.0f} {event.id} {event.attempt} {skew}\n".encode())


async def main() -> None:
    with use_clock(SkewedClock()):
        async with anyio.create_task_group() as group:
            await group.start(lambda *, task_status: agent.aserve(enable_server=False, task_status=task_status))
            sys.stdout.write("ready\n")
            sys.stdout.flush()


anyio.run(main, backend=backend)
