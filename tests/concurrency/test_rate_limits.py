"""How often callers may call: the algorithm against a model of it, its memory, and what it costs."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.concurrency.rate_limits import MAX_KEYS, Limits, LocalWhileAway, MemoryLimits, Rate, rate_of
from definable.errors import ConfigurationError, StorageError


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("60/minute", Rate(60, 60.0)),
        ("10 / second", Rate(10, 1.0)),
        ("1000/hour", Rate(1000, 3600.0)),
        (" 5/day ", Rate(5, 86400.0)),
    ],
)
def test_a_rate_is_a_number_in_a_period(written: str, rate: Rate) -> None:
    assert rate_of(written) == rate


@pytest.mark.parametrize("written", ["", "60", "60/", "/minute", "0/minute", "-1/hour", "6.5/day", "60/week", 60, None])
def test_anything_else_is_no_rate(written: Any) -> None:
    with pytest.raises(ConfigurationError, match="'60/minute'"):
        rate_of(written)


def test_so_many_at_once_and_then_one_by_one() -> None:
    limits, rate = MemoryLimits(), Rate(60, 60.0)
    assert [limits.taken("ann", rate, 0.0) for _ in range(60)] == [0.0] * 60
    assert limits.taken("ann", rate, 0.0) == pytest.approx(1.0)
    assert limits.taken("ann", rate, 0.5) == pytest.approx(0.5)
    assert limits.taken("bob", rate, 0.5) == 0.0, "others do not notice"
    assert limits.taken("ann", rate, 1.0) == 0.0
    assert limits.taken("ann", rate, 1.0) == pytest.approx(1.0), "what was refused did not count"
    assert [limits.taken("ann", rate, 1000.0) for _ in range(61)][-2:] == [0.0, pytest.approx(1.0)]


@given(
    count=st.integers(1, 50),
    period=st.floats(0.1, 1000.0),
    gaps=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=300),
)
def test_a_caller_gets_what_it_may_and_no_more(count: int, period: float, gaps: list[float]) -> None:
    limits, rate = MemoryLimits(), Rate(count, period)
    now, let_through, refused_until = 0.0, 0, 0.0
    for gap in gaps:
        now += gap
        early = limits.taken("ann", rate, now)
        assert 0.0 <= early <= rate.interval * (1 + 1e-6)
        if early:
            refused_until = now + early
        else:
            let_through += 1
            assert now >= refused_until - 1e-6 * period, "Retry-After does not say more than it must, nor less"
        assert let_through <= count + (now / rate.interval) + 1e-6


def test_any_number_of_addresses_takes_bounded_memory_and_who_is_silent_is_forgotten() -> None:
    limits, rate = MemoryLimits(), Rate(60, 60.0)
    for number in range(2 * MAX_KEYS):  # of a million: `python -m benchmarks limiter`
        limits.taken(f"address~{number}", rate, 0.0)
    assert len(limits) == MAX_KEYS
    kept = limits._paid_until  # pyright: ignore[reportPrivateUsage] - its size is what is bounded
    size = sys.getsizeof(kept) + sum(sys.getsizeof(key) + sys.getsizeof(until) for key, until in kept.items())
    assert size < 32 * 1024 * 1024
    for number in range(MAX_KEYS):
        limits.taken(f"later~{number % 10}", rate, 10_000.0 + number)
    assert len(limits) <= 11


class Server(Limits):
    """Answers as it is told to, or is away."""

    def __init__(self) -> None:
        self.answer: float | None = 0.0

    async def take(self, key: str, rate: Rate) -> float:
        if self.answer is None:
            raise StorageError("away")
        return self.answer


@pytest.mark.anyio
async def test_while_the_server_is_away_nobody_begins_anew() -> None:
    server, rate = Server(), Rate(3, 3600.0)
    limits = LocalWhileAway(server, "a server")
    assert [await limits.take("ann", rate) for _ in range(2)] == [0.0, 0.0]
    server.answer = 1000.0  # other replicas have let eve through
    assert await limits.take("eve", rate) == 1000.0
    server.answer = None
    assert await limits.take("eve", rate) == pytest.approx(1000.0, abs=60)
    assert [await limits.take("ann", rate) > 0 for _ in range(2)] == [False, True]
    assert [await limits.take("bob", rate) > 0 for _ in range(4)] == [False, False, False, True]
