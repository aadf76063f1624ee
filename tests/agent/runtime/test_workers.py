"""Events, firings and retries through a served agent: limits, overlaps, full buffers, threads, in real time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from typing import Any, Literal

import anyio
import httpx2
import pytest
from anyio.lowlevel import checkpoint

from definable.agent import Agent, RunOutput, RunStatus
from definable.agent.bus import EventBufferFull, EventBusClosed
from definable.agent.run.context import RunRequest
from definable.agent.runtime import WorkCount
from definable.agent.trigger import Cron, EventTrigger, Reply, TriggerEvent, Webhook
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

LIMIT = 20.0
"""Seconds that a test may hang."""


def serve(agent: Agent, **options: Any) -> Any:
    return agent.running(enable_server=False, **options)


class Gate:
    """A handler that counts, and waits until it may go on."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()
        self.active = self.most = self.handled = 0

    async def __call__(self, event: TriggerEvent) -> None:
        self.active += 1
        self.most = max(self.most, self.active)
        await self.go_on.wait()
        self.active -= 1
        self.handled += 1


# --- routing


async def test_every_trigger_that_matches_gets_the_event(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "definable")
    agent = Agent("offline")
    seen: list[tuple[str, str, Any]] = []
    for pattern in ("user.*", "user.signup", "*", "order.[0-9]", "User.*"):

        async def handle(event: TriggerEvent, pattern: str = pattern) -> None:
            seen.append((pattern, event.source, dict(event.body)))
            event.body.clear()

        agent.on(EventTrigger(pattern))(handle)
    async with serve(agent) as runtime:
        agent.emit("user.signup", {"n": 1})
        agent.emit("order.7", {"n": 2})
    assert sorted(seen) == [
        ("*", "event(order.7)", {"n": 2}),
        ("*", "event(user.signup)", {"n": 1}),
        ("order.[0-9]", "event(order.7)", {"n": 2}),
        ("user.*", "event(user.signup)", {"n": 1}),
        ("user.signup", "event(user.signup)", {"n": 1}),
    ]
    assert runtime.report.completed == 5


async def test_an_event_for_nobody_is_a_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "definable")
    agent = Agent("offline")
    async with serve(agent):
        agent.emit("nobody.cares")
    assert "the event 'nobody.cares' matches no trigger" in caplog.text


async def test_a_handler_may_be_sync_and_may_start_a_run() -> None:
    agent = Agent("offline")
    outputs: list[str] = []

    @agent.after_response
    def keep(output: RunOutput) -> None:
        outputs.append(output.content)

    @agent.on(EventTrigger("sync"))
    def sync(event: TriggerEvent) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return "from a thread"

    @agent.on(EventTrigger("reply"))
    async def reply(event: TriggerEvent) -> Reply:
        return Reply("ignored")

    async with serve(agent) as runtime:
        agent.emit("sync")
        agent.emit("reply")
    assert outputs == ["from a thread"]
    assert (runtime.report.completed, runtime.report.failed) == (2, 0)


# --- failures


async def test_a_handler_that_raises_leaves_the_rest_running(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")
    handled = 0

    @agent.on(EventTrigger("bad"))
    async def bad(event: TriggerEvent) -> None:
        raise (ZeroDivisionError, SystemExit, BaseExceptionGroup)[event.body["data"]]("oops", [ValueError()])

    @agent.on(EventTrigger("good"))
    async def good(event: TriggerEvent) -> None:
        nonlocal handled
        handled += 1

    async with serve(agent, event_workers=1) as runtime:
        for kind in range(3):
            agent.emit("bad", kind)
            agent.emit("good")
        with anyio.fail_after(LIMIT):
            await runtime.bus.drain()
        assert [letter.data["source"] for letter in await runtime.bus.dead_letters()] == ["event(bad)"] * 3
    assert handled == 3
    assert (runtime.report.completed, runtime.report.failed) == (6, 3)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_handler_that_cancels_its_own_task_fails_alone() -> None:
    agent = Agent("offline")
    done = anyio.Event()

    @agent.on(EventTrigger("bad"))
    @agent.on(Webhook("/bad"))
    async def bad(event: TriggerEvent) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await checkpoint()

    @agent.on(EventTrigger("good"))
    async def good(event: TriggerEvent) -> None:
        done.set()

    async with agent.running(port=0, event_workers=1) as runtime:
        agent.emit("bad")
        agent.emit("good")
        with anyio.fail_after(LIMIT):
            await done.wait()
            async with httpx2.AsyncClient(base_url=runtime.url or "") as client:
                assert [(await client.post("/bad")).status_code for _ in range(2)] == [500, 500]
        assert [letter.data["source"] for letter in await runtime.bus.dead_letters()] == ["event(bad)"]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_handler_that_hangs_is_cut_off_at_its_timeout(kind: Literal["sync", "async"]) -> None:
    agent = Agent("offline")
    release = threading.Event()
    handled = anyio.Event()

    def hang_sync(event: TriggerEvent) -> None:
        release.wait(LIMIT)

    async def hang_async(event: TriggerEvent) -> None:
        await anyio.sleep_forever()

    agent.on(EventTrigger("hang", timeout=0.02))(hang_sync if kind == "sync" else hang_async)

    @agent.on(EventTrigger("good"))
    async def good(event: TriggerEvent) -> None:
        handled.set()

    async with serve(agent, event_workers=1) as runtime:
        agent.emit("hang")
        agent.emit("good")
        with anyio.fail_after(LIMIT):
            await handled.wait()
        [letter] = await runtime.bus.dead_letters()
        release.set()
    assert letter.why == "RunTimeout: event(hang) did not end within timeout=0.02 seconds"
    assert runtime.report.clean


async def test_a_dead_letter_is_replayed() -> None:
    agent = Agent("offline")
    bodies: list[Any] = []

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        bodies.append(event.body.pop("n"))
        if len(bodies) == 1:
            raise ZeroDivisionError

    async with serve(agent) as runtime:
        agent.emit("job", {"n": 1})
        with anyio.fail_after(LIMIT):
            await runtime.bus.drain()
            [letter] = await runtime.bus.dead_letters()
            assert await runtime.bus.replay(letter.id)
            await runtime.bus.drain()
        assert await runtime.bus.dead_letters() == ()
    assert bodies == [1, 1]
    assert (runtime.report.completed, runtime.report.failed) == (2, 1)


@pytest.mark.parametrize("fails", [True, False])
async def test_what_has_failed_for_good_may_be_delivered_again(fails: bool) -> None:
    agent, trigger = Agent("offline"), EventTrigger("job")

    @agent.on(trigger)
    async def job(event: TriggerEvent) -> None:
        if fails:
            raise ZeroDivisionError

    async with serve(agent) as runtime:
        for again in (True, fails):
            data = {"body": None, "dedupe_key": "k"}
            assert await runtime.bus.publish(runtime.triggers.key_of(trigger), data, dedupe_key="k") is again
            with anyio.fail_after(LIMIT):
                await runtime.bus.drain()
    assert runtime.report.sources["event"].failed == (2 if fails else 0)


@pytest.mark.parametrize("failure", [None, ZeroDivisionError("oops")])
async def test_a_promised_run_has_ended_when_its_handler_has_also_without_a_run(failure: Exception | None) -> None:
    agent, trigger = Agent("offline"), EventTrigger("job")

    @agent.on(trigger)
    async def job(event: TriggerEvent) -> None:
        if failure is not None:
            raise failure

    async with serve(agent) as runtime:
        promised = runtime.registry.queue(RunRequest("", run_id="r"), "test")
        other = runtime.registry.queue(RunRequest("", run_id="other"), "test")
        await runtime.bus.publish(runtime.triggers.key_of(trigger), {"run_id": "r"})
        with anyio.fail_after(LIMIT):
            await runtime.bus.drain()
        assert promised.status is (RunStatus.COMPLETED if failure is None else RunStatus.FAILED)
        assert repr(promised.failure) == repr(failure)
        assert other.status is RunStatus.QUEUED


async def test_a_delivery_for_nobody_is_a_dead_letter_and_accounted_for() -> None:
    agent = Agent("offline")
    async with serve(agent) as runtime:
        await runtime.bus.publish("nobody", {})
        with anyio.fail_after(LIMIT):
            await runtime.bus.drain()
        [letter] = await runtime.bus.dead_letters()
    assert letter.why == "no handler is registered for 'nobody'"
    assert (runtime.report.completed, runtime.report.failed) == (1, 1)


async def test_an_event_has_the_time_at_which_it_came_in_else_the_present() -> None:
    agent, trigger, began = Agent("offline"), EventTrigger("job"), time.time()
    times: list[float] = []

    @agent.on(trigger)
    async def job(event: TriggerEvent) -> None:
        times.append(event.timestamp)

    async with serve(agent, event_workers=1) as runtime:
        key = runtime.triggers.key_of(trigger)
        await runtime.bus.publish(key, {"timestamp": 5.0})
        await runtime.bus.publish(key, {})
    assert times[0] == 5.0
    assert began <= times[1] <= time.time()


async def test_a_delivery_that_cannot_be_read_is_a_dead_letter() -> None:
    agent, gate, trigger = Agent("offline"), Gate(), EventTrigger("job")
    gate.go_on.set()
    agent.on(trigger)(gate)
    async with serve(agent, event_workers=1) as runtime:
        key = runtime.triggers.key_of(trigger)
        await runtime.bus.publish(key, {"request": "not one"})
        await runtime.bus.publish(key, {})
        with anyio.fail_after(LIMIT):
            await runtime.bus.drain()
        assert len(await runtime.bus.dead_letters()) == 1
    assert (gate.handled, runtime.report.completed) == (1, 2)


async def test_a_bus_that_cannot_settle_does_not_take_the_worker_along(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")
    handled = 0

    @agent.on(EventTrigger("job", max_concurrency=1))
    async def job(event: TriggerEvent) -> None:
        nonlocal handled
        handled += 1

    async def refuse(self: Any) -> None:
        self.queue.ack(self)
        raise ConnectionError("the broker is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("definable.agent.bus.claims.QueueDelivery.ack", refuse)
        # What cannot be settled holds up a stop until its timeout.
        async with serve(agent, event_workers=1, shutdown_timeout=0.1) as runtime:
            for _ in range(3):
                agent.emit("job")
            while handled < 3:
                await checkpoint()
    assert handled == runtime.report.completed == 3
    assert "could not be settled" in caplog.text


# --- limits


async def test_no_more_than_the_workers_handle_at_once() -> None:
    agent, gate = Agent("offline"), Gate()
    agent.on(EventTrigger("job"))(gate)
    async with serve(agent, event_workers=3) as runtime:
        for _ in range(10):
            agent.emit("job")
        await anyio.wait_all_tasks_blocked()
        assert gate.active == 3
        gate.go_on.set()
    assert (gate.most, gate.handled, runtime.report.completed) == (3, 10, 10)


async def test_a_trigger_at_its_limit_does_not_block_others() -> None:
    agent, limited, free = Agent("offline"), Gate(), Gate()
    free.go_on.set()
    agent.on(EventTrigger("limited", max_concurrency=2))(limited)
    agent.on(EventTrigger("free"))(free)
    async with serve(agent, event_workers=3) as runtime:
        for _ in range(50):
            agent.emit("limited")
        for _ in range(50):
            agent.emit("free")
        await anyio.wait_all_tasks_blocked()
        assert (limited.active, limited.handled, free.handled) == (2, 0, 50)
        limited.go_on.set()
    assert (limited.most, limited.handled, runtime.report.completed) == (2, 50, 100)


async def test_a_trigger_that_handles_one_at_a_time_handles_them_in_order() -> None:
    agent = Agent("offline")
    handled: list[int] = []

    @agent.on(EventTrigger("job", max_concurrency=1))
    async def job(event: TriggerEvent) -> None:
        await checkpoint()
        handled.append(event.body["data"])

    async with serve(agent):
        for begin in range(0, 500, 50):
            for n in range(begin, begin + 50):
                agent.emit("job", n)
            await checkpoint()
    assert handled == list(range(500))


async def test_a_limited_trigger_with_a_full_line_fills_the_buffer_and_says_so() -> None:
    agent, gate = Agent("offline"), Gate()
    agent.on(EventTrigger("limited", max_concurrency=1))(gate)
    accepted = 0
    async with serve(agent, event_workers=3, event_buffer=4) as runtime:
        with pytest.raises(EventBufferFull):
            while accepted < 100:
                agent.emit("limited")
                accepted += 1
                await anyio.wait_all_tasks_blocked()
        gate.go_on.set()
    assert 4 < accepted < 20
    assert (gate.most, gate.handled, runtime.report.completed) == (1, accepted, accepted)


@pytest.mark.parametrize(
    ("overlap", "most", "handled", "skipped"), [("skip", 1, 1, 2), ("queue", 1, 3, 0), ("allow", 3, 3, 0)]
)
async def test_overlapping_firings(
    overlap: Literal["skip", "queue", "allow"], most: int, handled: int, skipped: int
) -> None:
    agent, gate = Agent("offline"), Gate()
    job = Cron("0 0 1 1 *", overlap=overlap)
    agent.on(job)(gate)
    async with serve(agent) as runtime:
        for _ in range(3):
            await agent.fire(job)
            await anyio.wait_all_tasks_blocked()
        gate.go_on.set()
        with anyio.fail_after(LIMIT):
            await runtime.bus.drain()
        assert (gate.most, gate.handled, runtime.workers.skipped) == (most, handled, skipped)
        await agent.fire(job)
    assert gate.handled == handled + 1
    assert runtime.report.sources["cron"] == WorkCount(completed=handled + 1, skipped=skipped)


# --- emitting from within


@pytest.mark.parametrize("buffer", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("limit", [None, 1])
async def test_a_fan_out_and_its_chains_never_deadlock(buffer: int, workers: int, limit: int | None) -> None:
    agent = Agent("offline")
    handled: Counter[str] = Counter()

    @agent.on(EventTrigger("root", max_concurrency=limit))
    async def root(event: TriggerEvent) -> None:
        handled["root"] += 1
        for n in range(20):
            await agent.aemit("link", {"left": n % 4})

    @agent.on(EventTrigger("link", max_concurrency=limit))
    async def link(event: TriggerEvent) -> None:
        handled["link"] += 1
        left = event.body["left"]
        for _ in range(2 if left else 0):
            await agent.aemit("link", {"left": left - 1})

    with anyio.fail_after(LIMIT):
        async with serve(agent, event_buffer=buffer, event_workers=workers) as runtime:
            for _ in range(5):
                await agent.aemit("root")
    links = 5 * 5 * (1 + 3 + 7 + 15)
    assert handled == {"root": 5, "link": links}
    assert runtime.report.completed == links + 5


async def test_tasks_of_one_handler_that_all_emit_never_deadlock() -> None:
    agent = Agent("offline")
    handled = 0

    @agent.on(EventTrigger("root"))
    async def root(event: TriggerEvent) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(agent.aemit, "leaf")

    @agent.on(EventTrigger("leaf"))
    async def leaf(event: TriggerEvent) -> None:
        nonlocal handled
        handled += 1

    with anyio.fail_after(LIMIT):
        async with serve(agent, event_buffer=1, event_workers=1):
            agent.emit("root")
    assert handled == 50


async def test_handlers_that_fire_a_trigger_into_a_full_bus_never_deadlock() -> None:
    agent, fired = Agent("offline"), 0
    job = Cron("0 0 1 1 *", overlap="queue")

    @agent.on(job)
    async def run_job(event: TriggerEvent) -> None:
        nonlocal fired
        fired += 1

    @agent.on(EventTrigger("root"))
    async def root(event: TriggerEvent) -> None:
        for _ in range(3):
            await agent.fire(job)

    with anyio.fail_after(LIMIT):
        async with serve(agent, event_buffer=1, event_workers=1):
            agent.emit("root")
    assert fired == 3


async def test_emitting_into_a_full_bus_raises_in_the_handler_and_nothing_else() -> None:
    agent = Agent("offline")
    refused = handled = 0

    @agent.on(EventTrigger("root"))
    async def root(event: TriggerEvent) -> None:
        nonlocal refused
        for _ in range(5):
            try:
                agent.emit("leaf")
            except EventBufferFull:
                refused += 1

    @agent.on(EventTrigger("leaf"))
    async def leaf(event: TriggerEvent) -> None:
        nonlocal handled
        handled += 1

    async with serve(agent, event_buffer=2, event_workers=1):
        agent.emit("root")
    assert (refused, handled) == (3, 2)


# --- threads and stops


async def test_ten_thousand_emits_from_eight_threads_are_handled_each_once() -> None:
    agent = Agent("offline")
    handled: Counter[int] = Counter()

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        handled[event.body["data"]] += 1

    def emit(begin: int) -> None:
        for n in range(begin, begin + 1250):
            agent.emit("job", n)

    threads = [threading.Thread(target=emit, args=(1250 * index,)) for index in range(8)]
    for thread in threads[:2]:  # some begin before the agent serves
        thread.start()
    with anyio.fail_after(LIMIT):
        async with serve(agent) as runtime:
            for thread in threads[2:]:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                await checkpoint()
    assert handled == Counter(range(10_000))
    assert runtime.report.completed == 10_000


async def test_during_a_drain_accepted_work_may_emit_and_others_may_not() -> None:
    agent = Agent("offline")
    begun, go_on = anyio.Event(), anyio.Event()
    log: list[str] = []

    @agent.on(EventTrigger("first"))
    async def first(event: TriggerEvent) -> None:
        begun.set()
        await go_on.wait()
        agent.emit("second")
        await agent.aemit("second")

    @agent.on(EventTrigger("second"))
    def second(event: TriggerEvent) -> None:
        log.append("second")
        if len(log) < 5:
            agent.emit("second")

    with anyio.fail_after(LIMIT):
        async with serve(agent) as runtime:
            agent.emit("first")
            await begun.wait()
            runtime.stop()
            while not runtime.draining:
                await checkpoint()
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(EventBusClosed, match="the agent is stopping"):
                agent.emit("second")
            with pytest.raises(EventBusClosed, match="the agent is stopping"):
                await agent.aemit("second")
            go_on.set()
    with pytest.raises(EventBusClosed, match="has stopped serving"):
        agent.emit("second")
    assert len(log) >= 5
    assert runtime.report.completed == 1 + len(log)
    assert runtime.report.clean


async def test_an_agent_may_serve_again() -> None:
    agent, gate = Agent("offline"), Gate()
    gate.go_on.set()
    agent.on(EventTrigger("job"))(gate)
    for turn in range(1, 3):
        async with serve(agent) as runtime:
            agent.emit("job")
        assert (gate.handled, runtime.report.completed) == (turn, 1)


async def test_a_run_that_is_cancelled_by_its_id_is_no_dead_letter_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = Agent(OfflineModel(latency=60))
    agent.on(EventTrigger("x"))(lambda event: "go")
    with anyio.fail_after(5):
        async with agent.running(enable_server=False) as runtime:
            agent.emit("x")
            while not runtime.registry.active_count:
                await anyio.sleep(0.001)
            (record,) = runtime.registry.records()
            assert runtime.registry.cancel(record.run_id)
            await runtime.bus.drain()
            assert await runtime.bus.dead_letters() == ()
    assert runtime.report is not None
    count = runtime.report.sources["event"]
    assert (count.completed, count.failed, count.withdrawn) == (0, 0, 1)
    assert "ERROR" not in caplog.text


# --- bodies


class Consumer:
    """A handler that takes the list in its event's body apart, and fails at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.seen: list[list[int]] = []

    async def __call__(self, event: TriggerEvent) -> None:
        items: list[int] = event.body["items"]
        self.seen.append([*items])
        items.clear()
        event.body.pop("items")
        if self.failures:
            self.failures -= 1
            raise ValueError("not yet")


async def test_each_handler_and_each_attempt_gets_a_body_of_its_own() -> None:
    agent, patient, other = Agent("offline"), Consumer(failures=1), Consumer(failures=0)
    agent.on(EventTrigger("order", retries=1))(patient)
    agent.on(EventTrigger("*"))(other)
    with anyio.fail_after(LIMIT):
        async with serve(agent) as runtime:
            agent.emit("order", {"items": [1, 2]})
            await runtime.bus.drain()
    assert (patient.seen, other.seen) == ([[1, 2], [1, 2]], [[1, 2]])


async def test_a_body_that_holds_itself_is_handled() -> None:
    agent, seen = Agent("offline"), list[Any]()
    agent.on(EventTrigger("*"))(lambda event: seen.append(event.body))
    body: dict[str, Any] = {}
    body["self"] = body
    with anyio.fail_after(LIMIT):
        async with serve(agent) as runtime:
            agent.emit("loop", body)
            await runtime.bus.drain()
    assert seen[0]["self"] is body


async def test_each_attempt_at_a_webhook_gets_the_body_that_was_sent() -> None:
    agent, patient = Agent("offline"), Consumer(failures=1)
    agent.on(Webhook("/order", retries=1))(patient)
    with anyio.fail_after(LIMIT):
        async with (
            agent.running(host="127.0.0.1", port=0) as runtime,
            httpx2.AsyncClient(trust_env=False, verify=False) as client,
        ):
            response = await client.post(f"{runtime.url}/order", json={"items": [1, 2]})
    assert response.status_code == 200
    assert patient.seen == [[1, 2], [1, 2]]
