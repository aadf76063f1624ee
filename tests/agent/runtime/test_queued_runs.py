"""Runs that were promised and not begun: queued, then made, cancelled, forgotten or ended without a run."""

from __future__ import annotations

import anyio
import pytest

from definable.agent import Agent, RunEnded, RunStatus
from definable.agent.run.context import RunRequest
from definable.agent.run.output import RunEvent
from definable.agent.runtime import runs
from definable.agent.runtime.http.sse import LoggedEvents
from definable.agent.runtime.runs import RunRecord, RunRegistry, TooManyRuns
from definable.errors import RunCancelled

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry() -> RunRegistry:
    return RunRegistry(Agent("offline").runner, 2)


async def test_a_queued_run_is_found_and_is_not_active(registry: RunRegistry) -> None:
    record = registry.queue(RunRequest("hi", "s", "ann", run_id="r"), "POST /run")
    assert (record.run_id, record.session_id, record.user_id, record.source) == ("r", "s", "ann", "POST /run")
    assert (record.status, record.is_logged, record.log.ended) == (RunStatus.QUEUED, True, False)
    assert (registry.find("r"), list(registry.records()), registry.active_count) == (record, [record], 0)


async def test_no_more_are_queued_than_may_be_under_way(registry: RunRegistry) -> None:
    first = registry.queue(RunRequest("1"), "test")
    registry.queue(RunRequest("2"), "test")
    with pytest.raises(TooManyRuns, match="2 runs wait already"):
        registry.queue(RunRequest("3"), "test")
    registry.forget(first)
    registry.queue(RunRequest("3"), "test")
    assert [record.run_id == first.run_id for record in registry.records()] == [False, False]


async def test_a_queued_run_is_made_under_its_record_and_its_events_are_kept(registry: RunRegistry) -> None:
    record = registry.queue(RunRequest("hi", run_id="r"), "POST /run")
    output = await registry.run(RunRequest("hi", "s", "ann", run_id="r"), "worker")
    assert registry.find("r") is record
    assert (record.status, record.output, record.session_id, record.user_id) == (
        RunStatus.COMPLETED,
        output,
        "s",
        "ann",
    )
    assert (record.source, record.log.ended) == ("POST /run", True)
    assert record.log.last_id > 1


@pytest.mark.parametrize(
    ("failure", "status"), [(None, RunStatus.COMPLETED), (ZeroDivisionError("oops"), RunStatus.FAILED)]
)
async def test_a_promise_may_end_without_a_run(
    registry: RunRegistry, failure: Exception | None, status: RunStatus
) -> None:
    record = registry.queue(RunRequest("hi", run_id="r"), "test")
    registry.end_queued("r", failure)
    assert (record.status, repr(record.failure)) == (status, repr(failure))
    assert record.log.ended
    assert await record.log.after(0) is None
    assert list(registry.records()) == [record]
    registry.queue(RunRequest("2"), "test")
    registry.queue(RunRequest("3"), "test")  # its place is free


async def test_the_end_of_a_run_that_is_not_queued_changes_nothing(registry: RunRegistry) -> None:
    registry.end_queued("nobody")
    assert list(registry.records()) == []


async def test_a_run_that_is_cancelled_while_it_is_queued_is_not_made(registry: RunRegistry) -> None:
    record = registry.queue(RunRequest("hi", run_id="r"), "test")
    assert registry.cancel("r")
    assert not registry.cancel("r")
    assert (record.status, record.log.ended) == (RunStatus.CANCELLED, True)
    with pytest.raises(RunCancelled, match="the run r was cancelled"):
        await registry.run(RunRequest("hi", run_id="r"), "worker")
    assert (record.status, record.output, list(registry.records())) == (RunStatus.CANCELLED, None, [record])


async def test_the_end_of_a_cancelled_promise_leaves_it_cancelled(registry: RunRegistry) -> None:
    record = registry.queue(RunRequest("hi", run_id="r"), "test")
    registry.cancel("r")
    registry.end_queued("r", ZeroDivisionError())
    assert (record.status, type(record.failure)) == (RunStatus.CANCELLED, RunCancelled)


async def test_queued_runs_are_listed_first_then_active_then_recent_ones(registry: RunRegistry) -> None:
    await registry.run(RunRequest("hi", run_id="recent"), "test")
    agent, go_on = Agent("offline"), anyio.Event()

    @agent.before_request
    async def hold(context: object) -> None:
        await go_on.wait()

    async def run() -> None:
        await registry.run(RunRequest("hi", run_id="active"), "test", runner=agent.runner)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        registry.queue(RunRequest("hi", run_id="queued 1"), "test")
        registry.queue(RunRequest("hi", run_id="queued 2"), "test")
        assert [record.run_id for record in registry.records()] == ["queued 2", "queued 1", "active", "recent"]
        go_on.set()


async def test_who_follows_a_queued_run_is_let_go_when_it_is_forgotten() -> None:
    registry = RunRegistry(Agent("offline").runner, 1, others_help=True)
    seen: list[object] = []

    async def follow(record: RunRecord) -> None:
        seen.extend([event async for event in LoggedEvents(record, 0)])
        seen.append(record.run_id)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for run_id in ("1", "2"):  # the first gives way to the second
                group.start_soon(follow, record := registry.queue(RunRequest("hi", run_id=run_id), "test"))
                await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            assert seen == ["1"]
            registry.forget(record)
    assert seen == ["1", "2"]


async def test_of_a_run_that_was_not_promised_the_end_alone_is_kept(registry: RunRegistry) -> None:
    output = await registry.run(RunRequest("hi", run_id="r"), "test")
    record = registry.find("r")
    assert record is not None
    assert (await record.log.after(0), await record.log.after(1)) == ((1, RunEnded(output)), None)


async def test_the_end_of_a_run_has_the_number_that_it_has_for_a_listener(registry: RunRegistry) -> None:
    heard: list[RunEvent] = []

    async def listen(event: RunEvent) -> None:
        heard.append(event)

    output = await registry.run(RunRequest("hi", run_id="r"), "test", listen)
    record = registry.find("r")
    assert record is not None
    assert await record.log.after(0) == (len(heard), RunEnded(output))
    assert await record.log.after(len(heard)) is None
    assert len(heard) > 1
    assert heard[-1] == RunEnded(output)


async def test_the_events_of_the_latest_runs_alone_are_kept(
    registry: RunRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_RECENT_LOGS", 2)
    records = []
    for number in range(4):
        request = RunRequest("hi", run_id=str(number))
        records.append(registry.queue(request, "test"))
        await registry.run(request, "worker")
    kept = [await record.log.after(0) for record in records]
    firsts = [event[0] for event in kept if event is not None]
    assert firsts == [records[0].log.last_id, records[1].log.last_id, 1, 1]  # of the older ones the end is left
    assert firsts[0] > 1
