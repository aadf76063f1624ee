"""What is remembered of runs: their events and their failures, bounded."""

from __future__ import annotations

import gc
import weakref

import anyio
import pytest

from definable.agent import Agent, RunContext, TextDelta
from definable.agent.run.context import RunRequest
from definable.agent.runtime import run_log
from definable.agent.runtime.run_log import RunLog
from definable.agent.runtime.runs import RunRegistry, without_traceback
from definable.errors import ModelRateLimitError
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio


async def test_a_follower_waits_for_the_next_event_and_for_the_end() -> None:
    log, seen = RunLog(), list[object]()

    async def follow() -> None:
        last_id = 0
        while (logged := await log.after(last_id)) is not None:
            last_id = logged[0]
            seen.append(logged)
        seen.append("end")

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(follow)
        for text in ("a", "b"):
            await anyio.wait_all_tasks_blocked()
            await log.tell(TextDelta(text))
        await anyio.wait_all_tasks_blocked()
        assert seen == [(1, TextDelta("a"))] * 2 + [(2, TextDelta("b"))] * 2
        log.end()
    assert seen[4:] == ["end", "end"]


async def test_events_that_are_only_counted_leave_their_numbers() -> None:
    log, told = RunLog(), list[object]()

    async def listen(event: object) -> None:
        told.append(event)

    tell = log.counted(listen)
    for text in ("a", "b"):
        await tell(TextDelta(text))
    await log.tell(TextDelta("c"))
    log.end()
    assert told == [TextDelta("a"), TextDelta("b")]
    assert await log.after(0) == (3, TextDelta("c"))
    assert await log.after(3) is None


async def test_the_last_of_the_events_that_were_counted_is_kept_under_its_number() -> None:
    log = RunLog()

    async def listen(event: object) -> None: ...

    tell = log.counted(listen)
    for text in ("a", "b"):
        await tell(TextDelta(text))
    log.end(TextDelta("b"))
    assert await log.after(0) == (2, TextDelta("b"))
    assert await log.after(2) is None


async def test_an_event_that_its_listener_never_had_has_no_number() -> None:
    log = RunLog()

    async def listen(event: object) -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(log.counted(listen), TextDelta("a"))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert log.last_id == 0


async def test_a_log_that_shrinks_keeps_its_end() -> None:
    log = RunLog()
    for text in ("a", "b", "c"):
        await log.tell(TextDelta(text))
    log.end()
    log.shrink()
    assert await log.after(0) == (3, TextDelta("c"))
    assert await log.after(3) is None


async def test_a_log_without_events_stays_one() -> None:
    log = RunLog()
    log.end()
    log.shrink()
    assert (log.last_id, await log.after(0)) == (0, None)


class Body:
    """Something large in a frame."""


async def test_a_failed_run_keeps_nothing_alive_but_its_error() -> None:
    model = OfflineModel(ModelRateLimitError("slow down", retry_after=7.0))
    agent, kept = Agent(model), list[weakref.ref[Body]]()
    registry = RunRegistry(agent.runner, 10)

    @agent.before_request
    async def note(context: RunContext) -> None:
        kept.append(weakref.ref(context.metadata["body"]))

    async def run() -> None:
        body = Body()
        with pytest.raises(ModelRateLimitError):
            await registry.run(RunRequest("hi", metadata={"body": body}), "test")

    await run()
    model._next_item = None  # pyright: ignore[reportPrivateUsage] - the script holds the error, and that its traceback
    gc.collect()
    [record] = registry.records()
    assert isinstance(record.failure, ModelRateLimitError)
    assert (str(record.failure), record.failure.retry_after, record.failure.__traceback__) == ("slow down", 7.0, None)
    assert kept[0]() is None


class Demanding(Exception):
    """An error that cannot be made from its arguments."""

    def __init__(self, *, why: str) -> None:
        super().__init__(f"because {why}")


@pytest.mark.parametrize(
    "error",
    [OSError(2, "no such file", "x"), UnicodeDecodeError("ascii", b"\xff", 0, 1, "why"), Demanding(why="I say so")],
)
async def test_an_error_keeps_what_it_says(error: Exception) -> None:
    assert str(without_traceback(error)) == str(error)


async def test_a_log_is_bounded_in_bytes_and_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MAX_LOGGED_BYTES", 3_000)
    held: list[int] = []
    log = RunLog(on_growth=held.append)
    for number in range(10):
        await log.tell(TextDelta(f"{number}" * 1_000))
        assert 0 < sum(held) <= 3_000
    assert await log.after(0) == (9, TextDelta("8" * 1_000))
    await log.tell(TextDelta("x" * 10_000))  # the newest is kept in any case
    assert await log.after(0) == (11, TextDelta("x" * 10_000))
    assert sum(held) > 10_000
    log.forget()
    assert sum(held) == 0
    assert await log.after(0) == (11, TextDelta("x" * 10_000))  # for those who follow it


async def test_a_retry_counts_for_its_own_output_alone() -> None:
    registry = RunRegistry(Agent("offline").runner, 10, max_recent_bytes=100_000)
    for number in range(20):
        await registry.run(RunRequest("x" * 30_000, run_id="same"), "test")
        await registry.run(RunRequest("hi", run_id=f"{number}"), "test")
    assert len(registry.records()) == 21
