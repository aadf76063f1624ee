"""The account of accepted work."""

from __future__ import annotations

from contextvars import copy_context

import anyio
import pytest

from definable.agent.bus.accepted_work import is_in_work_of, work_on_worker
from definable.agent.runtime.report import WorkCount
from definable.agent.runtime.shutdown import WorkLedger


def test_the_usual_sources_are_always_there_and_others_join() -> None:
    ledger = WorkLedger()
    ledger.account("telegram")
    assert dict(ledger.counts()) == {source: WorkCount() for source in ("http", "event", "cron", "telegram")}


def test_work_ends_completed_failed_or_cancelled() -> None:
    ledger = WorkLedger(["event"])
    with ledger.work("event"):
        assert ledger.active() == 1
    with ledger.work("event") as work:
        work.failed = True
    with pytest.raises(ZeroDivisionError), ledger.work("event"):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), ledger.work("event"):
        raise KeyboardInterrupt
    ledger.never_started("event", 2)
    ledger.cancelled("event")
    assert ledger.counts()["event"] == WorkCount(completed=3, failed=2, cancelled=2, never_started=2)
    assert ledger.active() == 0


def test_work_that_goes_on_is_counted_later() -> None:
    ledger = WorkLedger(["event"])
    with ledger.work("event") as work:
        work.failed = work.goes_on = True
    assert ledger.counts()["event"] == WorkCount()


def test_code_is_in_the_work_of_its_ledger_and_of_those_around_it_while_it_is_open() -> None:
    ledger, other = WorkLedger(), WorkLedger()
    with ledger.work("event", occupies_worker=True) as handled:
        assert work_on_worker(ledger) is handled
        assert not is_in_work_of(other)
        with other.work("http"):
            assert is_in_work_of(ledger)
            assert is_in_work_of(other)
            assert work_on_worker(ledger) is handled
            assert work_on_worker(other) is None
        assert is_in_work_of(ledger)
    assert not is_in_work_of(ledger)
    assert work_on_worker(ledger) is None


def test_what_still_points_to_work_that_has_ended_finds_it_closed() -> None:
    ledger = WorkLedger()
    with ledger.work("event", occupies_worker=True):
        left_behind = copy_context()
        assert left_behind.run(is_in_work_of, ledger)
    assert not left_behind.run(is_in_work_of, ledger)
    assert left_behind.run(work_on_worker, ledger) is None

    def begin_another() -> None:
        with ledger.work("http"):
            assert is_in_work_of(ledger)
        assert not is_in_work_of(ledger)

    left_behind.run(begin_another)


@pytest.mark.anyio
async def test_a_cancelled_piece_of_work_is_cancelled() -> None:
    ledger = WorkLedger(["event"])
    with anyio.move_on_after(0), ledger.work("event"):
        await anyio.sleep(1)
    assert ledger.counts()["event"] == WorkCount(cancelled=1)


@pytest.mark.anyio
async def test_idle_waits_for_all_work_also_when_two_wait() -> None:
    ledger = WorkLedger()
    may_end = [anyio.Event(), anyio.Event()]
    log: list[str] = []

    async def work(number: int) -> None:
        with ledger.work("event"):
            await may_end[number].wait()
            log.append(f"work {number}")

    async def wait() -> None:
        await ledger.idle()
        log.append("idle")

    with anyio.fail_after(5):
        await ledger.idle()
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(wait)
            group.start_soon(wait)
            for event in may_end:
                await anyio.wait_all_tasks_blocked()
                event.set()
    assert log == ["work 0", "work 1", "idle", "idle"]
