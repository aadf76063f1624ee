"""Which dedupe keys were seen."""

from __future__ import annotations

import pytest

from definable.agent.bus import dedupe
from definable.agent.bus.dedupe import DedupeWindow


def test_a_key_is_claimed_once_within_its_time_to_live() -> None:
    window = DedupeWindow()
    assert window.claim("a", 10, now=100)
    assert not window.claim("a", 10, now=109.9)
    assert window.claim("b", 10, now=109.9)
    assert window.claim("a", 10, now=110)
    assert not window.claim("a", 10, now=119)


def test_a_refused_claim_does_not_prolong_the_first() -> None:
    window = DedupeWindow()
    window.claim("a", 10, now=0)
    window.claim("a", 10, now=9)
    assert window.claim("a", 10, now=10)


def test_a_released_key_may_be_claimed_again() -> None:
    window = DedupeWindow()
    window.claim("a", 10, now=0)
    window.release("a")
    window.release("a")
    window.release(None)
    assert window.claim("a", 10, now=0)


def test_the_oldest_keys_are_forgotten_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "MAX_KEYS", 3)
    window = DedupeWindow()
    for key in "abcd":
        window.claim(key, 10, now=0)
    assert not window.claim("b", 10, now=1)
    assert window.claim("a", 10, now=1)


def test_the_last_hundred_thousand_keys_are_remembered() -> None:
    forgotten: list[str] = []
    window = DedupeWindow(forgotten.append)
    for n in range(100_001):
        window.claim(str(n), 10, now=0)
    assert forgotten == ["0"]


def test_a_key_with_a_short_life_behind_one_with_a_long_life_expires_too() -> None:
    window = DedupeWindow()
    window.claim("long", 1000, now=0)
    window.claim("short", 1, now=0)
    assert window.claim("short", 1, now=2)
    assert not window.claim("long", 1000, now=2)


def test_a_key_is_forgotten_when_its_time_has_come() -> None:
    forgotten: list[str] = []
    window = DedupeWindow(forgotten.append)
    window.claim("old", 10, now=0)
    window.claim("other", 10, now=9)
    assert forgotten == []
    window.claim("another", 10, now=10)
    assert forgotten == ["old"]


def test_what_is_forgotten_because_of_its_age_or_for_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "MAX_KEYS", 2)
    forgotten: list[str] = []
    window = DedupeWindow(forgotten.append)
    window.claim("short", 1, now=0)
    window.claim("long", 100, now=0)
    assert forgotten == []
    window.claim("new", 100, now=1)
    assert forgotten == ["short"]
    window.claim("newer", 100, now=1)
    assert forgotten == ["short", "long"]
    window.release("new")
    assert forgotten == ["short", "long"]
