"""Every so many seconds, at the multiples since the epoch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.trigger import Interval
from definable.errors import ConfigurationError


def test_it_fires_at_the_multiples_since_the_epoch() -> None:
    hourly = Interval(3600)
    assert hourly.upcoming(2, after=1_800_000_001.0) == [1_800_003_600.0, 1_800_007_200.0]
    assert hourly.next_after(7200.0) == 10800.0
    assert hourly.next_run(0) == 3600.0


@pytest.mark.parametrize(
    ("seconds", "source", "when"),
    [
        (60, "interval(60s)", "every 60 s"),
        (60.0, "interval(60s)", "every 60 s"),
        (0.5, "interval(0.5s)", "every 0.5 s"),
    ],
)
def test_it_says_what_it_is(seconds: float, source: str, when: str) -> None:
    trigger = Interval(seconds)
    assert (trigger.source, trigger.name, trigger.when, trigger.kind) == (source, source, when, "interval")


@given(
    seconds=st.one_of(st.floats(0.01, 1e6), st.integers(1, 10**6)),
    after=st.floats(0, 4e9),
    span=st.integers(0, 50),
)
def test_the_missed_ones_are_those_that_it_would_have_fired(seconds: float, after: float, span: int) -> None:
    trigger = Interval(seconds)
    firings = trigger.upcoming(span + 1, after)
    assert all(later > earlier > after for earlier, later in pairwise(firings))
    assert firings[0] - after <= seconds * (1 + 1e-6) + 1e-6
    until = firings[span]
    assert trigger.missed(after, until) == (span + 1, until)
    assert trigger.missed(after, after) == (0, None)


@pytest.mark.parametrize("seconds", [0, -1, 0.001, math.inf, math.nan, None, "60", True])
def test_what_is_no_interval_is_refused_and_named(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Interval\(.*\): seconds, 0.01 or more"):
        Interval(seconds)


def test_other_values_out_of_range_are_refused() -> None:
    for arguments in ({"jitter": -1}, {"jitter": math.inf}, {"overlap": "no"}, {"misfire_grace": -1}, {"retries": -1}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(arguments))}="):
            Interval(60, **arguments)
