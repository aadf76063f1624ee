"""A served agent whose bus is durable: what it was given before a restart is handled after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from loopback.agent_api import EventReader
from loopback.redis import RedisServer

from definable.agent import Agent, RunOutput
from definable.agent.bus import EventBus, EventBusClosed, RedisBus, SQLiteBus
from definable.agent.trigger import Cron, EventTrigger, Reply, TriggerEvent, Webhook
from definable.errors import ConfigurationError
from definable.testing import VIRTUAL_BACKENDS, served, virtual_time

LIMIT = 15.0
"""Seconds that a test may hang."""


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, path: Path) -> str:
    """Where the events are kept: a file's path, or Redis's URL."""
    return str(path) if request.param == "sqlite" else request.getfixturevalue("redis").url


def bus_at(place: str, **options: Any) -> EventBus:
    return RedisBus(place, **options) if place.startswith("redis://") else SQLiteBus(place, **options)


class Recorder:
    """An agent on a durable bus, which notes down the events that it handled."""

    def __init__(self, place: str, **options: Any) -> None:
        self.agent = Agent("offline", bus=bus_at(place))
        self.seen: list[tuple[Any, int]] = []
        self.agent.on(EventTrigger("job", **options))(self.on_event)

    async def on_event(self, event: TriggerEvent) -> None:
        """Whatever `handle` does."""
        await self.handle(event)

    async def handle(self, event: TriggerEvent) -> None:
        self.seen.append((event.body["n"], event.attempt))

    def running(self, **options: Any) -> Any:
        return self.agent.running(enable_server=False, **options)


class Holding(Recorder):
    """Begins what it is given, and never ends it."""

    async def handle(self, event: TriggerEvent) -> None:
        await super().handle(event)
        await anyio.sleep_forever()


async def eventually(condition: Any) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.005)


@pytest.mark.anyio
async def test_events_from_before_serving_are_handled(place: str) -> None:
    recorder = Recorder(place)
    for n in range(5):
        recorder.agent.emit("job", {"n": n})
    async with recorder.running() as runtime:
        pass
    assert recorder.seen == [(n, 1) for n in range(5)]
    assert runtime.report.completed == 5
    assert runtime.report.clean


@pytest.mark.anyio
async def test_a_stop_finishes_what_waits_when_there_is_time_and_the_report_counts_it(place: str) -> None:
    recorder = Recorder(place)
    async with recorder.running(event_workers=2) as runtime:
        for n in range(300):
            recorder.agent.emit("job", {"n": n})
    assert recorder.seen == [(n, 1) for n in range(300)]
    assert (runtime.report.completed, runtime.report.never_started) == (300, 0)


@pytest.mark.anyio
async def test_what_a_stop_left_in_the_file_is_handled_by_the_next_and_counted_as_neither_lost_nor_left(
    place: str,
) -> None:
    first, second = Holding(place), Recorder(place)
    async with first.running(event_workers=2, shutdown_timeout=0.2) as runtime:
        for n in range(10):
            await first.agent.aemit("job", {"n": n})
        await eventually(lambda: len(first.seen) == 2)
    assert (runtime.report.cancelled, runtime.report.never_started) == (2, 0)
    async with second.running():
        await eventually(lambda: len(second.seen) == 10)
    assert second.seen == [(0, 2), (1, 2), *[(n, 1) for n in range(2, 10)]]


async def note(seen: list[Any], hold: bool, event: TriggerEvent) -> None:
    seen.append(event.body["n"])
    if hold:
        await anyio.sleep_forever()


class Noting:
    """A handler that is an object."""

    def __init__(self, seen: list[Any], hold: bool) -> None:
        self.arguments = seen, hold

    async def __call__(self, event: TriggerEvent) -> None:
        await note(*self.arguments, event)


@pytest.mark.anyio
@pytest.mark.parametrize("make", [partial(partial, note), Noting], ids=["partial", "object"])
async def test_a_handler_without_a_name_of_its_own_is_known_again_after_a_restart(place: str, make: Any) -> None:
    lives: list[list[Any]] = [[], []]
    handlers = [make(seen, seen is lives[0]) for seen in lives]
    for seen, handler in zip(lives, handlers, strict=True):
        agent = Agent("offline", bus=bus_at(place))
        agent.on(EventTrigger("job"))(handler)
        async with agent.running(enable_server=False, shutdown_timeout=0.2):
            if seen is lives[0]:
                await agent.aemit("job", {"n": 1})
            await eventually(lambda seen=seen: seen)
    assert lives == [[1], [1]]


@pytest.mark.anyio
async def test_what_stands_behind_a_triggers_own_limit_is_kept_too(place: str) -> None:
    first, second = Holding(place, max_concurrency=1), Recorder(place)
    async with first.running(shutdown_timeout=0.2) as runtime:
        for n in range(10):
            await first.agent.aemit("job", {"n": n})
        await eventually(lambda: first.seen)
    assert (runtime.report.cancelled, runtime.report.never_started) == (1, 0)
    async with second.running():
        await eventually(lambda: len(second.seen) == 10)
    assert [n for n, _ in second.seen] == list(range(10))


@pytest.mark.anyio
async def test_a_retry_outlives_a_restart(place: str) -> None:
    class Failing(Recorder):
        async def handle(self, event: TriggerEvent) -> None:
            await super().handle(event)
            raise ZeroDivisionError

    first, second = Failing(place, retries=3), Recorder(place)
    async with first.running() as runtime:
        await first.agent.aemit("job", {"n": 1})
        await eventually(lambda: first.seen)
    assert runtime.report.clean
    async with second.running():
        await eventually(lambda: second.seen)
    assert second.seen == [(1, 2)]


@pytest.mark.anyio
async def test_what_fails_for_good_is_a_dead_letter_over_the_restart_and_may_be_replayed(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    class Failing(Recorder):
        async def handle(self, event: TriggerEvent) -> None:
            raise ZeroDivisionError("no luck")

    async with Failing(place).running() as runtime:
        await runtime.agent.aemit("job", {"n": 1})
    recorder = Recorder(place)
    async with recorder.running() as runtime:
        [letter] = await runtime.bus.dead_letters()
        assert letter.why == "ZeroDivisionError: no luck"
        assert await runtime.bus.replay(letter.id)
        await eventually(lambda: recorder.seen)
    assert recorder.seen == [(1, 1)]


@pytest.mark.anyio
async def test_a_handler_may_emit_with_one_worker_and_a_small_buffer(place: str) -> None:
    agent = Agent("offline", bus=bus_at(place, buffer=1))
    seen: list[int] = []

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        n = event.body["n"]
        seen.append(n)
        if n < 20:
            await agent.aemit("job", {"n": 2 * n})
            await agent.aemit("job", {"n": 2 * n + 1})

    with anyio.fail_after(LIMIT):
        async with agent.running(enable_server=False, event_workers=1):
            await agent.aemit("job", {"n": 1})
    assert sorted(seen) == list(range(1, 40))


@pytest.mark.anyio
async def test_data_that_is_not_json_is_refused_on_the_line_that_emits_it(place: str) -> None:
    recorder = Recorder(place)
    async with recorder.running() as runtime:
        with pytest.raises(ConfigurationError, match=r"event\(job\).*body\.n is .*, a set"):
            recorder.agent.emit("job", {"n": {1}})
        with pytest.raises(ConfigurationError, match="a set"):
            await recorder.agent.aemit("job", {"n": {1}})
        with pytest.raises(ConfigurationError, match="a set"):
            await anyio.to_thread.run_sync(recorder.agent.emit, "job", {"n": {1}})
    assert runtime.report.clean
    with pytest.raises(EventBusClosed):
        recorder.agent.emit("job", {"n": 1})


@pytest.mark.anyio
async def test_a_repeated_delivery_of_an_accepted_webhook_is_a_duplicate_after_the_restart_too(place: str) -> None:
    def agent() -> Agent:
        agent = Agent("offline", bus=bus_at(place))
        for respond in ("accept", "wait"):
            agent.on(Webhook(f"/{respond}", respond=respond, dedupe="X-Delivery"))(lambda event: "hi")
        return agent

    for expected in (202, 200):
        async with served(agent()) as service:
            response = await service.client.post("/accept", headers={"X-Delivery": "1"})
            assert response.status_code == expected
    assert response.json() == {"status": "duplicate"}
    for expected in ("hi", None):
        async with served(agent()) as service:
            response = await service.client.post("/wait", headers={"X-Delivery": "2"})
            assert response.json().get("content") == expected


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 400])
async def test_a_repeat_is_told_on_every_replica_that_its_delivery_is_in_flight(place: str, status: int) -> None:
    """SQLite has but one process: there the repeat comes to the same one."""
    begun, go_on = anyio.Event(), anyio.Event()
    headers = {"X-Delivery": "x" * 5_000}

    async def handle(event: TriggerEvent) -> Reply:
        begun.set()
        await go_on.wait()
        return Reply(status=status)

    def agent() -> Agent:
        agent = Agent("offline", bus=bus_at(place))
        agent.on(Webhook("/hook", dedupe="X-Delivery"))(handle)
        return agent

    async with served(agent()) as first, AsyncExitStack() as stack:
        is_shared = place.startswith("redis://")
        other = await stack.enter_async_context(served(agent())) if is_shared else first
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(partial(first.client.post, "/hook", headers=headers))
        with anyio.fail_after(LIMIT):
            await begun.wait()
            for service in (first, other):
                assert (await service.client.post("/hook", headers=headers)).status_code == 409
            go_on.set()
            while (response := await other.client.post("/hook", headers=headers)).status_code == 409:
                await anyio.sleep(0.005)
        assert (response.status_code, response.content) == (
            (200, b'{"status":"duplicate"}') if status == 200 else (400, b"")
        )


@pytest.mark.anyio
async def test_what_was_promised_over_http_is_done_after_the_restart_under_the_promised_ids(place: str) -> None:
    hold = True
    outputs: dict[str, RunOutput] = {}

    def agent() -> Agent:
        agent = Agent("offline", bus=bus_at(place))

        @agent.on(Webhook("/hook/{repo}", respond="accept"))
        async def hook(event: TriggerEvent) -> str:
            if hold:
                await anyio.sleep_forever()
            assert event.raw is not None
            return f"{event.raw.path_params['repo']} {event.body['n']} {event.headers['X-Kind']}"

        @agent.before_request
        async def wait(context: Any) -> None:
            if hold:
                await anyio.sleep_forever()

        @agent.after_response
        def keep(output: RunOutput) -> None:
            outputs[output.run_id] = output

        return agent

    async with served(agent(), event_workers=2, shutdown_timeout=0.1) as service:
        promised: dict[str, str] = {}
        for n in range(4):
            body = {"input": f"run {n}", "metadata": {"n": n}}
            run = await service.client.post("/run", json=body, headers={"Prefer": "respond-async"})
            hook = await service.client.post("/hook/x", json={"n": n}, headers={"X-Kind": "push"})
            assert (run.status_code, hook.status_code) == (202, 202)
            promised[run.json()["run_id"]] = f"run {n}"
            promised[hook.json()["run_id"]] = f"x {n} push"
    assert outputs == {}
    hold = False
    async with served(agent()) as service:
        await eventually(lambda: len(outputs) == 8)
        for run_id, content in promised.items():
            document: dict[str, Any] = {}
            with anyio.fail_after(10):  # the hook is called a moment before the run is over
                while document.get("status") in (None, "running"):
                    document = (await service.client.get(f"/runs/{run_id}")).json()
            assert document["content"] == content


@pytest.mark.anyio
async def test_a_stop_does_not_wait_for_a_run_that_another_replica_has_made(redis: RedisServer) -> None:
    hold, release = anyio.Event(), anyio.Event()

    def replica() -> Agent:
        agent = Agent("offline", bus=RedisBus(redis.url))

        @agent.on(EventTrigger("block"))
        async def block(event: TriggerEvent) -> None:
            hold.set()
            await release.wait()

        return agent

    with anyio.fail_after(LIMIT):
        async with served(replica(), event_workers=1, shutdown_timeout=2 * LIMIT) as busy:
            await busy.runtime.agent.aemit("block")
            await hold.wait()
            async with served(replica()) as idle:
                response = await busy.client.post("/run", json={"input": "hi"}, headers={"Prefer": "respond-async"})
                run_id = response.json()["run_id"]
                await eventually(lambda: idle.runtime.registry.find(run_id) is not None)
            async with busy.client.stream("GET", f"/runs/{run_id}/events") as follower:
                busy.runtime.stop()
                release.set()
                assert [event async for event in EventReader(follower)] == []
    assert busy.runtime.report is not None and busy.runtime.report.clean


@pytest.fixture(params=VIRTUAL_BACKENDS)
def virtual_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_a_firing_of_before_the_restart_is_not_fired_again(virtual_backend: str, path: Path) -> None:
    fired: list[float] = []

    async def serve_until(seconds: float) -> None:
        agent = Agent("offline", bus=SQLiteBus(path))

        @agent.on(Cron("* * * * *"))
        async def every_minute(event: TriggerEvent) -> None:
            fired.append(event.timestamp)

        async with agent.running(enable_server=False):
            await anyio.sleep(seconds)

    for start, seconds in (("2026-01-01T00:00:30+00:00", 100.0), ("2026-01-01T00:01:30+00:00", 100.0)):
        with virtual_time(virtual_backend, start=start) as (name, options):
            anyio.run(serve_until, seconds, backend=name, backend_options=options)
    assert [moment - fired[0] for moment in fired] == [0.0, 60.0, 120.0]
