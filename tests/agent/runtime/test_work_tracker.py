"""Accepted work: counted, and waited for."""

from __future__ import annotations

from contextvars import copy_context

import anyio
import pytest

from definable.agent.runtime import WorkCount
from definable.agent.work import WorkTracker, is_in_work_of, work_on_worker


def test_the_usual_sources_are_always_there_and_others_join() -> None:
    tracker = WorkTracker()
    tracker.counters("telegram")
    assert dict(tracker.counts()) == {source: WorkCount() for source in ("http", "event", "cron", "telegram")}


def test_work_ends_completed_failed_or_cancelled() -> None:
    tracker = WorkTracker(["event"])
    with tracker.work("event"):
        assert tracker.active() == 1
    with tracker.work("event") as work:
        work.failed = True
    with pytest.raises(ZeroDivisionError), tracker.work("event"):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), tracker.work("event"):
        raise KeyboardInterrupt
    tracker.never_started("event", 2)
    tracker.cancelled("event")
    assert tracker.counts()["event"] == WorkCount(completed=3, failed=2, cancelled=2, never_started=2)
    assert tracker.active() == 0


def test_work_that_will_be_retried_is_counted_later() -> None:
    tracker = WorkTracker(["event"])
    with tracker.work("event") as work:
        work.failed = work.will_retry = True
    assert tracker.counts()["event"] == WorkCount()


def test_code_is_in_the_work_of_its_tracker_and_of_those_around_it_while_it_is_open() -> None:
    tracker, other = WorkTracker(), WorkTracker()
    with tracker.work("event", occupies_worker=True) as handled:
        assert work_on_worker(tracker) is handled
        assert not is_in_work_of(other)
        with other.work("http"):
            assert is_in_work_of(tracker)
            assert is_in_work_of(other)
            assert work_on_worker(tracker) is handled
            assert work_on_worker(other) is None
        assert is_in_work_of(tracker)
    assert not is_in_work_of(tracker)
    assert work_on_worker(tracker) is None


def test_what_still_points_to_work_that_has_ended_finds_it_closed() -> None:
    tracker = WorkTracker()
    with tracker.work("event", occupies_worker=True):
        left_behind = copy_context()
        assert left_behind.run(is_in_work_of, tracker)
    assert not left_behind.run(is_in_work_of, tracker)
    assert left_behind.run(work_on_worker, tracker) is None

    def begin_another() -> None:
        with tracker.work("http"):
            assert is_in_work_of(tracker)
        assert not is_in_work_of(tracker)

    left_behind.run(begin_another)


@pytest.mark.anyio
async def test_a_cancelled_piece_of_work_is_cancelled() -> None:
    tracker = WorkTracker(["event"])
    with anyio.move_on_after(0), tracker.work("event"):
        await anyio.sleep(1)
    assert tracker.counts()["event"] == WorkCount(cancelled=1)


@pytest.mark.anyio
async def test_idle_waits_for_all_work_also_when_two_wait() -> None:
    tracker = WorkTracker()
    may_end = [anyio.Event(), anyio.Event()]
    log: list[str] = []

    async def work(number: int) -> None:
        with tracker.work("event"):
            await may_end[number].wait()
            log.append(f"work {number}")

    async def wait() -> None:
        await tracker.idle()
        log.append("idle")

    with anyio.fail_after(5):
        await tracker.idle()
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
