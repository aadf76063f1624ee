"""Events on their way into the bus: from tasks and threads, before serving, while serving, and after it."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from definable.agent import Agent
from definable.agent.bus import EventBufferFull, EventBusClosed, MemoryBus, SQLiteBus
from definable.agent.bus.emitter import Emitter, event_body
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.agent.work import AcceptedWork
from definable.errors import ConfigurationError, EventBusError

pytestmark = pytest.mark.anyio

LIMIT = 10.0
"""Seconds that a test may hang."""

OWNER = object()
"""Whose work it is."""


def on_worker() -> AcceptedWork:
    """What a worker handles."""
    return AcceptedWork(OWNER, occupies_worker=True)


def to_one(name: str, body: Any) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return [(name, {"body": body})]


def to_two(name: str, body: Any) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return [(f"{name}1", {"body": body}), (f"{name}2", {"body": body})]


def to_none(name: str, body: Any) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return []


@asynccontextmanager
async def serving(
    emitter: Emitter, bus: MemoryBus, route: Callable[[str, Any], Any] = to_one, workers: int = 1
) -> AsyncGenerator[None, None]:
    async with bus.open(), emitter.connected(bus, route, workers=workers, owner=OWNER):
        emitter.begin()
        yield


def waiting(bus: MemoryBus) -> list[tuple[str, Any]]:
    return [(delivery.name, delivery.data["body"]) for delivery in bus.take_undone()]


async def from_thread(function: Callable[[], object]) -> None:
    """In a thread that knows nothing of the event loop."""

    def run() -> None:
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()

    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    await to_thread.run_sync(run)
    if errors:
        raise errors[0]


# --- what is accepted


@pytest.mark.parametrize(
    ("data", "body"), [({"a": 1}, {"a": 1}), (None, None), (5, {"data": 5}), ([1], {"data": [1]}), ({}, {})]
)
def test_the_body_is_a_dict_or_none(data: object, body: object) -> None:
    assert event_body("name", data) == body


def test_the_body_does_not_change_with_the_callers_dict() -> None:
    data = {"a": 1}
    body = event_body("name", data)
    data["a"] = 2
    assert body == {"a": 1}


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"emit\("):
        Emitter().emit(name)


async def test_emit_and_aemit_bring_an_event_to_the_bus() -> None:
    emitter, bus = Emitter(), MemoryBus()
    async with serving(emitter, bus):
        emitter.emit("a", {"n": 1})
        await emitter.aemit("b", "text")
        assert waiting(bus) == [("a", {"n": 1}), ("b", {"data": "text"})]


async def test_an_event_goes_to_all_that_it_is_for_or_to_nobody() -> None:
    emitter, bus = Emitter(), MemoryBus(3)
    async with serving(emitter, bus, to_two):
        emitter.emit("a")
        with pytest.raises(EventBufferFull, match="no room for the event 'b'"):
            emitter.emit("b")
        assert [name for name, _ in waiting(bus)] == ["a1", "a2"]


async def test_an_event_for_nobody_needs_no_room() -> None:
    emitter, bus = Emitter(), MemoryBus(1)
    async with serving(emitter, bus, to_none):
        bus.publish_nowait("other", {})
        emitter.emit("a")
        await emitter.aemit("a")
        await from_thread(lambda: emitter.emit("a"))


# --- before serving


async def test_events_from_before_serving_arrive_once_it_serves() -> None:
    emitter, bus = Emitter(), MemoryBus(2)
    for n in range(5):
        emitter.emit("a", n)
    await emitter.aemit("b")
    names: list[str] = []
    async with serving(emitter, bus), bus.consume() as deliveries:
        with anyio.fail_after(LIMIT):
            while len(names) < 6:
                names.append((await anext(deliveries)).name)
            await emitter.flushed()
        assert emitter.is_flushed
    assert names == [*["a"] * 5, "b"]


async def test_events_from_before_serving_are_bounded() -> None:
    emitter = Emitter()
    for _ in range(10_000):
        emitter.emit("a")
    with pytest.raises(EventBufferFull):
        emitter.emit("a")
    with pytest.raises(EventBufferFull):
        await emitter.aemit("a")


def test_an_event_from_before_serving_that_the_bus_cannot_carry_is_refused_at_once(tmp_path: Path) -> None:
    emitter = Emitter(SQLiteBus(tmp_path / "events.db"))
    emitter.emit("a", {"n": 1})
    with pytest.raises(ConfigurationError, match=r"event\(a\).*body\.n is .*, a set"):
        emitter.emit("a", {"n": {1}})


async def test_all_who_wait_for_the_flush_are_told() -> None:
    emitter, bus, told = Emitter(), MemoryBus(1), list[bool]()

    async def wait_for_it() -> None:
        await emitter.flushed()
        told.append(emitter.is_flushed)

    for name in ("a", "b"):
        emitter.emit(name)
    async with serving(emitter, bus), bus.consume() as deliveries:
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(wait_for_it)
                await anyio.wait_all_tasks_blocked()
                assert told == []
                await anext(deliveries)
    assert told == [True, True]


# --- threads


async def test_events_from_eight_threads_arrive_each_once() -> None:
    emitter, bus = Emitter(), MemoryBus()
    seen: list[int] = []

    def emit(begin: int) -> None:
        for n in range(begin, begin + 1250):
            emitter.emit("a", n)

    async with serving(emitter, bus), bus.consume() as deliveries:
        threads = [threading.Thread(target=emit, args=(1250 * index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        with anyio.fail_after(LIMIT):
            while len(seen) < 10_000:
                seen.append((await anext(deliveries)).data["body"]["data"])
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(10_000))


async def test_a_thread_that_finds_no_room_is_told() -> None:
    emitter, bus = Emitter(), MemoryBus(2)
    async with serving(emitter, bus):
        bus.publish_nowait("other", {})
        bus.publish_nowait("other", {})
        with pytest.raises(EventBufferFull):
            await from_thread(lambda: emitter.emit("a"))


async def test_a_thread_whose_event_the_bus_cannot_carry_is_told(path: Path) -> None:
    emitter, bus = Emitter(), SQLiteBus(path)
    async with bus.open(), emitter.connected(bus, to_two, workers=1):
        with pytest.raises(ConfigurationError, match=r"body\.n is .*, a set"):
            await from_thread(lambda: emitter.emit("a", {"n": {1}}))
        assert emitter.is_flushed


async def test_aemit_in_another_event_loop_is_refused() -> None:
    emitter, bus = Emitter(), MemoryBus()
    async with serving(emitter, bus):
        with pytest.raises(EventBusError, match="call emit"):
            await from_thread(lambda: anyio.run(emitter.aemit, "a"))


# --- a full bus


async def test_a_full_bus_says_so_and_takes_nothing() -> None:
    emitter, bus = Emitter(), MemoryBus(1)
    async with serving(emitter, bus):
        emitter.emit("a")
        with pytest.raises(EventBufferFull):
            emitter.emit("b")
        assert [name for name, _ in waiting(bus)] == ["a"]


async def test_aemit_waits_for_room() -> None:
    emitter, bus = Emitter(), MemoryBus(1)
    names: list[str] = []
    async with serving(emitter, bus), bus.consume() as deliveries, anyio.create_task_group() as group:
        emitter.emit("a")
        group.start_soon(emitter.aemit, "b")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(LIMIT):
            names = [(await anext(deliveries)).name for _ in range(2)]
    assert names == ["a", "b"]


async def test_a_worker_waits_where_room_comes_free_without_workers() -> None:
    class Durable(MemoryBus):
        @property
        def durable(self) -> bool:
            return True

    emitter, bus = Emitter(), Durable(1)
    done: list[str] = []

    async def worker() -> None:
        with on_worker():
            await emitter.aemit("second")
        done.append("second")

    async with serving(emitter, bus), bus.consume() as deliveries, anyio.create_task_group() as group:
        emitter.emit("first")
        group.start_soon(worker)
        await anyio.wait_all_tasks_blocked()
        assert (done, emitter.is_flushed) == ([], True)
        with anyio.fail_after(LIMIT):
            assert [(await anext(deliveries)).name for _ in range(2)] == ["first", "second"]
    assert done == ["second"]


async def test_a_worker_awaits_a_bus_that_is_never_full() -> None:
    class Endless(MemoryBus):
        awaited = 0

        @property
        def capacity(self) -> float:
            return math.inf

        async def publish(self, name: str, data: Any, **options: Any) -> bool:
            self.awaited += 1
            return await super().publish(name, data, **options)

    emitter, bus = Emitter(), Endless()
    async with serving(emitter, bus):
        with on_worker():
            await emitter.aemit("a")
        assert (bus.awaited, waiting(bus)) == (1, [("a", None)])


async def test_the_last_worker_never_waits_for_room() -> None:
    emitter, bus = Emitter(), MemoryBus(1)
    done: list[str] = []
    names: list[str] = []

    async def worker(name: str) -> None:
        with on_worker():
            await emitter.aemit(name)
            await emitter.aemit(name)
        done.append(name)

    async with serving(emitter, bus, workers=2), anyio.create_task_group() as group:
        emitter.emit("full")
        group.start_soon(worker, "first")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(worker, "second")
        await anyio.wait_all_tasks_blocked()
        assert done == ["second"]
        assert not emitter.is_flushed
        async with bus.consume() as deliveries:
            with anyio.fail_after(LIMIT):
                while len(names) < 5:
                    names.append((await anext(deliveries)).name)
    assert sorted(names) == ["first", "first", "full", "second", "second"]


async def test_only_workers_that_wait_now_count_for_who_is_the_last() -> None:
    emitter, bus = Emitter(), MemoryBus()
    async with serving(emitter, bus, workers=2):
        for _ in range(3):
            with emitter.blocked_worker() as is_last:
                assert not is_last
                with emitter.blocked_worker() as is_last:
                    assert is_last


async def test_a_worker_that_loses_its_room_to_another_does_not_wait_for_ever() -> None:
    emitter, bus = Emitter(), MemoryBus(1)

    async def worker() -> None:
        with on_worker():
            await emitter.aemit("from the worker")

    async def rival() -> None:
        with suppress(EventBufferFull):
            bus.publish_nowait("rival", {"body": None})

    async with serving(emitter, bus, workers=1):
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                group.start_soon(worker)
                group.start_soon(rival)


# --- while it stops, and after


async def test_once_it_stops_events_are_accepted_from_accepted_work_alone() -> None:
    emitter, bus = Emitter(), MemoryBus()
    async with serving(emitter, bus):
        emitter.refuse("the agent is stopping")
        with pytest.raises(EventBusClosed, match="the agent is stopping: the event was not accepted"):
            emitter.emit("a")
        with pytest.raises(EventBusClosed):
            await emitter.aemit("a")
        with pytest.raises(EventBusClosed):
            await from_thread(lambda: emitter.emit("a"))
        with AcceptedWork(object()), pytest.raises(EventBusClosed):
            emitter.emit("of another owner")
        with AcceptedWork(OWNER), AcceptedWork(object()):
            emitter.emit("b")
            await emitter.aemit("c")
            await to_thread.run_sync(emitter.emit, "d")
        with anyio.fail_after(LIMIT):
            await emitter.flushed()
        assert [name for name, _ in waiting(bus)] == ["b", "c", "d"]


async def test_after_serving_events_are_refused_until_it_serves_again() -> None:
    emitter = Emitter()
    async with serving(emitter, MemoryBus()):
        emitter.refuse("the agent is stopping")
    with pytest.raises(EventBusClosed, match="has stopped serving"):
        emitter.emit("a")
    with pytest.raises(EventBusClosed, match="has stopped serving"):
        await emitter.aemit("a")
    again = MemoryBus()
    async with serving(emitter, again):
        emitter.emit("a")
        assert waiting(again) == [("a", None)]


async def test_undone_is_what_never_came_to_the_bus_each_once_and_nothing_is_accepted_after_it() -> None:
    emitter, bus = Emitter(), MemoryBus(1)
    for n in range(5):
        emitter.emit("a", n)
    async with serving(emitter, bus):
        await anyio.wait_all_tasks_blocked()
        left = [payload["body"]["data"] for _, payload in emitter.take_undone()]
        on_the_bus = [body["data"] for _, body in waiting(bus)]
        assert sorted(left + on_the_bus) == list(range(5))
        with pytest.raises(EventBusClosed):
            emitter.emit("b")
        assert emitter.take_undone() == []


async def test_what_is_undone_is_exact_when_the_forwarder_was_cancelled() -> None:
    emitter, bus = Emitter(), MemoryBus(1)
    for n in range(5):
        emitter.emit("a", n)
    left: list[int] = []
    async with bus.open():
        with anyio.CancelScope() as scope:
            async with emitter.connected(bus, to_one, workers=1):
                emitter.begin()
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await checkpoint()
        left += [payload["body"]["data"] for _, payload in emitter.take_undone()]
        left += [body["data"] for _, body in waiting(bus)]
    assert sorted(left) == list(range(5))


async def test_what_the_bus_does_not_take_is_logged_and_accounted_for(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryBus):
        async def publish(self, name: str, data: Any, **options: Any) -> bool:
            if name == "bad":
                raise TypeError("not serialisable")
            return await super().publish(name, data, **options)

    emitter, bus = Emitter(), Broken()
    emitter.emit("bad")
    emitter.emit("good")
    async with serving(emitter, bus):
        with anyio.fail_after(LIMIT):
            await emitter.flushed()
        assert waiting(bus) == [("good", None)]
        assert [name for name, _ in emitter.take_undone()] == ["bad"]
    assert "an event for bad is lost" in caplog.text


async def test_aemit_before_serving_promises_nothing_that_a_durable_bus_cannot_keep(tmp_path: Path) -> None:
    agent = Agent("offline", bus=SQLiteBus(tmp_path / "events.db"))
    seen: list[str] = []

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        seen.append(event.body["data"])

    with pytest.raises(EventBusClosed, match=r"aemit\('job'\) before serving.*`emit` buffers it"):
        await agent.aemit("job", "refused")
    agent.emit("job", "kept")
    async with agent.running(enable_server=False):
        pass
    assert seen == ["kept"]


async def test_aemit_for_several_triggers_is_accepted_for_all_or_none() -> None:
    agent, seen, release = Agent("offline", bus=MemoryBus(2)), list[str](), anyio.Event()

    @agent.on(EventTrigger("block"))
    async def block(event: TriggerEvent) -> None:
        await release.wait()

    agent.on(EventTrigger("paid"))(lambda event: seen.append("one"))
    agent.on(EventTrigger("paid"))(lambda event: seen.append("two"))
    async with agent.running(enable_server=False, event_workers=1):
        await agent.aemit("block")
        await anyio.wait_all_tasks_blocked()
        await agent.aemit("block")  # one place is left
        with anyio.move_on_after(0.05) as waited:
            await agent.aemit("paid")
        assert waited.cancelled_caught
        release.set()
    assert seen == []
