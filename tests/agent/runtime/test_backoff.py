"""How long to wait before trying again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.concurrency.backoff import Backoff


def test_delays_double_up_to_the_bound() -> None:
    backoff = Backoff(jitter=0)
    assert [backoff.delay(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_spreads_the_delays() -> None:
    delays = {Backoff(jitter=0.5).delay(3) for _ in range(100)}
    assert len(delays) > 90
    assert 2 <= min(delays) <= max(delays) <= 6


@given(failures=st.integers(1, 10**6), jitter=st.floats(0, 1))
def test_a_delay_is_within_its_jitter_and_never_beyond_the_maximum(failures: int, jitter: float) -> None:
    delay = Backoff(jitter=jitter).delay(failures)
    assert 0 <= delay <= 60
    assert delay == pytest.approx(min(2 ** min(failures - 1, 10), 60), rel=jitter + 1e-9)
