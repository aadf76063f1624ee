"""The retry policy, without an event loop."""

from __future__ import annotations

from email.utils import formatdate
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.errors import ModelError
from definable.model.failure import Failure, parse_retry_after, retry_wait

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def no_backoff() -> None:
    """Keep the real constants here."""


def wait(tries: int = 1, *, transient: bool = True, retry_after: float | None = None, **over: float) -> float | None:
    failure = Failure(ModelError("x"), transient, retry_after)
    arguments = {"max_retries": 10, "time_left": inf} | over
    return retry_wait(failure, tries, int(arguments.pop("max_retries")), **arguments)


def test_the_backoff_doubles_up_to_its_limit_give_or_take_a_quarter() -> None:
    waits = [wait(tries) for tries in range(1, 8)]
    assert waits == [pytest.approx(seconds, rel=0.25) for seconds in (0.5, 1, 2, 4, 8, 8, 8)]


def test_what_cannot_help_is_not_tried() -> None:
    assert wait(transient=False) is None
    assert wait(1, max_retries=0) is None
    assert wait(3, max_retries=2) is None
    assert wait(2, max_retries=2) is not None


def test_the_providers_pause_is_honoured_up_to_a_bound() -> None:
    assert wait(retry_after=0.0) == 0
    assert wait(retry_after=20) == 20
    assert wait(retry_after=31) is None


def test_no_wait_reaches_the_callers_deadline() -> None:
    assert wait(retry_after=5, time_left=5) is None
    assert wait(time_left=0.37) is None
    assert wait(retry_after=5, time_left=6) == 5


@given(st.integers(1, 10_000))
def test_a_backoff_is_never_long(tries: int) -> None:
    seconds = wait(tries, max_retries=10_000)
    assert seconds is not None and 0.375 <= seconds <= 8


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": formatdate(NOW + 60, usegmt=True)}, 60),
        ({"retry-after": formatdate(NOW - 60, usegmt=True)}, 0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, NOW) == seconds


@given(st.text())
def test_any_retry_after_is_a_number_or_nothing(text: str) -> None:
    seconds = parse_retry_after({"retry-after": text}, NOW)
    assert seconds is None or seconds >= 0
