"""The service that chaos hits: `python service.py BACKEND DIRECTORY LIFE CHAT_PORT PLAN`.

LIFE is its number in the plan, or `calm`: the last one, in which everything behaves and what is left is handled. Notes
down in the journal what it accepted and what came to an end; prints where it serves, and at the end its account.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus
from chaos.line_chat import LineChat
from chaos.misbehaviour import ChaosModel, SteppingClock, misbehave, misbehave_in_thread
from chaos.plan import CHAT_FAULTS, ENDLESS, End, Plan
from orphans import living_children, living_tasks, living_threads, open_descriptors

from definable.agent import Agent, RunContext, RunOutput
from definable.agent.bus import SQLiteBus
from definable.agent.interface import InterfaceMessage
from definable.agent.interface.message import MessageEnd
from definable.agent.interface.pipeline import Pipeline
from definable.agent.runtime import AgentRuntime, ShutdownReport
from definable.agent.session import SQLiteSessionStore
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.concurrency.clock import use_clock
from definable.model import OfflineModel

RUN_TIMEOUT = 0.5
"""Seconds."""

GRACE = {End.CUT: 0.3, End.FORCE: 20.0, End.HARD: 20.0}
"""Seconds; of the other ends `LONG_GRACE`."""

LONG_GRACE = 75.0
"""A storm that stands in a file is thousands of events, whose handlers fail in every way: a slow machine needs long."""

UVLOOP = {"use_uvloop": True}
"""Of its loops the first opens pipes for the life of the process."""


class Journal:
    """Lines in a file, written at once, so that they survive a kill.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


def note_ended_messages(journal: Journal) -> None:
    """Note down which messages have come to their end: hooks are not told of all of them."""
    answer_message = Pipeline.answer

    async def answer(pipeline: Pipeline, message: InterfaceMessage) -> MessageEnd:
        try:
            end = await answer_message(pipeline, message)
        except (Exception, SystemExit):
            journal.note("ended", message.platform_message_id)
            raise
        journal.note("ended", message.platform_message_id)
        return end

    Pipeline.answer = answer


class Counted:
    """What the service itself knows to have been accepted."""

    def __init__(self) -> None:
        self.emitted = 0
        self.runtime: AgentRuntime | None = None
        self.leaked_tasks: list[str] = []

    def watch(self) -> None:
        """Look at the tasks before and after the runtime."""
        run, counted = AgentRuntime.run, self

        async def watched(
            runtime: AgentRuntime, *, task_status: TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED
        ) -> ShutdownReport:
            counted.runtime, before = runtime, living_tasks()
            try:
                return await run(runtime, task_status=task_status)
            finally:
                counted.leaked_tasks = [repr(task) for task in living_tasks() - before]

        AgentRuntime.run = watched  # type: ignore[method-assign]


class CountingAgent(Agent):
    """Counts the events that were accepted."""

    counted: Counted

    def emit(self, name: str, data: Any = None) -> None:
        super().emit(name, data)
        self.counted.emitted += 1

    async def aemit(self, name: str, data: Any = None) -> None:
        await super().aemit(name, data)
        self.counted.emitted += 1


def build(plan: Plan, directory: Path, end: End | None, journal: Journal) -> CountingAgent:
    """The agent, with every kind of trigger. The calm life has no end that is planned."""
    agent = CountingAgent(
        OfflineModel() if end is None else ChaosModel(),
        name="chaos",
        bus=SQLiteBus(directory / "events.db") if plan.is_durable else None,
        sessions=SQLiteSessionStore(directory / "sessions.db") if plan.sessions else None,
        run_timeout=RUN_TIMEOUT,
    )
    agent.counted = Counted()

    add_triggers(agent, journal, end)
    add_noise(agent)

    @agent.after_response
    def ran(output: RunOutput) -> None:
        journal.note("ended", output.run_id)

    @agent.on_error
    def failed(context: RunContext, error: Exception) -> None:
        journal.note("ended", context.run_id)

    return agent


def add_triggers(agent: CountingAgent, journal: Journal, end: End | None) -> None:
    """Webhooks, events and a cron job, each of which does what it is told."""

    def deed_of(event: TriggerEvent) -> str:
        deed: str = event.body["do"]
        # A life that is to drain may find in a durable bus what never ends, left there by one that was cut off.
        spared = end is None or (end is End.DRAIN and deed in ENDLESS)
        return "fine" if spared else deed

    async def handle(event: TriggerEvent) -> str | None:
        deed = deed_of(event)
        if deed not in ENDLESS:
            journal.note("ended", event.body["id"])
        await misbehave(deed, agent)
        journal.note("ended", event.body["id"])
        return event.body.get("input")

    @agent.on(Webhook("/wait", dedupe="X-Delivery"))
    async def on_wait(event: TriggerEvent) -> str | None:
        return await handle(event)

    @agent.on(Webhook("/accept", respond="accept", dedupe="X-Delivery", retries=1))
    async def on_accept(event: TriggerEvent) -> str | None:
        return await handle(event)

    @agent.on(Webhook("/thread"))
    def on_thread(event: TriggerEvent) -> None:
        misbehave_in_thread(deed_of(event))

    @agent.on(Webhook("/emit"))
    async def on_emit(event: TriggerEvent) -> None:
        for job in event.body["jobs"]:
            await agent.aemit("job", job)
            journal.note("accepted", job["id"])

    @agent.on(EventTrigger("job", max_concurrency=50))
    async def on_job(event: TriggerEvent) -> None:
        await handle(event)


def add_noise(agent: CountingAgent) -> None:
    """What goes on whatever the clients do."""

    @agent.on(EventTrigger("noise"))
    async def on_noise(event: TriggerEvent) -> None:
        await anyio.lowlevel.checkpoint()

    @agent.on(Cron("* * * * * *", overlap="queue"))
    def every_second(event: TriggerEvent) -> None:
        agent.emit("noise")


def account(runtime: AgentRuntime, counted: Counted, before: dict[str, str], chat: LineChat) -> dict[str, Any]:
    """What became of everything, as JSON."""
    report = runtime.report
    assert report is not None
    threads = [thread.name for thread in living_threads() if thread.name not in ("MainThread",) and not thread.daemon]
    new = [(number, what) for number, what in open_descriptors().items() if before.get(number) != what]
    # glibc reads what is in /proc/sys when a thread's heap is given back.
    files = [f"{number} {what}" for number, what in new if not what.startswith("/proc/sys/")]
    return {
        "report": str(report),
        "sources": {source: asdict(count) for source, count in report.sources.items()},
        "clean": report.clean,
        "forced": report.forced,
        "emitted": counted.emitted,
        "taken": chat.taken,
        "fired": runtime.cron_loop.fired.total(),
        "leaks": counted.leaked_tasks + threads + files + [f"process {number}" for number in living_children()],
    }


def main() -> None:
    backend, place, life, port, text = sys.argv[1:]
    directory, plan = Path(place), Plan.from_json(text)
    end = None if life == "calm" else plan.lives[int(life)][0]
    journal = Journal(directory / "journal")
    agent = build(plan, directory, end, journal)
    agent.counted.watch()
    note_ended_messages(journal)
    chat = LineChat(int(port), () if end is None else CHAT_FAULTS, plan.seed)
    grace = LONG_GRACE if end is None else GRACE.get(end, LONG_GRACE)
    steps = use_clock(SteppingClock(plan.seed)) if plan.clock_steps else nullcontext()
    anyio.run(anyio.lowlevel.checkpoint, backend=backend, backend_options=UVLOOP if backend == "asyncio" else {})
    before = open_descriptors()
    try:
        with steps:
            agent.serve(
                chat,
                host="127.0.0.1",
                port=0,
                backend=backend,  # type: ignore[arg-type]
                shutdown_timeout=grace,
                event_workers=plan.workers,
                event_buffer=plan.buffer,
            )
    finally:
        if agent.counted.runtime is not None:
            sys.stdout.write(f"account {json.dumps(account(agent.counted.runtime, agent.counted, before, chat))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
