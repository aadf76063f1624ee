"""How many messages a user may send, and a token bucket: never more than the limit in any window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.interface import rate_limit
from definable.agent.interface.rate_limit import TokenBucket, UserRateLimit

GAPS = st.lists(st.floats(0, 20), max_size=100)


@given(GAPS, st.integers(1, 10))
def test_no_window_has_more_than_the_limit_and_a_refused_one_may_come_when_it_is_told(
    gaps: list[float], limit: int
) -> None:
    users, now, passed = UserRateLimit(limit), 0.0, list[float]()
    for gap in gaps:
        now += gap
        refusal = users.take("ann", now)
        if refusal is None:
            passed.append(now)
        else:
            assert 0 < refusal.retry_after <= 60
    assert all(later - sooner >= 60 for sooner, later in zip(passed, passed[limit:], strict=False))


def test_users_do_not_share_a_limit_and_a_streak_is_told_once() -> None:
    users = UserRateLimit(1)
    assert users.take("ann", 0) is None
    assert users.take("bob", 0) is None
    refusals = [users.take("ann", now) for now in (1, 2)]
    assert [refusal and (refusal.retry_after, refusal.is_first) for refusal in refusals] == [(59, True), (58, False)]
    assert users.take("ann", 60) is None


def test_the_users_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_USERS", 3)
    users = UserRateLimit(1)
    for number in range(10):
        users.take(f"{number}", number)
    assert len(users) == 3


@given(GAPS)
def test_a_bucket_gives_places_that_keep_its_rate(gaps: list[float]) -> None:
    bucket, now, places = TokenBucket(rate=0.5, burst=3), 0.0, list[float]()
    for gap in gaps:
        now += gap
        wait = bucket.wait(now)
        assert bucket.take(now) == wait
        places.append(now + wait)
    assert places == pytest.approx(sorted(places))
    assert all(later - sooner >= 2 - 1e-6 for sooner, later in zip(places, places[3:], strict=False))
