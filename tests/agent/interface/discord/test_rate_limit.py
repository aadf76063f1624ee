"""Rate limits: when a request may be sent, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.interface.discord.rate_limit import RateLimits, Route, number

MESSAGES = Route("POST", "/channels/{channel}/messages", "10")
ELSEWHERE = Route("POST", "/channels/{channel}/messages", "20")
TYPING = Route("POST", "/channels/{channel}/typing", "10")


def headers(remaining: int, reset_after: float, bucket: str = "b", limit: int = 5) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset-after": str(reset_after),
        "x-ratelimit-bucket": bucket,
    }


def test_an_unknown_route_may_be_asked() -> None:
    assert RateLimits().take(MESSAGES, 0.0) == 0.0
    assert MESSAGES.path == "/channels/10/messages"


def test_an_empty_bucket_is_waited_for() -> None:
    limits = RateLimits()
    limits.take(MESSAGES, 0.0)
    limits.learn(MESSAGES, headers(0, 1.5), 0.0)
    assert limits.take(MESSAGES, 0.5) == pytest.approx(1.0)
    assert limits.take(MESSAGES, 1.5) == 0.0


def test_places_are_counted_before_the_answer_comes() -> None:
    limits = RateLimits()
    limits.learn(MESSAGES, headers(2, 1.0), 0.0)
    assert [limits.take(MESSAGES, 0.1) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.9)]


def test_an_answer_that_was_overtaken_gives_no_place_back() -> None:
    limits = RateLimits()
    limits.learn(MESSAGES, headers(0, 1.0), 0.0)
    limits.learn(MESSAGES, headers(3, 0.9), 0.1)
    assert limits.take(MESSAGES, 0.2) > 0


def test_each_channel_has_a_bucket_of_its_own() -> None:
    limits = RateLimits()
    limits.learn(MESSAGES, headers(0, 1.0), 0.0)
    assert limits.take(ELSEWHERE, 0.0) == 0.0


def test_routes_may_share_a_bucket() -> None:
    limits = RateLimits()
    limits.learn(MESSAGES, headers(1, 1.0, "shared"), 0.0)
    limits.learn(TYPING, headers(0, 1.0, "shared"), 0.0)
    assert limits.take(MESSAGES, 0.0) == pytest.approx(1.0)


def test_a_429_closes_its_bucket_alone() -> None:
    limits = RateLimits()
    limits.refused(MESSAGES, 3.0, 0.0, is_global=False)
    assert limits.take(MESSAGES, 1.0) == pytest.approx(2.0)
    assert limits.take(TYPING, 1.0) == limits.take(ELSEWHERE, 1.0) == 0.0


def test_a_global_429_stops_everything() -> None:
    limits = RateLimits()
    limits.refused(MESSAGES, 3.0, 0.0, is_global=True)
    assert limits.take(TYPING, 1.0) == pytest.approx(2.0)
    assert limits.take(TYPING, 3.0) == 0.0


@given(st.lists(st.floats(0.0, 0.2), max_size=300))
def test_never_more_than_fifty_in_any_second(pauses: list[float]) -> None:
    limits, now, sent = RateLimits(), 0.0, list[float]()
    for number_, pause in enumerate(pauses):
        now += pause
        while wait := limits.take(Route("POST", "/x", str(number_ % 7)), now):
            assert 0 < wait <= 1.1
            now += wait
        sent.append(now)
    for first, later in zip(sent, sent[50:], strict=False):
        assert later - first >= 1.0 - 1e-9


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 3.0), st.floats(0.0, 2.0)), max_size=50))
def test_waiting_as_long_as_asked_is_always_enough(answers: list[tuple[int, float, float]]) -> None:
    limits, now = RateLimits(), 0.0
    for remaining, reset_after, pause in answers:
        now += pause
        for _ in range(3):
            wait = limits.take(MESSAGES, now)
            if not wait:
                break
            now += wait + 1e-9
        else:
            pytest.fail("asked again and again")
        limits.learn(MESSAGES, headers(remaining, reset_after), now)


def test_headers_that_make_no_sense_are_passed_over() -> None:
    limits = RateLimits()
    limits.learn(MESSAGES, headers(0, 1.0) | {"x-ratelimit-remaining": "many"}, 0.0)
    limits.learn(MESSAGES, headers(0, 1.0) | {"x-ratelimit-reset-after": "nan"}, 0.0)
    assert limits.take(MESSAGES, 0.0) == 0.0
    assert [number(value) for value in ("1.5", 2, "inf", "-1", None, [], "")] == [1.5, 2.0, *[None] * 5]
