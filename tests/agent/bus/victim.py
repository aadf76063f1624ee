"""An agent on a durable bus under load, for `test_kill.py` to kill: `python victim.py BUS LOG BACKEND LIFE`.

The bus is a file's path or Redis's URL.

Notes down in the log, which it appends to line by line, what was accepted, begun and done. In a life whose name is no
number it makes no load of its own.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys

import anyio

from definable.agent import Agent, RunOutput
from definable.agent.bus import EventBus, RedisBus, SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.errors import StorageError

WORKERS = 20
EMITTERS = 30

LEASE = 1.5
"""Seconds."""

place, log, backend, life = sys.argv[1:]
bus: EventBus = RedisBus(place, lease=LEASE) if place.startswith("redis://") else SQLiteBus(place)
agent = Agent("offline", bus=bus)
log_descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    os.write(log_descriptor, (" ".join(map(str, words)) + "\n").encode())


@agent.on(EventTrigger("job"))
async def job(event: TriggerEvent) -> None:
    note("begun", event.body["id"], event.attempt, life)
    await anyio.sleep(random.uniform(0, 0.005))
    note("done", event.body["id"])


@agent.on(EventTrigger("poison"))
async def poison(event: TriggerEvent) -> None:
    note("begun", "poison", event.attempt, life)
    if event.attempt < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    note("done", "poison")


@agent.on(Webhook("/hook", respond="accept", dedupe="X-Delivery"))
async def hook(event: TriggerEvent) -> str:
    await anyio.sleep(random.uniform(0, 0.01))
    return "hook"


@agent.after_response
def ran(output: RunOutput) -> None:
    note("ran", output.run_id)


async def emit(numbers: itertools.count[int]) -> None:
    while True:
        id = f"{life}.{next(numbers)}"
        try:
            await agent.aemit("job", {"id": id})
        except StorageError:  # the bus's server is away: nothing was promised
            continue
        note("accepted", id)
        await anyio.sleep(0.001)


async def main() -> None:
    numbers = itertools.count()
    async with anyio.create_task_group() as emitters:
        options = {"host": "127.0.0.1", "port": 0, "event_workers": WORKERS, "handle_signals": False}
        async with agent.running(**options) as runtime:  # type: ignore[arg-type]
            if life == "poison":
                await agent.aemit("poison", {})
            for _ in range(EMITTERS if life.isdecimal() else 0):
                emitters.start_soon(emit, numbers)
            sys.stdout.write(f"{runtime.url}\n")
            sys.stdout.flush()
            await anyio.to_thread.run_sync(sys.stdin.read)
            emitters.cancel_scope.cancel()


anyio.run(main, backend=backend)
