"""Started and stopped at random moments under load: no hang, nothing left, every account balanced, every status right.

Twenty-five times a backend; DEFINABLE_CYCLES=1000 makes a thousand, DEFINABLE_CHAOS_SEED replays.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup
from orphans import living_tasks, living_threads, open_descriptors
from watched_process import WatchedProcess

from definable.agent import Agent
from definable.agent.bus import EventBufferFull, EventBusClosed
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook

CYCLES = int(os.environ.get("DEFINABLE_CYCLES", "25"))

SEED = int(os.environ.get("DEFINABLE_CHAOS_SEED", "1"))

HANG = 10.0
"""Seconds after which a cycle hangs."""

CLIENTS = 6

REQUEST = (
    b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    b"Prefer: respond-async\r\n\r\n{}"
)

TESTS = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(60 + CYCLES)


class Cycle:
    """One start and stop in this process.

    Args:
        chance: Of when and how.
    """

    def __init__(self, chance: random.Random) -> None:
        self.emitted = 0
        self._chance = chance
        self._agent = agent = Agent("offline")

        @agent.on(Webhook("/wait"))
        async def wait(event: TriggerEvent) -> str:
            self._emit()
            await anyio.sleep(chance.choice((0, 0.002, 0.01)))
            return "hi"

        @agent.on(Webhook("/thread"))
        def thread(event: TriggerEvent) -> None:
            self._emit()

        @agent.on(Webhook("/accept", respond="accept"))
        async def accept(event: TriggerEvent) -> str:
            return "hi"

        @agent.on(EventTrigger("job", retries=1))
        async def job(event: TriggerEvent) -> str | None:
            await anyio.sleep(chance.choice((0, 0, 0.002, 0.02)))
            if chance.random() < 0.05:
                raise ZeroDivisionError
            return None

        @agent.on(Cron("* * * * * *"))
        async def every_second(event: TriggerEvent) -> None:
            return None

    async def run(self) -> AgentRuntime | None:
        """Serve, make load, stop; None when it was cancelled before it served."""
        runtime: AgentRuntime | None = None
        end, grace = self._chance.choice(("leave", "stop", "force", "cancel")), self._chance.choice((0, 0.01, 20))
        options = {"host": "127.0.0.1", "port": 0, "shutdown_timeout": grace}
        with anyio.CancelScope() as scope:
            if end == "cancel" and self._chance.random() < 0.3:  # while it starts
                scope.deadline = anyio.current_time() + self._chance.uniform(0, 0.01)
            async with self._agent.running(**options) as runtime, anyio.create_task_group() as load:  # type: ignore[arg-type]
                self._make_load(runtime, load)
                await anyio.sleep(self._chance.uniform(0, 0.03))
                await self._stop(runtime, scope, end)
                load.cancel_scope.cancel()
        return runtime

    def _make_load(self, runtime: AgentRuntime, load: TaskGroup) -> None:
        assert runtime.url is not None
        port = int(runtime.url.rsplit(":", 1)[1])
        behaviours: list[Callable[[int], Awaitable[None]]] = [self._ask, self._ask, self._go_away]
        for number in range(CLIENTS):
            load.start_soon(behaviours[number % len(behaviours)], port)
        load.start_soon(self._keep_emitting)

    async def _stop(self, runtime: AgentRuntime, scope: anyio.CancelScope, end: str) -> None:
        if end == "cancel":
            scope.cancel()
        elif end != "leave":
            runtime.stop()
            if end == "force":
                await anyio.sleep(self._chance.uniform(0, 0.01))
                runtime.stop(force=True)
            await anyio.sleep(self._chance.uniform(0, 0.02))  # the clients go on

    async def _ask(self, port: int) -> None:
        try:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                while True:
                    await stream.send(REQUEST % self._chance.choice((b"wait", b"thread", b"accept", b"run")))
                    await stream.receive()
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            await anyio.sleep_forever()

    async def _go_away(self, port: int) -> None:
        try:
            while True:
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(REQUEST[: self._chance.randrange(len(REQUEST))])
        except (OSError, anyio.BrokenResourceError):
            await anyio.sleep_forever()

    async def _keep_emitting(self) -> None:
        while True:
            self._emit()
            await anyio.sleep(0.001)

    def _emit(self) -> None:
        try:
            self._agent.emit("job")
        except (EventBusClosed, EventBufferFull):
            return
        self.emitted += 1


@dataclass(frozen=True, slots=True)
class Living:
    """What there is in this process."""

    tasks: set[object]
    threads: set[threading.Thread]
    descriptors: int

    @classmethod
    def now(cls) -> Living:
        return cls(living_tasks(), living_threads(), len(open_descriptors()))

    def beyond(self, before: Living) -> list[object]:
        """What there was not before."""
        left: list[object] = [*(self.tasks - before.tasks), *(self.threads - before.threads)]
        return left + ["a descriptor"] * (self.descriptors - before.descriptors)


async def assert_nothing_left(before: Living, what: str) -> None:
    for _ in range(500):  # the clients' own ends take a few turns of the loop
        if not Living.now().beyond(before):
            return
        await anyio.sleep(0.001)
        gc.collect(0)
    assert not Living.now().beyond(before), what


@pytest.mark.anyio
async def test_in_this_process(anyio_backend: str) -> None:
    await Cycle(random.Random(0)).run()  # what opens once stays open
    before = Living.now()
    counts = {"served": 0, "clean": 0, "forced": 0}
    for number in range(CYCLES):
        seed = SEED * 1_000_000 + number
        cycle, what = Cycle(random.Random(seed)), f"seed {seed}"
        with anyio.fail_after(HANG):
            runtime = await cycle.run()
        await assert_nothing_left(before, what)
        if runtime is None or runtime.report is None:
            continue
        report = runtime.report
        counts["served"] += 1
        counts["clean"] += report.clean
        counts["forced"] += report.forced
        events = report.sources["event"]
        assert events.completed + events.cancelled + events.never_started >= cycle.emitted, (what, str(report))
        assert runtime.tracker.active() == 0, what
    sys.stdout.write(f"{anyio_backend}: {CYCLES} cycles, {counts}, nothing left\n")
    assert counts["served"] > CYCLES / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_with_signals_in_a_process_of_its_own(backend: str, tmp_path: Path) -> None:
    script = TESTS / "chaos" / "forked_services.py"
    arguments = [str(script), backend, str(max(CYCLES // 4, 8)), str(SEED)]
    with WatchedProcess(arguments, tmp_path, {"PYTHONPATH": str(TESTS)}) as process:
        status = process.process.wait(50 + CYCLES)
    assert status == 0, process.text
    outcome = json.loads(process.lines[-1])
    sys.stdout.write(f"{backend}: {outcome}\n")
    assert outcome["wrong"] == []
