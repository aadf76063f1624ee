"""A piece of work of its own: cancelled with its caller, leaving nothing behind."""

import asyncio
import sys
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest
import sniffio

from definable.concurrency import containment_asyncio, containment_trio
from definable.concurrency.call import closing_what_it_leaves, contained
from definable.errors import ScopeLeftOpen

pytestmark = pytest.mark.anyio

LIMIT = 5.0


async def nothing() -> str:
    return "done"


async def test_work_returns_and_raises_as_if_it_were_called() -> None:
    async def fail() -> None:
        raise KeyError("x")

    async def leave() -> None:
        sys.exit(3)

    assert await contained("work", nothing) == "done"
    with pytest.raises(KeyError):
        await contained("work", fail)
    with pytest.raises(SystemExit):
        await contained("work", leave)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_work_that_cancels_its_own_task_as_its_last_act_cancels_nothing() -> None:
    async def work() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    assert await contained("work", work) == "done"
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_caller_that_is_cancelled_by_its_task_is_cancelled_though_its_work_cancels_itself_too() -> None:
    async def call() -> None:
        async def work() -> None:
            await anyio.lowlevel.checkpoint()
            caller.cancel()
            own = asyncio.current_task()
            assert own is not None
            own.cancel()

        await contained("work", work)

    caller = asyncio.create_task(call())
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_cancelled_caller_cancels_its_work_and_is_cancelled_itself() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("work")

    with anyio.move_on_after(0) as scope:
        try:
            await contained("work", work)
        except anyio.get_cancelled_exc_class():
            ended.append("caller")
            raise
    assert scope.cancelled_caught
    assert ended == ["work", "caller"]


async def test_a_caller_whose_work_swallows_the_cancellation_is_cancelled_at_its_next_wait() -> None:
    async def swallow() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass

    with anyio.fail_after(LIMIT), anyio.move_on_after(0) as scope:
        await contained("work", swallow)
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_shielded_work_is_left_alone_until_its_shield_ends() -> None:
    steps: list[str] = []

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            await anyio.lowlevel.checkpoint()
            steps.append("shielded")
        await anyio.lowlevel.checkpoint()
        steps.append("not reached")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await contained("work", work)
    assert steps == ["shielded"]


async def test_work_knows_its_callers_deadline_and_context_and_keeps_its_own() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: list[object] = []

    async def work() -> None:
        seen.append((variable.get(), anyio.current_effective_deadline() < float("inf")))

    variable.set("callers")
    with anyio.fail_after(LIMIT):
        await contained("work", work)
    assert seen == [("callers", True)]


async def test_what_is_left_open_is_closed_and_named() -> None:
    ended = anyio.Event()

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def leave_group() -> None:
        group = anyio.create_task_group()
        await group.__aenter__()
        group.start_soon(run)
        anyio.CancelScope().__enter__()
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(LIMIT):
        with pytest.raises(ScopeLeftOpen, match=r"leave_group left a task group with a task open.*lifespan"):
            await closing_what_it_leaves(leave_group, leave_group)
        assert ended.is_set()
        with anyio.move_on_after(0) as scope:  # the caller's own scopes work as before
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_failure_beside_what_is_left_open_is_its_cause() -> None:
    async def work() -> None:
        anyio.CancelScope().__enter__()
        raise KeyError("x")

    with pytest.raises(ScopeLeftOpen) as raised:
        await contained("work", work)
    assert isinstance(raised.value.__cause__, KeyError)


async def test_a_cancellation_goes_on_beside_what_is_left_open() -> None:
    async def work() -> None:
        anyio.CancelScope().__enter__()
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as scope:
        await contained("work", work)
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_of_the_callers_task_reaches_the_work() -> None:
    """As hypercorn and uvicorn cancel a request."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    task = asyncio.create_task(contained("work", work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_work_in_a_loop_of_eager_tasks() -> None:
    if sys.version_info < (3, 12):
        pytest.skip("Python 3.11 has no eager tasks")
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    try:
        assert await contained("work", nothing) == "done"
        with anyio.move_on_after(0) as scope:
            await contained("work", anyio.sleep_forever)
        assert scope.cancelled_caught
    finally:
        asyncio.get_running_loop().set_task_factory(None)


async def test_the_parts_that_are_leaned_on_are_those_of_this_anyio_and_trio() -> None:
    assert containment_asyncio.IS_KNOWN
    if sniffio.current_async_library() == "trio":
        assert containment_trio.innermost() is not None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_with_another_anyio_work_has_a_task_of_its_own_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment_asyncio, "IS_KNOWN", False)
    tasks: list[object] = []

    async def work(failure: BaseException | None) -> str:
        tasks.append(asyncio.current_task())
        if failure is not None:
            raise failure
        return "done"

    assert await contained("work", work, None) == "done"
    with pytest.raises(KeyError, match="x"):
        await contained("work", work, KeyError("x"))
    assert asyncio.current_task() not in tasks
    with anyio.move_on_after(0) as scope:
        await contained("work", anyio.sleep_forever)
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_work_that_cancels_its_callers_scope_and_goes_on_is_cancelled_at_its_next_wait() -> None:
    reached: list[str] = []

    async def work(scope: anyio.CancelScope) -> None:
        scope.cancel()
        reached.append("before the wait")
        await anyio.lowlevel.checkpoint()
        reached.append("after the wait")

    with anyio.CancelScope() as scope:
        await contained("work", work, scope)
        reached.append("after the work")
    assert scope.cancelled_caught
    assert reached == ["before the wait"]


def test_a_run_of_trio_ends_although_a_task_that_was_left_behind_ends_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio cancels it through its shield."""
    monkeypatch.setattr("definable.concurrency.call.CLOSE_TIMEOUT", 0)
    ended: list[str] = []

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
        ended.append("stubborn")

    async def leave() -> None:
        group = anyio.create_task_group()
        await group.__aenter__()
        group.start_soon(stubborn)
        await anyio.lowlevel.checkpoint()

    async def main() -> None:
        with pytest.raises(ScopeLeftOpen):
            await contained("work", leave)
        ended.append("main")

    anyio.run(main, backend="trio")
    assert ended == ["main", "stubborn"]
