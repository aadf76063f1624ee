"""The service of the soak: `python soak_mix.py BACKEND`; one handler of every kind, a cron job, an interface, sessions.

Prints where it serves, and at the end its account. Deliveries and messages have no names here: those are remembered for
a day, so an hour of them is a line that rises and no leak.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import TaskStatus
from orphans import living_tasks

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.session import MemorySessionStore
from definable.agent.trigger import Cron, EventTrigger, Reply, TriggerEvent, Webhook
from definable.model import OfflineModel

NO_LIMIT = 1_000_000

CHATS = 50


class Talkative(BaseInterface):
    """A platform on which somebody writes ten times a second."""

    def __init__(self) -> None:
        super().__init__(
            InterfaceConfig("talkative", collect=0, rate_limit_messages_per_minute=NO_LIMIT, max_session_history=10)
        )

    async def receive(self, accept: Accept) -> None:
        for chat in itertools.cycle(map(str, range(CHATS))):
            await accept(InterfaceMessage("talkative", chat, chat, "", text="hello"))
            await anyio.sleep(0.1)

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        await anyio.lowlevel.checkpoint()


def say(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


class Announcing:
    """Says where it is served."""

    def started(self, value: str | None = None) -> None:
        say({"url": value})


def service(directory: Path) -> Agent:
    agent = Agent(
        OfflineModel(latency=0.002),
        bus=SQLiteBus(directory / "events.db"),
        sessions=MemorySessionStore(max_sessions=100),
    )

    @agent.on(Webhook("/wait"))
    async def wait(event: TriggerEvent) -> str:
        return event.body["input"]

    @agent.on(Webhook("/accept", respond="accept"))
    def accept(event: TriggerEvent) -> str:
        return event.body["input"]

    @agent.on(Webhook("/emit"))
    async def emit(event: TriggerEvent) -> None:
        await agent.aemit("job", event.body)

    @agent.on(Webhook("/fail"))
    async def fail(event: TriggerEvent) -> Reply:
        raise ZeroDivisionError("a planned failure")

    @agent.on(Webhook("/counts", method="GET"))
    async def counts(event: TriggerEvent) -> Reply:
        return Reply({"tasks": len(living_tasks())})

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        await anyio.lowlevel.checkpoint()

    @agent.on(Cron("* * * * * *"))
    async def every_second(event: TriggerEvent) -> None:
        agent.emit("job", {})

    return agent


async def main() -> None:
    status: TaskStatus[str | None] = Announcing()
    with TemporaryDirectory() as directory:
        report = await service(Path(directory)).aserve(Talkative(), host="127.0.0.1", port=0, task_status=status)
    say({"clean": report.clean, "report": str(report)})


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
