"""An agent on a durable bus under load, for `test_kill.py` to kill: `python victim.py BUS LOG BACKEND LIFE`.

The bus is a file's path, or the URL of Redis or PostgreSQL.

Notes down in the log, which it appends to line by line, what was accepted, begun and done. A life whose name is a
number makes a load of plain events, one that begins with `mix` of events of every kind, any other none.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys

import anyio

from definable.agent import Agent, RunOutput
from definable.agent.bus import EventBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.errors import StorageError

WORKERS = 20
EMITTERS = 30

LEASE = 1.5
"""Seconds."""

place, log, backend, life = sys.argv[1:]


def bus_at(place: str) -> EventBus:
    if place.startswith("redis://"):
        return RedisBus(place, lease=LEASE)
    return PostgresBus(place, lease=LEASE) if place.startswith("postgresql://") else SQLiteBus(place)


is_mixed = life.startswith("mix")
bus = bus_at(place)
agent = Agent("offline", bus=bus)
log_descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    os.write(log_descriptor, (" ".join(map(str, words)) + "\n").encode())


@agent.on(EventTrigger("job"))
async def job(event: TriggerEvent) -> None:
    note("begun", event.body["id"], event.attempt, life)
    await anyio.sleep(random.uniform(0, 0.005))
    note("done", event.body["id"])


@agent.on(EventTrigger("limited", max_concurrency=2))
async def limited(event: TriggerEvent) -> None:
    await job(event)


@agent.on(EventTrigger("retried", retries=20))
async def retried(event: TriggerEvent) -> None:
    note("begun", event.body["id"], event.attempt, life)
    await anyio.sleep(random.uniform(0, 0.005))
    if event.attempt == 1:
        note("failed", event.body["id"], event.attempt, life)
        raise RuntimeError("the first attempt fails")
    note("done", event.body["id"])


@agent.on(EventTrigger("later"))
async def later(event: TriggerEvent) -> None:
    await job(event)


@agent.on(EventTrigger("keyed", key=lambda event: event.body["id"].rpartition(".")[0], retries=20))
async def keyed(event: TriggerEvent) -> None:
    note("begun", event.body["id"], event.attempt, life)
    await anyio.sleep(random.uniform(0, 0.005))
    if event.attempt == 1 and random.random() < 0.1:
        note("failed", event.body["id"], event.attempt, life)
        raise RuntimeError("some first attempts fail")
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


async def emit(numbers: itertools.count[int], emitter: int) -> None:
    while True:
        kind = random.choice(("job", "job", "limited", "retried", "later", "keyed", "keyed")) if is_mixed else "job"
        id = f"{life}.{emitter}.{next(numbers)}"
        delay = random.uniform(0.0, 1.5) if kind == "later" else None
        try:
            await agent.aemit(kind, {"id": id if kind == "job" else f"{kind}:{id}"}, delay=delay)
        except StorageError:  # the bus's server is away: nothing was promised
            continue
        note("accepted", id if kind == "job" else f"{kind}:{id}")
        await anyio.sleep(0.05 if is_mixed else 0.001)


async def main() -> None:
    numbers = itertools.count()
    async with anyio.create_task_group() as emitters:
        options = {"host": "127.0.0.1", "port": 0, "event_workers": WORKERS, "handle_signals": False}
        async with agent.running(**options) as runtime:  # type: ignore[arg-type]
            if life == "poison":
                await agent.aemit("poison", {})
            for emitter in range(3 if is_mixed else EMITTERS if life.isdecimal() else 0):
                emitters.start_soon(emit, numbers, emitter)
            sys.stdout.write(f"{runtime.url}\n")
            sys.stdout.flush()
            await anyio.to_thread.run_sync(sys.stdin.read)
            emitters.cancel_scope.cancel()


anyio.run(main, backend=backend)
