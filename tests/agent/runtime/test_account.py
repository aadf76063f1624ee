"""Accepted is completed, cancelled or never started, whatever retries and stops there are; in virtual time."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from definable.agent import Agent
from definable.agent.bus import EventBufferFull, EventBusClosed
from definable.agent.runtime import AgentRuntime, ShutdownReport, WorkCount
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent
from definable.concurrency.clock import current_clock
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


def report_of(runtime: AgentRuntime) -> ShutdownReport:
    assert runtime.report is not None
    return runtime.report


# --- retries


async def test_a_failing_handler_is_tried_again_with_backoff_and_then_dead() -> None:
    agent = Agent("offline")
    attempts: list[tuple[int, float]] = []
    ids: set[str] = set()

    @agent.on(EventTrigger("job", retries=3))
    async def job(event: TriggerEvent) -> None:
        attempts.append((event.attempt, anyio.current_time()))
        ids.add(event.id)
        raise ZeroDivisionError

    async with agent.running(enable_server=False, shutdown_timeout=100) as runtime:
        agent.emit("job", {"n": 1})
        await runtime.bus.drain()
        [letter] = await runtime.bus.dead_letters()
    assert [attempt for attempt, _ in attempts] == [1, 2, 3, 4]
    waits = [after - before for (_, before), (_, after) in pairwise(attempts)]
    assert waits == [pytest.approx(seconds, rel=0.26) for seconds in (1, 2, 4)]
    assert (letter.attempt, letter.why, ids) == (4, "ZeroDivisionError", {letter.id})
    assert report_of(runtime).sources["event"] == WorkCount(completed=1, failed=1)


async def test_a_retry_of_a_cron_job_is_not_skipped_for_the_firing_that_overtook_it() -> None:
    agent = Agent("offline")
    job = Cron("0 0 1 1 *", retries=1)
    log: list[int] = []

    @agent.on(job)
    async def handle(event: TriggerEvent) -> None:
        log.append(event.attempt)
        if len(log) == 1:
            raise ZeroDivisionError
        await anyio.sleep(10)

    async with agent.running(enable_server=False) as runtime:
        await agent.fire(job)
        await anyio.sleep(0.1)
        await agent.fire(job)
    assert log == [1, 1, 2]
    assert report_of(runtime).sources["cron"] == WorkCount(completed=2)


async def test_a_firing_that_another_replica_has_published_is_left_to_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "definable")
    agent, job = Agent("offline"), Cron("* * * * *")
    times: list[float] = []

    @agent.on(job)
    async def handle(event: TriggerEvent) -> None:
        times.append(event.timestamp)

    async with agent.running(enable_server=False) as runtime:
        first = job.next_after(current_clock().now())
        assert await runtime.bus.claim(f"{runtime.triggers.key_of(job)}@{first + 60:.3f}", ttl=3600)
        await anyio.sleep(180)
    assert times == [first, first + 120]
    assert [message for message in caplog.messages if "another replica" in message] == [
        f"cron(* * * * *) at {first + 60} was fired by another replica"
    ]


async def test_retries_that_are_due_within_the_grace_are_made_before_the_stop() -> None:
    agent = Agent("offline")

    @agent.on(EventTrigger("job", retries=2))
    async def job(event: TriggerEvent) -> None:
        if event.attempt < 3:
            raise ZeroDivisionError

    async with agent.running(enable_server=False, shutdown_timeout=30) as runtime:
        agent.emit("job")
    assert report_of(runtime).sources["event"] == WorkCount(completed=1)
    assert 2 < report_of(runtime).duration < 4


# --- stops


async def test_what_is_left_at_the_end_of_the_grace_is_told_apart() -> None:
    agent = Agent("offline")

    @agent.on(EventTrigger("long", max_concurrency=1))
    async def long(event: TriggerEvent) -> None:
        await anyio.sleep(100)

    @agent.on(EventTrigger("failing", retries=10))
    async def failing(event: TriggerEvent) -> None:
        raise ZeroDivisionError

    @agent.on(EventTrigger("good"))
    async def good(event: TriggerEvent) -> None:
        await checkpoint()

    async with agent.running(enable_server=False, shutdown_timeout=30) as runtime:
        for _ in range(3):
            for name in ("long", "failing", "good"):
                agent.emit(name)
    report = report_of(runtime)
    assert report.sources["event"] == WorkCount(completed=3, cancelled=1 + 3, never_started=2)
    assert report.duration == pytest.approx(30)
    assert not report.clean


async def test_a_forced_stop_counts_what_stands_everywhere() -> None:
    agent = Agent("offline")

    @agent.on(EventTrigger("long", max_concurrency=1))
    async def long(event: TriggerEvent) -> None:
        await anyio.sleep(100)

    for _ in range(7):
        agent.emit("long")  # more than fit in: they wait before the bus
    async with agent.running(enable_server=False, event_workers=3, event_buffer=1) as runtime:
        await anyio.wait_all_tasks_blocked()
        runtime.stop(force=True)
    assert report_of(runtime).sources["event"] == WorkCount(cancelled=1, never_started=6)
    assert report_of(runtime).forced


class Scenario:
    """Handlers of every kind, an outside that emits, and one kind of stop, all by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.agent = Agent("offline")
        self.accepted = 0
        self.triggers = [self._trigger(index) for index in range(6)]

    def _trigger(self, index: int) -> EventTrigger:
        choose = self.random
        trigger = EventTrigger(
            f"t{index}",
            retries=choose.choice([0, 0, 2]),
            max_concurrency=choose.choice([None, None, 1, 2]),
            timeout=choose.choice([None, None, 3.0]),
        )

        async def handle(event: TriggerEvent) -> Any:
            await self._do(choose.choice(["sleep", "raise", "emit", "aemit", "run", "hang", "nothing", "untidy"]))

        def handle_in_thread(event: TriggerEvent) -> Any:
            if choose.random() < 0.3:
                raise ZeroDivisionError
            if choose.random() < 0.3:
                self.emit()

        handler = handle_in_thread if choose.random() < 0.2 else handle
        self.agent.on(trigger)(handler)
        return trigger

    async def _do(self, what: str) -> None:
        if what == "sleep":
            await anyio.sleep(self.random.uniform(0, 5))
        elif what == "raise":
            raise ZeroDivisionError
        elif what == "emit":
            self.emit()
        elif what == "aemit":
            await self.aemit()
        elif what == "run":
            await self.agent.arun("hi")
        elif what == "hang":
            await anyio.sleep(50)
        elif what == "untidy":
            try:
                await anyio.sleep(self.random.uniform(0, 20))
            finally:
                raise ZeroDivisionError

    def emit(self) -> None:
        try:
            self.agent.emit(f"t{self.random.randrange(6)}")
        except (EventBufferFull, EventBusClosed):
            return
        self.accepted += 1

    async def aemit(self) -> None:
        try:
            await self.agent.aemit("t0")
        except EventBusClosed:
            return
        self.accepted += 1

    async def outside(self) -> None:
        while True:
            self.emit()
            if self.random.random() < 0.3:
                await self.aemit()
            await anyio.sleep(self.random.choice([0, 0, 0.1, 1]))

    async def run(self) -> ShutdownReport:
        choose = self.random
        for _ in range(choose.choice([0, 10])):
            self.emit()
        serving = self.agent.running(
            enable_server=False,
            event_workers=choose.choice([1, 2, 10]),
            event_buffer=choose.choice([1, 3, 100]),
            shutdown_timeout=choose.choice([0, 1, 10, 1000]),
        )
        stop = choose.choice(["drain", "force", "second thoughts", "cancel"])
        runtime = None
        with anyio.CancelScope() as scope:
            async with serving as runtime, anyio.create_task_group() as others:
                others.start_soon(self.outside)
                await anyio.sleep(choose.uniform(0, 10))
                if stop == "cancel":
                    scope.cancel()
                runtime.stop(force=stop == "force")
                if stop == "second thoughts":
                    await anyio.sleep(choose.uniform(0, 5))
                    runtime.stop(force=True)
                others.cancel_scope.cancel()
        assert runtime is not None
        return report_of(runtime)


@pytest.mark.parametrize("seed", range(60))
async def test_the_account_is_exact(seed: int) -> None:
    scenario = Scenario(seed)
    with anyio.fail_after(5000):
        report = await scenario.run()
    assert report.completed + report.cancelled + report.never_started == scenario.accepted
