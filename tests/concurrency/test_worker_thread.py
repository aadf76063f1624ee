"""Worker threads: what runs in them, what is left of them, and how they end."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import pytest

from definable.concurrency.worker_thread import WorkerThreads, function_name, run_sync, worker_threads

pytestmark = pytest.mark.anyio

flavour: ContextVar[str] = ContextVar("flavour", default="none")


class Stuck:
    """A blocking function that a test can watch start, and let end."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> None:
        self.started.set()
        assert self.release.wait(10)

    async def wait_started(self) -> None:
        await anyio.to_thread.run_sync(self.started.wait, 10)


async def abandon(call: Callable[[], Any], stuck: Stuck) -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(call)
        await stuck.wait_started()
        tg.cancel_scope.cancel()


async def test_runs_outside_the_event_loops_thread_with_its_arguments() -> None:
    def join(*parts: str, by: str) -> tuple[str, int]:
        return by.join(parts), threading.get_ident()

    text, thread = await run_sync(join, "a", "b", by="-")
    assert text == "a-b"
    assert thread != threading.get_ident()


async def test_context_variables_are_visible() -> None:
    flavour.set("plum")
    assert await run_sync(flavour.get) == "plum"


async def test_an_exception_comes_back() -> None:
    def fail() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await run_sync(fail)
    assert worker_threads().running() == []


async def test_stop_iteration_becomes_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
        await run_sync(next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_a_foreign_event_loops_cancellation_is_not_the_callers() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="raised CancelledError"):
        await run_sync(lambda: asyncio.run(cancelled()))


async def test_from_thread_reaches_the_event_loop() -> None:
    async def answer() -> int:
        await anyio.lowlevel.checkpoint()
        return 42

    assert await run_sync(anyio.from_thread.run, answer) == 42


async def test_a_cancelled_caller_does_not_wait_and_the_thread_is_accounted_for() -> None:
    stuck = Stuck()
    await abandon(lambda: run_sync(stuck), stuck)

    threads = worker_threads()
    (running,) = threads.running()
    assert running.function == f"{__name__}.Stuck"
    assert running.abandoned
    assert running.thread.is_alive()
    assert [r.function for r in await threads.wait_idle(0.01)] == [running.function]

    stuck.release.set()
    assert await threads.wait_idle(10) == []


async def test_a_waited_for_thread_is_not_abandoned() -> None:
    stuck = Stuck()
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_sync, stuck)
        await stuck.wait_started()
        assert [r.abandoned for r in worker_threads().running()] == [False]
        stuck.release.set()
    assert worker_threads().running() == []


async def test_running_can_be_asked_from_another_thread() -> None:
    stuck = Stuck()
    threads = worker_threads()
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_sync, stuck)
        await stuck.wait_started()
        assert len(await anyio.to_thread.run_sync(threads.running)) == 1
        stuck.release.set()


async def test_wait_idle_returns_at_once_when_nothing_runs() -> None:
    assert await worker_threads().wait_idle() == []


async def test_an_abandoned_thread_keeps_its_slot_until_it_ends() -> None:
    threads = WorkerThreads(limit=1)
    stuck = Stuck()
    await abandon(lambda: threads.run(stuck), stuck)

    with anyio.move_on_after(0.02) as scope:
        await threads.run(lambda: None)
    assert scope.cancelled_caught

    stuck.release.set()
    with anyio.fail_after(10):
        assert await threads.run(lambda: "free again") == "free again"


async def test_a_call_cancelled_while_it_waits_for_a_slot_never_starts() -> None:
    threads = WorkerThreads(limit=1)
    stuck = Stuck()
    ran: list[str] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(threads.run, stuck)
        await stuck.wait_started()
        with anyio.move_on_after(0.01):
            await threads.run(lambda: ran.append("second"))
        stuck.release.set()
    assert await threads.wait_idle(10) == []
    assert ran == []


async def test_a_call_in_a_cancelled_scope_never_starts() -> None:
    ran: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_sync(ran.append, "started")
    assert await worker_threads().wait_idle(10) == []
    assert ran == []


async def test_slots_survive_many_cancellations_at_random_moments() -> None:
    threads = WorkerThreads(limit=4)

    async def call(delay: float) -> None:
        with anyio.move_on_after(delay):
            await threads.run(lambda: threading.Event().wait(0.001))

    async with anyio.create_task_group() as tg:
        for i in range(300):
            tg.start_soon(call, i * 0.0001)
    with anyio.fail_after(10):
        assert await threads.wait_idle() == []
        results: list[int] = []
        async with anyio.create_task_group() as tg:
            for _ in range(4):
                tg.start_soon(threads.run, lambda: results.append(1))
    assert len(results) == 4


def test_a_thread_may_end_after_its_event_loop(anyio_backend: str) -> None:
    stuck = Stuck()
    left: list[threading.Thread] = []

    async def main() -> None:
        await abandon(lambda: run_sync(stuck), stuck)
        left.extend(r.thread for r in worker_threads().running())

    anyio.run(main, backend=anyio_backend)
    stuck.release.set()
    if anyio_backend == "asyncio":  # trio keeps its threads for the next call
        left[0].join(10)
        assert not left[0].is_alive()


def test_each_event_loop_has_its_own(anyio_backend: str) -> None:
    async def mine() -> WorkerThreads:
        assert worker_threads() is worker_threads()
        return worker_threads()

    first = anyio.run(mine, backend=anyio_backend)
    assert anyio.run(mine, backend=anyio_backend) is not first


def test_function_names_see_through_partials_and_objects() -> None:
    assert function_name(partial(partial(threading.active_count))) == "threading.active_count"
    assert function_name(Stuck()) == f"{__name__}.Stuck"
    assert function_name(len) == "builtins.len"
    assert function_name("".join) == "builtins.str.join"
