"""What is cut from a history, and what never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.session.history import bounded
from definable.model import Message, ToolCall

IDS = st.sampled_from(["a", "b", "c"])

CALLS = st.lists(IDS, max_size=3).map(lambda ids: tuple([ToolCall("tool", "{}", id=id) for id in ids]))

WEIRD_HISTORIES = st.lists(
    st.one_of(
        st.just(Message("user", "?")),
        st.just(Message("system", "!")),
        st.builds(lambda calls: Message("assistant", "", calls), CALLS),
        st.builds(lambda id: Message("tool", "result", tool_call_id=id), IDS),
        st.just(Message("tool", "of nothing")),
    ),
    max_size=40,
).map(tuple)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Message, ...]:
    """What a run leaves: a question, any number of calls with their results, an answer."""
    messages = [Message("user", draw(st.text(max_size=3)))]
    for turn in range(draw(st.integers(0, 3))):
        calls = tuple([ToolCall("tool", "{}", id=f"{turn}.{n}") for n in range(draw(st.integers(1, 3)))])
        messages.append(Message("assistant", "", calls))
        messages += [Message("tool", "result", tool_call_id=call.id) for call in calls]
    return (*messages, Message("assistant", "answer"))


def pairs(messages: tuple[Message, ...]) -> list[tuple[int, int]]:
    """Where every call stands that was answered, with each of its results; straight from the definition."""
    return [
        (call, result)
        for result, message in enumerate(messages)
        if message.role == "tool" and message.tool_call_id is not None
        for call in [
            max(
                (i for i in range(result) if any(c.id == message.tool_call_id for c in messages[i].tool_calls)),
                default=None,
            )
        ]
        if call is not None
    ]


def may_begin_at(messages: tuple[Message, ...], index: int) -> bool:
    return messages[index].role == "user" and not any(call < index <= result for call, result in pairs(messages))


@given(WEIRD_HISTORIES, st.integers(1, 45))
def test_the_longest_history_that_fits_is_kept(messages: tuple[Message, ...], limit: int) -> None:
    kept = bounded(messages, limit)
    cut = len(messages) - len(kept)
    assert kept == messages[cut:]
    if len(messages) <= limit:
        assert cut == 0
        return
    allowed = [index for index in range(len(messages)) if may_begin_at(messages, index)]
    fitting = [index for index in allowed if len(messages) - index <= limit]
    assert cut == (fitting[0] if fitting else allowed[-1] if allowed else 0)


@given(st.lists(exchanges(), min_size=1, max_size=12), st.integers(1, 60))
def test_a_history_of_runs_stays_one(runs: list[tuple[Message, ...]], limit: int) -> None:
    messages = tuple([message for run in runs for message in run])
    kept = bounded(messages, limit)
    assert kept[0].role == "user"
    assert kept[-1] is messages[-1]
    assert len(kept) <= max(limit, len(runs[-1]))
    open_calls: set[str] = set()
    for message in kept:
        assert message.role == "tool" or not open_calls
        if message.role == "tool":
            assert message.tool_call_id is not None
            open_calls.remove(message.tool_call_id)
        open_calls |= {call.id for call in message.tool_calls}
    assert not open_calls


@given(WEIRD_HISTORIES, st.integers(1, 45))
def test_cutting_again_changes_nothing(messages: tuple[Message, ...], limit: int) -> None:
    once = bounded(messages, limit)
    assert bounded(once, limit) == once


def test_a_user_who_speaks_between_a_call_and_its_result_does_not_part_them() -> None:
    messages = (
        Message("user", "1"),
        Message("assistant", "", (ToolCall("tool", "{}", id="x"),)),
        Message("user", "2"),
        Message("tool", "result", tool_call_id="x"),
        Message("user", "3"),
        Message("assistant", "answer"),
    )
    assert bounded(messages, 4) == messages[4:]
    assert bounded(messages, 2) == messages[4:]


def test_a_greeting_before_the_first_question_stays_while_there_is_room() -> None:
    messages = (Message("assistant", "Hello!"), Message("user", "hi"), Message("assistant", "How are you?"))
    assert bounded(messages, 3) == messages
    assert bounded(messages, 2) == messages[1:]


@pytest.mark.parametrize("limit", [1, 2])
def test_the_newest_exchange_is_kept_whole(limit: int) -> None:
    messages = (Message("user", "1"), Message("assistant", "a"), Message("user", "2"), *[Message("assistant", "b")] * 3)
    assert bounded(messages, limit) == messages[2:]
