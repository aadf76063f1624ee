"""What the report says, and how."""

from __future__ import annotations

import pytest

from definable.agent.runtime import ShutdownReport, WorkCount


def test_counts_add_up_over_the_sources() -> None:
    report = ShutdownReport(1.5, {"http": WorkCount(4, 1, 2, 0), "event": WorkCount(3, 0, 0, 5)})
    assert (report.completed, report.failed, report.cancelled, report.never_started) == (7, 1, 2, 5)
    assert report.total == WorkCount(7, 1, 2, 5)


def test_equal_counts_add_up_too() -> None:
    assert WorkCount(1, 2, 3, 4) + WorkCount(1, 2, 3, 4) == WorkCount(2, 4, 6, 8)


@pytest.mark.parametrize(
    ("count", "clean"),
    [
        (WorkCount(), True),
        (WorkCount(completed=5, failed=5), True),
        (WorkCount(cancelled=1), False),
        (WorkCount(never_started=1), False),
    ],
)
def test_clean_says_that_nothing_was_cut(count: WorkCount, clean: bool) -> None:
    assert count.clean is clean
    assert ShutdownReport(sources={"http": WorkCount(3), "event": count}).clean is clean


def test_a_thread_that_runs_on_is_not_clean() -> None:
    report = ShutdownReport(stuck_threads=("app.work",))
    assert not report.clean
    assert "still in a thread: app.work" in str(report)


def test_it_is_one_line_with_what_matters() -> None:
    assert str(ShutdownReport(0.123, {"http": WorkCount(2), "event": WorkCount(1)})) == (
        "stopped cleanly in 0.12 s (http: 2 completed; event: 1 completed)"
    )
    assert str(ShutdownReport(2, {"event": WorkCount(3, 1, 2, 4)})) == (
        "stopped with work cut off in 2.00 s (event: 3 completed, 1 failed, 2 cancelled, 4 never started)"
    )


def test_skipped_firings_are_no_completed_ones_and_no_work_cut_off() -> None:
    report = ShutdownReport(1, {"cron": WorkCount(completed=3, skipped=2)})
    assert (report.completed, report.skipped, report.clean) == (3, 2, True)
    assert str(report) == "stopped cleanly in 1.00 s (cron: 3 completed, 2 skipped)"


def test_what_its_caller_withdrew_is_in_none_of_the_other_numbers() -> None:
    report = ShutdownReport(1, {"http": WorkCount(completed=3, withdrawn=2)})
    assert (report.completed, report.withdrawn, report.clean) == (3, 2, True)
    assert str(report) == "stopped cleanly in 1.00 s (http: 3 completed, 2 withdrawn)"


def test_an_empty_report_is_clean() -> None:
    assert ShutdownReport().clean
    assert ShutdownReport().total == WorkCount()
