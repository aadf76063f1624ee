"""Which updates may be acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from definable.agent.interface.telegram.poller import FORGET_AFTER, OffsetTracker


def test_moves_past_what_has_ended_in_order() -> None:
    mark = OffsetTracker()
    assert mark.offset(0) is None
    assert [mark.take(number, 0) for number in (7, 8, 9)] == [True, True, True]
    mark.end(8)
    assert mark.offset(0) == 7
    mark.end(7)
    assert mark.offset(0) == 9
    mark.end(9)
    assert (mark.offset(0), mark.is_idle) == (10, True)


def test_takes_nothing_twice() -> None:
    mark = OffsetTracker()
    mark.take(7, 0)
    mark.take(8, 0)
    mark.end(8)
    assert [mark.take(number, 0) for number in (6, 7, 8, 9)] == [False, False, False, True]


def test_numbers_may_begin_anew_after_a_week_of_silence() -> None:
    mark = OffsetTracker()
    mark.take(1000, 0)
    mark.end(1000)
    assert mark.offset(FORGET_AFTER) == 1001
    assert mark.offset(FORGET_AFTER + 1) is None
    assert mark.take(5, FORGET_AFTER + 1)


def test_nothing_is_forgotten_while_something_is_handled() -> None:
    mark = OffsetTracker()
    mark.take(1000, 0)
    assert mark.offset(10 * FORGET_AFTER) == 1000


@given(st.lists(st.integers(1, 30), max_size=200), st.randoms(use_true_random=False))
def test_what_is_not_ended_is_never_acknowledged_and_what_is_taken_is_taken_once(
    events: list[int], chance: object
) -> None:
    mark, pending, taken = OffsetTracker(), set[int](), list[int]()
    newest = 0
    for number in events:
        if number % 3 and pending:
            ended = sorted(pending)[number % len(pending)]
            pending.discard(ended)
            mark.end(ended)
        else:
            newest += 1
            for update in range(max(1, newest - 5), newest + 1):
                if mark.take(update, 0):
                    taken.append(update)
                    pending.add(update)
        offset = mark.offset(0)
        assert offset is None or all(update >= offset for update in pending)
        assert pending or offset in (None, newest + 1)
    assert taken == sorted(set(taken))


def test_what_was_not_handed_on_comes_again() -> None:
    tracker = OffsetTracker()
    assert tracker.take(5, 0.0)
    tracker.give_back(5)
    assert tracker.is_idle and tracker.offset(0.0) == 5
    assert tracker.take(5, 0.0) and tracker.take(6, 0.0)
    tracker.give_back(6)
    tracker.end(5)
    assert tracker.offset(0.0) == 6
