"""Which events an event trigger is for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.trigger import EventTrigger
from definable.agent.trigger.event import EventIndex
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


@given(st.lists(st.text("ab.*?[]!", min_size=1, max_size=8).filter(str.strip)), st.text("ab.*[]", max_size=8))
def test_an_index_finds_what_a_look_at_every_trigger_finds_in_their_order(patterns: list[str], name: str) -> None:
    triggers = [EventTrigger(pattern) for pattern in patterns]
    assert list(EventIndex(triggers).matching(name)) == [trigger for trigger in triggers if trigger.matches(name)]


def test_a_trigger_that_decides_for_itself_is_asked() -> None:
    class Longer(EventTrigger):
        def matches(self, name: str) -> bool:
            return len(name) > len(self.pattern)

    longer, exact = Longer("abc"), EventTrigger("abcd")
    index = EventIndex([exact, longer])
    assert list(index.matching("abcd")) == [exact, longer]
    assert list(index.matching("abc")) == []


@pytest.mark.parametrize("kind", ["job-{}", "user.{}.*", "*.topic{}", "a.*.{}", "*x{}x*", "?b[cd]*e{}"])
def test_few_of_many_triggers_are_tested(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = EventIndex([EventTrigger(kind.format(number)) for number in range(2_000)])
    tested: list[str] = []
    matches = EventTrigger.matches

    def counted(self: EventTrigger, name: str) -> bool:
        tested.append(name)
        return matches(self, name)

    monkeypatch.setattr(EventTrigger, "matches", counted)
    name = kind.format(1_234).replace("[cd]", "c").replace("*", "s").replace("?", "t")
    assert [trigger.pattern for trigger in index.matching(name)] == [kind.format(1_234)]
    assert len(tested) < 5
