"""Active and recent runs."""

from __future__ import annotations

import anyio
import pytest

from definable.agent import Agent, RunContext, RunStatus
from definable.agent.run.context import RunRequest
from definable.agent.runtime import runs
from definable.agent.runtime.runs import RunRegistry, TooManyRuns
from definable.errors import RunCancelled
from definable.model import ModelRequest, OfflineModel

pytestmark = pytest.mark.anyio


class Held:
    """An agent whose runs wait until they may go on."""

    def __init__(self, max_concurrent: int = 10, script: object = None) -> None:
        self.agent = Agent(OfflineModel(script))  # pyright: ignore[reportArgumentType]
        self.registry = RunRegistry(self.agent.runner, max_concurrent)
        self.go_on = anyio.Event()
        self.agent.before_request(self._hold)

    async def _hold(self, context: RunContext) -> None:
        await self.go_on.wait()


async def test_a_run_is_active_then_recent() -> None:
    held = Held()
    request = RunRequest("hi", "s", "alice")
    record = None
    async with anyio.create_task_group() as group:
        group.start_soon(held.registry.run, request, "POST /run")
        await anyio.wait_all_tasks_blocked()
        [record] = held.registry.records()
        assert held.registry.active_count == 1
        assert held.registry.find(request.run_id) is record
        assert (record.run_id, record.session_id, record.user_id) == (request.run_id, "s", "alice")
        assert (record.source, record.status, record.output) == ("POST /run", RunStatus.RUNNING, None)
        held.go_on.set()
    assert held.registry.active_count == 0
    assert held.registry.find(request.run_id) is record
    assert record is not None and record.output is not None
    assert (record.status, record.output.content) == (RunStatus.COMPLETED, "hi")


async def test_a_failed_run_says_why() -> None:
    held = Held(script=ZeroDivisionError("oops"))
    held.go_on.set()
    with pytest.raises(ZeroDivisionError):
        await held.registry.run(RunRequest("hi"), "test")
    [record] = held.registry.records()
    assert (record.status, str(record.failure)) == (RunStatus.FAILED, "oops")


async def test_sys_exit_in_a_run_is_a_failure_like_others() -> None:
    def leave(request: ModelRequest) -> str:
        raise SystemExit(3)

    held = Held(script=leave)
    held.go_on.set()
    with pytest.raises(RuntimeError, match=r"a run raised SystemExit"):
        await held.registry.run(RunRequest("hi"), "test")
    [record] = held.registry.records()
    assert record.status is RunStatus.FAILED


async def test_a_run_is_cancelled_by_its_id() -> None:
    held = Held()
    request = RunRequest("hi")
    errors: list[str] = []

    async def run() -> None:
        try:
            await held.registry.run(request, "test")
        except RunCancelled as error:
            errors.append(str(error))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            assert held.registry.cancel(request.run_id)
    assert errors == [f"the run {request.run_id} was cancelled"]
    assert [record.status for record in held.registry.records()] == [RunStatus.CANCELLED]
    assert not held.registry.cancel(request.run_id)
    assert not held.registry.cancel("nobody")


async def test_a_run_cut_off_from_outside_counts_as_cancelled() -> None:
    held = Held()
    with anyio.move_on_after(0.01):
        await held.registry.run(RunRequest("hi"), "test")
    assert [record.status for record in held.registry.records()] == [RunStatus.CANCELLED]


async def test_too_many_runs_are_refused_unless_they_wait() -> None:
    held = Held(max_concurrent=2)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(held.registry.run, RunRequest("hi"), "test")
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(TooManyRuns, match="2 runs are under way already"):
                await held.registry.run(RunRequest("hi"), "test")
            held.go_on.set()
            output = await held.registry.run(RunRequest("me too"), "test", wait=True)
            assert output.content == "me too"
    assert len(held.registry.records()) == 3


async def test_a_place_comes_free_however_a_run_ends() -> None:
    held = Held(max_concurrent=1, script=ZeroDivisionError)
    for _ in range(2):
        with anyio.move_on_after(0.01):
            await held.registry.run(RunRequest("hi"), "test")
    held.go_on.set()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await held.registry.run(RunRequest("hi"), "test")


async def test_a_retry_takes_the_place_of_the_attempt_before_it() -> None:
    held = Held(script=[ZeroDivisionError, "done"])
    held.go_on.set()
    with pytest.raises(ZeroDivisionError):
        await held.registry.run(RunRequest("hi", run_id="r"), "test")
    await held.registry.run(RunRequest("hi", run_id="r"), "test")
    assert [(record.run_id, record.status) for record in held.registry.records()] == [("r", RunStatus.COMPLETED)]


async def test_two_runs_of_one_id_at_once_do_no_harm() -> None:
    held = Held()
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(held.registry.run, RunRequest("hi", run_id="r"), "test")
        await anyio.wait_all_tasks_blocked()
        held.go_on.set()
    assert held.registry.active_count == 0


async def test_recent_runs_are_bounded_and_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_RECENT_RUNS", 3)
    held = Held()
    held.go_on.set()
    for number in range(5):
        await held.registry.run(RunRequest("hi", run_id=str(number)), "test")
    assert [record.run_id for record in held.registry.records()] == ["4", "3", "2"]
    assert held.registry.find("0") is None


async def test_where_others_may_make_a_queued_run_the_oldest_is_forgotten_rather_than_a_new_one_refused() -> None:
    registry = RunRegistry(Agent("offline").runner, 2, others_help=True)
    requests = [RunRequest(str(number)) for number in range(5)]
    for request in requests:
        registry.queue(request, "test")
    assert [registry.find(request.run_id) is not None for request in requests] == [False] * 3 + [True] * 2
