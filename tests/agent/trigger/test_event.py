"""Which events an event trigger is for."""

from __future__ import annotations

from typing import Any

import pytest

from definable.agent.trigger import EventTrigger
from definable.errors import ConfigurationError


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("user_signup", ["user_signup"], ["user_signup2", "User_signup", "a.user_signup", ""]),
        ("user.*", ["user.", "user.signup", "user.a.b", "user.a\nb"], ["user", "users.a", "a.user.b"]),
        ("*", ["", "a", "a.b"], []),
        ("a?c", ["abc", "a.c"], ["ac", "abbc"]),
        ("v[0-9]", ["v1", "v[0-9]"], ["va", "v10"]),
        ("v[!0-9]", ["va"], ["v1"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
        ("[", ["["], ["a"]),
    ],
)
def test_a_pattern_is_a_name_or_a_glob(pattern: str, matches: list[str], others: list[str]) -> None:
    trigger = EventTrigger(pattern)
    assert [name for name in matches if not trigger.matches(name)] == []
    assert [name for name in others if trigger.matches(name)] == []


def test_has_its_defaults() -> None:
    trigger = EventTrigger("user.*")
    assert (trigger.pattern, trigger.timeout, trigger.max_concurrency, trigger.retries) == ("user.*", None, None, 0)


def test_source_holds_the_pattern() -> None:
    assert EventTrigger("user.*").source == "event(user.*)"


@pytest.mark.parametrize("pattern", ["", "  ", None, 5])
def test_refuses_a_pattern_and_names_it(pattern: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EventTrigger(pattern)
    assert repr(pattern) in str(caught.value)


def test_takes_the_options_of_every_trigger() -> None:
    trigger = EventTrigger("x", timeout=5, max_concurrency=2, retries=3)
    assert (trigger.timeout, trigger.max_concurrency, trigger.retries) == (5, 2, 3)
