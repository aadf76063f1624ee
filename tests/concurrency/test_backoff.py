"""How long to wait before trying again."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.concurrency.backoff import Backoff

BACKOFFS = st.builds(
    Backoff,
    initial=st.floats(0.001, 10),
    maximum=st.floats(10, 600),
    jitter=st.floats(0, 1),
    max_tries=st.none() | st.integers(1, 20),
    max_retry_after=st.floats(0, 600) | st.just(inf),
    stable_after=st.floats(0.1, 600) | st.just(inf),
)


def test_delays_double_up_to_the_bound() -> None:
    backoff = Backoff(jitter=0)
    assert [backoff.delay(failures) for failures in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_spreads_the_delays() -> None:
    delays = {Backoff(jitter=0.5).delay(3) for _ in range(100)}
    assert len(delays) > 90
    assert 2 <= min(delays) <= max(delays) <= 6


@given(backoff=BACKOFFS, failures=st.integers(1, 10**6))
def test_a_delay_is_within_its_jitter_and_never_beyond_the_maximum(backoff: Backoff, failures: int) -> None:
    exact = min(backoff.initial * 2.0 ** min(failures - 1, 64), backoff.maximum)
    delay = backoff.delay(failures)
    assert 0 <= delay <= backoff.maximum
    assert delay == pytest.approx(exact, rel=backoff.jitter + 1e-9)


@given(backoff=BACKOFFS, failures=st.integers(1, 30), retry_after=st.none() | st.floats(0, 10_000))
def test_the_servers_pause_goes_first_and_no_try_is_beyond_a_bound(
    backoff: Backoff, failures: int, retry_after: float | None
) -> None:
    delay = backoff.retry_delay(failures, retry_after)
    may_retry = backoff.max_tries is None or failures < backoff.max_tries
    if retry_after is None:
        assert (delay is not None) == may_retry
        assert delay is None or delay <= backoff.maximum
    else:
        assert delay == (retry_after if may_retry and retry_after <= backoff.max_retry_after else None)


@given(backoff=BACKOFFS, runs=st.lists(st.floats(0, 1_000), min_size=1))
def test_failures_are_counted_since_the_last_stable_run(backoff: Backoff, runs: list[float]) -> None:
    failures = 0
    for ran_for in runs:
        failures = backoff.failures_after(failures, ran_for)
    stable = [index for index, ran_for in enumerate(runs) if ran_for >= backoff.stable_after]
    assert failures == len(runs) - (stable[-1] if stable else 0)
