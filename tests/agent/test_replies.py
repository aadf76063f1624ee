"""Replies that are no answer, what a run may spend, and what a failed run tells of itself; whole and streamed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest

from definable.agent import Agent, RunOutput, UsageLimits
from definable.errors import (
    ConfigurationError,
    ContentFiltered,
    ContextWindowExceeded,
    EmptyReply,
    MaxTurnsExceeded,
    ModelError,
    ModelResponseError,
    OutputTruncated,
    RunError,
    RunTimeout,
    UsageLimitExceeded,
)
from definable.model import Message, ModelReply, ModelRequest, OfflineModel, ToolCall, Usage
from definable.testing import VIRTUAL_BACKENDS
from definable.testing import run as run_virtual

pytestmark = pytest.mark.anyio

Run: TypeAlias = Callable[..., Awaitable[RunOutput]]

DELETE = (ToolCall("delete", "{}", id="d"),)


@pytest.fixture(params=["whole", "streamed"])
def run(request: pytest.FixtureRequest) -> Run:
    async def streamed(agent: Agent, input: str, **arguments: Any) -> RunOutput:
        async with agent.arun_stream(input, **arguments) as events:
            async for _ in events:
                pass
        assert events.output is not None
        return events.output

    async def whole(agent: Agent, input: str, **arguments: Any) -> RunOutput:
        return await agent.arun(input, **arguments)

    return whole if request.param == "whole" else streamed


class Deletions:
    def __init__(self) -> None:
        self.made: list[str] = []

    def delete(self, pattern: str = "*") -> str:
        self.made.append(pattern)
        return "deleted"


NO_ANSWER = {
    "length": (OutputTruncated, 1),
    "content_filter": (ContentFiltered, 1),
    "error": (ModelResponseError, 2),
    "MALFORMED_FUNCTION_CALL": (ModelResponseError, 2),
}
"""By finish reason: the error, and how many requests are made before it."""


@pytest.mark.parametrize("reason", sorted(NO_ANSWER))
async def test_no_tool_of_a_reply_that_is_not_whole_is_called(run: Run, reason: str) -> None:
    error, requests = NO_ANSWER[reason]
    deletions = Deletions()
    model = OfflineModel(ModelReply(tool_calls=DELETE, finish_reason=reason, usage=Usage(3, 2)))
    agent = Agent(model, tools=[deletions.delete])
    with pytest.raises(error) as raised:
        await run(agent, "clean up", session_id="s")
    assert deletions.made == []
    assert len(model.requests) == requests
    assert raised.value.usage == Usage(3 * requests, 2 * requests)
    assert raised.value.messages == (Message("user", "clean up"),)
    assert await agent.sessions.load("s") is None


@pytest.mark.parametrize("reason", sorted(NO_ANSWER))
async def test_half_a_text_is_no_answer(run: Run, reason: str) -> None:
    with pytest.raises(NO_ANSWER[reason][0]):
        await run(Agent(OfflineModel(ModelReply("The answer is", finish_reason=reason))), "go")


@pytest.mark.parametrize(
    "bad",
    [ModelReply(), ModelReply(" \n"), ModelReply(finish_reason="tool_calls"), ModelReply(finish_reason="error")],
    ids=["empty", "blank", "tool_calls-without", "error"],
)
async def test_what_may_help_is_asked_for_once_more(
    run: Run, bad: ModelReply, caplog: pytest.LogCaptureFixture
) -> None:
    model = OfflineModel([bad, "here I am"])
    output = await run(Agent(model), "go")
    assert output.content == "here I am"
    assert output.finish_reason == "stop"
    assert output.messages == (Message("user", "go"), Message("assistant", "here I am"))
    assert model.requests[0] == model.requests[1]
    assert "asked once more" in caplog.text


async def test_a_second_empty_reply_fails_and_the_session_goes_on(run: Run) -> None:
    model = OfflineModel(["one", "", "", "two"])
    agent = Agent(model)
    await run(agent, "1", session_id="s")
    with pytest.raises(EmptyReply):
        await run(agent, "lost", session_id="s")
    assert (await run(agent, "2", session_id="s")).content == "two"
    assert [message.content for message in model.requests[-1].messages] == ["1", "one", "2"]


async def test_a_text_that_was_shown_is_not_written_twice() -> None:
    model = OfflineModel([ModelReply("half of", finish_reason="error"), "the whole"])
    with pytest.raises(ModelResponseError):
        async with Agent(model).arun_stream("go") as events:
            _ = [event async for event in events]
    assert len(model.requests) == 1


async def test_an_empty_reply_in_the_last_turn_is_said(run: Run) -> None:
    with pytest.raises(EmptyReply):
        await run(Agent(OfflineModel(""), max_turns=1), "go")


# --- a conversation that is longer than the model takes


class SmallWindow(OfflineModel):
    """Takes `limit` characters of messages, and answers."""

    def __init__(self, limit: int) -> None:
        super().__init__(self.answer)
        self.limit = limit

    def answer(self, request: ModelRequest) -> str:
        size = sum(len(message.content) for message in request.messages)
        if size > self.limit:
            raise ContextWindowExceeded(f"{size} characters, the limit is {self.limit}")
        return "x" * 50


async def test_a_full_context_window_does_not_end_a_session(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    model = SmallWindow(400)
    agent = Agent(model, "Be brief.")
    for number in range(20):
        output = await run(agent, f"tell me more {number}".ljust(50), session_id="s")
        assert output.content == "x" * 50
    assert len(model.requests) < 40
    assert all(request.messages[0].role == "system" for request in model.requests)
    assert all(request.messages[1].role == "user" for request in model.requests)
    warnings = [record for record in caplog.records if "more than offline takes" in record.getMessage()]
    assert len(warnings) == len(model.requests) - 20 > 0


async def test_what_is_left_is_kept_when_half_is_still_too_much(run: Run) -> None:
    model = SmallWindow(2_000)
    agent = Agent(model)
    for number in range(8):
        await run(agent, f"{number}".ljust(100), session_id="s")
    model.limit = 200
    failures = 0
    with anyio.fail_after(60):
        while True:
            try:
                await run(agent, "go on", session_id="s")
                break
            except ContextWindowExceeded:
                failures += 1
    assert failures == 2  # 16 messages, 8, 4: of those 2 fit


async def test_a_first_message_that_is_too_long_fails_at_once(run: Run) -> None:
    model = SmallWindow(10)
    with pytest.raises(ContextWindowExceeded):
        await run(Agent(model), "y" * 100)
    assert len(model.requests) == 1


async def test_a_function_makes_the_history_shorter(run: Run) -> None:
    async def summarize(messages: tuple[Message, ...]) -> list[Message]:
        return [Message("user", f"[summary of {len(messages)}]"), Message("assistant", "I see."), *messages[-2:]]

    model = SmallWindow(320)
    agent = Agent(model, history=summarize)
    for number in range(4):
        await run(agent, f"{number}".ljust(50), session_id="s")
    assert [message.content.strip() for message in model.requests[-1].messages] == [
        "[summary of 6]",
        "I see.",
        "2",
        "x" * 50,
        "3",
    ]
    session = await agent.sessions.load("s")
    assert session is not None
    assert session.messages[0].content == "[summary of 6]"


async def test_a_function_that_fails_is_logged_and_the_oldest_half_is_dropped(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(messages: tuple[Message, ...]) -> list[Message]:
        raise LookupError("no summary")

    agent = Agent(SmallWindow(320), history=fail)
    for number in range(6):
        await run(agent, f"{number}".ljust(50), session_id="s")
    assert "no summary" in caplog.text


# --- what a run may spend


def count() -> int:
    return 1


CALLS_FOREVER = ModelReply(tool_calls=(ToolCall("count"), ToolCall("count")), usage=Usage(10, 5))


@pytest.mark.parametrize(
    ("limits", "requests", "calls"),
    [
        (UsageLimits(requests=2), 2, 4),
        (UsageLimits(tool_calls=3), 2, 2),
        (UsageLimits(input_tokens=15), 2, 2),
        (UsageLimits(output_tokens=4), 1, 0),
    ],
    ids=["requests", "tool_calls", "input_tokens", "output_tokens"],
)
async def test_a_run_ends_at_its_limits(run: Run, limits: UsageLimits, requests: int, calls: int) -> None:
    model = OfflineModel(CALLS_FOREVER)
    with pytest.raises(UsageLimitExceeded, match="its limit is") as raised:
        await run(Agent(model, tools=[count], usage_limits=limits), "go")
    assert len(model.requests) == requests
    assert len(raised.value.tool_calls) == calls
    assert raised.value.usage == Usage(10 * requests, 5 * requests)


async def test_an_answer_that_has_come_is_one_whatever_it_cost(run: Run) -> None:
    model = OfflineModel(ModelReply("dear", usage=Usage(1_000, 1_000)))
    limits = UsageLimits(requests=1, input_tokens=10, output_tokens=10, tool_calls=1)
    assert (await run(Agent(model, usage_limits=limits), "go")).content == "dear"


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "10"])
def test_a_limit_is_a_whole_number(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="output_tokens"):
        UsageLimits(output_tokens=wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("tools", count), ("tools", "count"), ("output_mode", "json"), ("history", 5), ("usage_limits", {"requests": 5})],
)
def test_what_no_run_can_be_made_with_is_refused_at_once(name: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {name: wrong}
    with pytest.raises(ConfigurationError, match=name):
        Agent("offline", **arguments)


def test_no_tools_may_be_none() -> None:
    assert Agent("offline", tools=None).run("hi").content == "hi"


# --- what a failed run tells


def failing(kind: str) -> tuple[type[RunError], Agent]:
    if kind == "turns":
        return MaxTurnsExceeded, Agent(OfflineModel(CALLS_FOREVER), tools=[count], max_turns=1)
    return ModelError, Agent(OfflineModel([CALLS_FOREVER, ModelError("down")]), tools=[count])


def assert_told(failure: RunError) -> None:
    assert failure.usage == Usage(10, 5)
    assert [(call.name, call.result) for call in failure.tool_calls] == [("count", "1")] * 2
    assert [message.role for message in failure.messages] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize("kind", ["turns", "model"])
async def test_a_failed_run_tells_what_it_has_spent_and_done(run: Run, kind: str) -> None:
    error, agent = failing(kind)
    told: list[Exception] = []
    agent.on_error(lambda context, error: told.append(error))
    with pytest.raises(error) as raised:
        await run(agent, "go")
    assert told == [raised.value]
    assert_told(raised.value)


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_a_run_that_took_too_long_tells_it_too(backend: str) -> None:
    async def count() -> int:
        return 1

    async def hang() -> None:
        await anyio.sleep_forever()

    calls = ModelReply(tool_calls=(ToolCall("count"), ToolCall("hang"), ToolCall("count")), usage=Usage(10, 5))
    with pytest.raises(RunTimeout) as raised:
        run_virtual(Agent(OfflineModel(calls), tools=[count, hang], run_timeout=90).arun, "go", backend=backend)
    assert_told(raised.value)


async def test_reasoning_and_provider_data_are_kept_and_given_back(run: Run) -> None:
    signed = ToolCall("count", id="c", provider_data={"extra_content": {"google": {"thought_signature": "s"}}})
    reply = ModelReply("", (signed,), reasoning="I must count.", provider="google", provider_data={"blocks": [1]})
    model = OfflineModel([reply, ModelReply("1", reasoning="Done.", provider="google"), "2"])
    agent = Agent(model, tools=[count])
    output = await run(agent, "count", session_id="s")
    assert output.content == "1"
    await run(agent, "again", session_id="s")
    for request in model.requests[1:]:
        asked = request.messages[1]
        assert (asked.reasoning, asked.provider, asked.provider_data) == ("I must count.", "google", {"blocks": [1]})
        assert asked.tool_calls == (signed,)
    assert model.requests[2].messages[3].reasoning == "Done."


async def test_what_a_provider_would_refuse_goes_into_no_history(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    calls = (
        ToolCall("count", '{"text": "He said "hi""}', id="a"),
        ToolCall("multi_tool_use.parallel", "null", id="a"),
        ToolCall("", "", id=""),
    )
    model = OfflineModel([ModelReply(tool_calls=calls), "done"])
    output = await run(Agent(model, tools=[count]), "go")
    asked, *results = model.requests[1].messages[1:]
    assert [call.name for call in asked.tool_calls] == ["count", "multi_tool_use_parallel", "unnamed_tool"]
    assert [call.arguments for call in asked.tool_calls] == [
        '{"invalid_arguments": "{\\"text\\": \\"He said \\"hi\\"\\"}"}',
        "{}",
        "{}",
    ]
    ids = [call.id for call in asked.tool_calls]
    assert ids[0] == "a"
    assert len({*ids}) == 3
    assert all(ids)
    assert [message.tool_call_id for message in results] == ids == [execution.id for execution in output.tool_calls]
    assert [execution.arguments for execution in output.tool_calls] == [call.arguments for call in calls]
    assert [execution.error is None for execution in output.tool_calls] == [False] * 3
