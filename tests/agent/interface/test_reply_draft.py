"""What is shown of a reply while it is being written, and when: without a clock or a platform."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from definable.agent import RunStarted, TextDelta, ToolCallStarted
from definable.agent.interface.splitting import split_text
from definable.agent.interface.streamed_reply import Change, ReplyDraft
from definable.model import ToolCall

PIECES = st.sampled_from(["a", "word ", "\n", "\n\n", "```py\n", "\n```\n", "😀", "**b", " ", ". ", "``"])
TEXT = st.one_of(st.text(max_size=6), PIECES)
TOOL = ToolCallStarted(ToolCall("look_up", {}))


def written(*texts: str, limit: int = 100, interval: float = 1.0) -> ReplyDraft:
    """A draft that heard some texts at 0 s."""
    draft = ReplyDraft(limit, interval)
    for text in texts:
        draft.hear(TextDelta(text), 0.0)
    return draft


def show_next(draft: ReplyDraft, now: float = 0.0) -> Change | None:
    change = draft.next_change()
    if change is not None:
        draft.began(change, now)
        draft.made(change, change.posted or f"m{change.index}", now)
    return change


def test_nothing_is_due_before_there_is_text() -> None:
    draft = ReplyDraft(100, 1.0)
    draft.hear(RunStarted("r", "s"), 5.0)
    assert (draft.due, draft.pause(5.0)) == (None, 0.0)


def test_the_beginning_is_due_an_interval_after_the_first_text() -> None:
    draft = written("one ")
    draft.hear(TextDelta("two"), 0.7)
    assert draft.due == 1.0
    assert show_next(draft, 1.0) == Change(0, "one two", None)


def test_an_edit_is_due_an_interval_after_the_request_before_it() -> None:
    draft = written("one")
    change = draft.next_change()
    assert change is not None
    draft.began(change, 1.0)
    draft.made(change, "m0", 1.4)
    draft.hear(TextDelta(" two"), 1.5)
    assert draft.due == 2.4
    assert draft.next_change() == Change(0, "one two", "m0")


def test_nothing_is_due_when_all_is_shown() -> None:
    draft = written("one")
    show_next(draft, 1.0)
    assert show_next(draft, 2.0) is None
    assert draft.due is None


def test_text_without_a_letter_is_not_shown() -> None:
    draft = written(" \n")
    assert draft.next_change() is None


def test_what_follows_a_tool_call_takes_the_place_of_what_came_before() -> None:
    draft = written("let me see")
    show_next(draft)
    draft.hear(TOOL, 1.0)
    assert draft.next_change() is None  # shown for as long as the tools run
    draft.hear(TextDelta("it is 7"), 2.0)
    assert draft.next_change() == Change(0, "it is 7", "m0")


def test_a_long_text_continues_in_a_new_message() -> None:
    draft = written("one two three four", limit=10)
    assert [show_next(draft), show_next(draft), show_next(draft)] == [
        Change(0, "one two", None),
        Change(1, "three four", None),
        None,
    ]


def test_messages_that_are_too_many_are_told() -> None:
    draft = written("one two three four", limit=10)
    show_next(draft), show_next(draft)
    assert list(draft.surplus("short")) == ["m1"]
    assert list(draft.surplus(" ")) == ["m0", "m1"]


def test_a_change_that_may_have_failed_is_made_again() -> None:
    draft = written("one")
    show_next(draft)
    draft.hear(TextDelta(" two"), 1.0)
    change = draft.next_change()
    assert change is not None
    draft.began(change, 2.0)
    assert list(draft.changes("one")) == [Change(0, "one", "m0")]


def test_a_draft_that_holds_is_due_when_it_may_go_on() -> None:
    draft = written("one")
    draft.hold(30.0)
    assert (draft.due, draft.pause(10.0)) == (30.0, 20.0)


def test_a_draft_that_is_given_up_is_never_due() -> None:
    draft = written("one")
    draft.is_given_up = True
    assert draft.due is None


@given(st.lists(st.tuples(TEXT, st.integers(0, 3), st.booleans()), max_size=40), st.integers(8, 60))
def test_whatever_was_shown_the_text_is_at_its_end(deltas: list[tuple[str, int, bool]], limit: int) -> None:
    """However the text grows, begins anew, and is shown or not meanwhile."""
    draft, shown, text = ReplyDraft(limit, 1.0), dict[str, str](), ""
    for delta, steps, calls_a_tool in deltas:
        draft.hear(TextDelta(delta), 0.0)
        text += delta
        for _ in range(steps):
            change = show_next(draft)
            if change is not None:
                shown[change.posted or f"m{change.index}"] = change.text
        if calls_a_tool:
            draft.hear(TOOL, 0.0)
            text = ""
    for change in list(draft.changes(text)):
        draft.began(change, 0.0)
        draft.made(change, change.posted or f"m{change.index}", 0.0)
        shown[change.posted or f"m{change.index}"] = change.text
    for surplus in draft.surplus(text):
        del shown[surplus]
    assert list(shown.values()) == split_text(text, limit)
    assert not list(draft.changes(text))
