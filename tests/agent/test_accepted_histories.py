"""Whatever a run leaves in a session, the next request is one that every provider takes; so is what was stored before.

The rules are those of the loopback server: what OpenAI refuses, what each other provider adds (`provider_rules`), and
what is asked of all: arguments are a JSON object, an assistant says something, ids are not used twice in a message.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback.openai_rules import NAME, check
from loopback.provider_rules import MORE_FIELDS, PROVIDERS, REASONING, check_provider

from definable.agent import Agent, UsageLimits
from definable.agent.session import MemorySessionStore, Session
from definable.agent.session.history import bounded, newest_half, repaired
from definable.errors import ContextWindowExceeded, ModelResponseError, RunError
from definable.model import Message, ModelReply, ModelRequest, OfflineModel, ToolCall
from definable.model.openai.profiles import profile_of
from definable.model.openai.request import encode_request

TEXTS = st.sampled_from(["", " ", "\n", "yes", "{}", "null", "multi_tool_use.parallel", "zählen", "x" * 70])

NAMES = st.sampled_from(["count", "fail", "look.up", "", "no_such_tool", "x" * 70])

ARGUMENTS = st.sampled_from(
    [
        "",
        " ",
        "{}",
        ' {"a": 1}',
        "null",
        "[1]",
        '"text"',
        "{",
        '{"a": NaN}',
        '{"a": "He said "hi""}',
        '{"a": "\\ud800"}',
        "1",
    ]
)

IDS = st.sampled_from(["", "a", "b", "c"])

CALLS = st.lists(st.builds(ToolCall, NAMES, ARGUMENTS, IDS), max_size=3).map(tuple)

REASONS = st.sampled_from(["stop", "tool_calls", "length", "content_filter", "error", "MALFORMED_FUNCTION_CALL"])

WRITERS = st.sampled_from(["moonshot", "deepseek", "google", "openai"])

REPLIES = st.one_of(
    st.builds(lambda text, calls: ModelReply(text, calls), TEXTS, CALLS),
    st.builds(lambda calls, name: ModelReply("", calls, reasoning="So...", provider=name), CALLS, WRITERS),
    st.builds(lambda text, calls, reason: ModelReply(text, calls, finish_reason=reason), TEXTS, CALLS, REASONS),
    st.sampled_from([ModelResponseError("broke off"), ContextWindowExceeded("too long")]),
)

MESSAGES = st.lists(
    st.one_of(
        st.just(Message("user", "?")),
        st.builds(lambda text, calls: Message("assistant", text, calls), TEXTS, CALLS),
        st.builds(lambda text, id: Message("tool", text, tool_call_id=id), TEXTS, st.none() | IDS),
    ),
    max_size=12,
).map(tuple)
"""What an older version, or a program of one's own, may have stored."""


PROFILES = {rules: profile_of(profile, None, id) for rules, (profile, id) in PROVIDERS.items()}
"""By whose rules a request is judged."""


def assert_accepted(request: ModelRequest, provider: str = "openai") -> None:
    """Refuse what a provider would."""
    _, model = PROVIDERS[provider]
    body = encode_request(model, request, {}, PROFILES[provider], stream=False)
    headers = {"authorization": "Bearer k", "content-type": "application/json"}
    more = MORE_FIELDS.get(provider, REASONING)
    models = frozenset({model})
    checked: Any = check("POST", "/v1/chat/completions", headers, body, key="k", models=models, more=more)
    check_provider(checked, provider)
    assert [message["role"] for message in checked["messages"]].count("system") <= 1
    for message in checked["messages"]:
        if message["role"] != "assistant":
            continue
        calls = message.get("tool_calls", [])
        assert calls or (message["content"] or "").strip()
        assert len({call["id"] for call in calls}) == len(calls)
        for call in calls:
            assert call["id"]
            assert NAME.fullmatch(call["function"]["name"])
            arguments = json.loads(call["function"]["arguments"], parse_constant=pytest.fail)
            assert isinstance(arguments, dict)
            json.dumps(arguments, ensure_ascii=False).encode()  # strict parsers refuse half of a surrogate pair


class Strict(OfflineModel):
    """A model behind a provider that refuses what it does."""

    def __init__(self, script: list[Any], provider: str) -> None:
        super().__init__(script)
        self.rules = provider
        self.profile = PROFILES[provider]

    async def reply(self, request: ModelRequest) -> ModelReply:
        assert_accepted(request, self.rules)
        return await super().reply(request)


def count() -> int:
    return 1


def fail() -> None:
    raise LookupError("nothing there")


async def talk(agent: Agent, times: int, *, streamed: bool) -> None:
    for number in range(times):
        try:
            if streamed:
                async with agent.arun_stream(f"{number}", session_id="s") as events:
                    async for _ in events:
                        pass
            else:
                await agent.arun(f"{number}", session_id="s")
        except RunError:
            pass  # what it has left behind is what this is about


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=40, deadline=None)
@given(
    replies=st.lists(REPLIES, max_size=12),
    stored=MESSAGES,
    mode=st.sampled_from(["auto", "tool", "prompt"]),
    typed=st.booleans(),
    streamed=st.booleans(),
    provider=st.sampled_from(sorted(PROVIDERS)),
)
def test_every_request_of_a_session_is_accepted(
    backend: str,
    replies: list[Any],
    stored: tuple[Message, ...],
    mode: Any,
    typed: bool,
    streamed: bool,
    provider: str,
) -> None:
    async def main() -> None:
        store = MemorySessionStore()
        await store.save(Session("s", messages=stored))
        agent = Agent(
            Strict([*replies, "done", "done"], provider),
            "Be brief.",
            [count, fail],
            output_type=list[int] if typed else None,
            output_mode=mode,
            sessions=store,
            max_turns=4,
            max_history=10,
            usage_limits=UsageLimits(tool_calls=6),
        )
        with anyio.fail_after(60):
            await talk(agent, len(replies) + 2, streamed=streamed)

    anyio.run(main, backend=backend)


@given(MESSAGES)
def test_repairing_changes_what_is_wrong_and_no_more(messages: tuple[Message, ...]) -> None:
    once = repaired(messages)
    assert_accepted(ModelRequest((*once, Message("user", "next"))))
    assert repaired(once) is once
    assert [each for each in once if each.role == "user"] == [each for each in messages if each.role == "user"]
    said = [each.content for each in messages if each.role == "assistant" and each.content.strip()]
    assert [each.content for each in once if each.role == "assistant" and each.content.strip()] == said
    if all(each.role == "user" for each in messages):
        assert once == messages


@given(MESSAGES.map(repaired))
def test_half_of_a_history_is_accepted_as_well(messages: tuple[Message, ...]) -> None:
    half = newest_half(messages)
    assert half == messages[len(messages) - len(half) :]
    assert len(half) < len(messages) or not messages
    assert_accepted(ModelRequest((*half, Message("user", "next"))))
    assert_accepted(ModelRequest((*bounded(messages, 5), Message("user", "next"))))


@given(MESSAGES, MESSAGES, st.integers(1, 12))
def test_of_a_history_that_was_repaired_only_what_is_new_is_looked_at(
    before: tuple[Message, ...], added: tuple[Message, ...], limit: int
) -> None:
    history = repaired(before)
    grown = history.with_run(added)
    assert grown[: len(history)] == history
    assert grown == repaired(tuple(grown)), "it is not as every provider takes it"
    assert bounded(grown, limit) == bounded(tuple(grown), limit)
    kept = bounded(grown, limit)
    assert repaired(kept) is kept


def test_an_answer_that_came_late_is_put_behind_its_call() -> None:
    call = ToolCall("count", id="c")
    late = Message("tool", "1", tool_call_id="c")
    said = (Message("user", "1"), Message("assistant", "", (call,)), Message("user", "2"), late)
    assert repaired(said) == (said[0], said[1], late, said[2])
