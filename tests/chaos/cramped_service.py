"""A durable service that can be told to run out of things: `python cramped_service.py BACKEND DIRECTORY GRACE`.

POST /limit {"resource": "RLIMIT_FSIZE", "value": 200000} sets the soft limit of a resource, null takes it away.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import anyio

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.session import SQLiteSessionStore
from definable.agent.trigger import Cron, TriggerEvent, Webhook

backend, place, grace = sys.argv[1:]
directory = Path(place)
agent = Agent(
    "offline",
    name="cramped",
    bus=SQLiteBus(directory / "events.db"),
    sessions=SQLiteSessionStore(directory / "sessions.db"),
)


@agent.on(Webhook("/limit"))
async def limit(event: TriggerEvent) -> None:
    which = getattr(resource, event.body["resource"])
    hard = resource.getrlimit(which)[1]
    value = event.body["value"]
    resource.setrlimit(which, (hard if value is None else value, hard))


@agent.on(Webhook("/accept", respond="accept"))
async def accept(event: TriggerEvent) -> None:
    (directory / "done").mkdir(exist_ok=True)
    (directory / "done" / event.body["id"]).touch()


@agent.on(Webhook("/swallow"))
async def swallow(event: TriggerEvent) -> None:
    while True:
        try:
            await anyio.sleep_forever()
        except BaseException:  # what a loop that "must never die" looks like
            continue


@agent.on(Cron("* * * * * *"))
async def every_second(event: TriggerEvent) -> None:
    return None


report = agent.serve(host="127.0.0.1", port=0, backend=backend, shutdown_timeout=float(grace))  # type: ignore[arg-type]
sys.stdout.write(f"report {report}\n")
