"""`FunctionModel`: a function, sync or async, whole or in pieces, answers as a model."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from definable.agent import Agent, TextDelta
from definable.errors import ConfigurationError, ModelError, ModelRateLimitError, ModelResponseError, RunTimeout
from definable.model import FunctionModel, Message, Model, ModelReply, ModelRequest, ToolCall, Usage

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("system", "Be kind."), Message("user", "hi")))


async def texts_of(model: FunctionModel) -> list[str]:
    async with model.stream(HI) as deltas:
        *texts, last = [delta async for delta in deltas]
    assert last.reply is not None
    assert last.reply.content == "".join(delta.text for delta in texts)
    return [delta.text for delta in texts]


def shout(messages: Sequence[Message]) -> str:
    return messages[-1].content.upper()


async def whisper(messages: Sequence[Message]) -> str:
    await anyio.lowlevel.checkpoint()
    return f"({messages[-1].content})"


async def spell(messages: Sequence[Message]) -> AsyncGenerator[str]:
    for letter in messages[-1].content:
        await anyio.lowlevel.checkpoint()
        yield letter


class Speaker:
    async def __call__(self, messages: Sequence[Message]) -> AsyncGenerator[str]:
        async for letter in spell(messages):
            yield letter


@pytest.mark.parametrize(
    ("function", "texts"),
    [
        pytest.param(shout, ["HI"], id="sync"),
        pytest.param(whisper, ["(hi)"], id="async"),
        pytest.param(spell, ["h", "i"], id="generator"),
        pytest.param(Speaker(), ["h", "i"], id="object"),
        pytest.param(lambda messages: spell(messages), ["h", "i"], id="lambda"),
        pytest.param(lambda messages: whisper(messages), ["(hi)"], id="lambda-async"),
    ],
)
async def test_every_kind_of_function_answers(function: Any, texts: list[str]) -> None:
    model = FunctionModel(function)
    assert isinstance(model, Model)
    assert await texts_of(model) == texts
    reply = await model.reply(HI)
    assert (reply.content, reply.model, reply.finish_reason) == ("".join(texts), model.id, "stop")


async def test_a_sync_function_runs_beside_the_event_loop() -> None:
    threads: list[int] = []
    model = FunctionModel(lambda messages: threads.append(threading.get_ident()) or "ok", id="blocking")
    assert (await model.reply(HI)).content == "ok"
    assert threads != [threading.get_ident()]


async def test_a_reply_brings_tool_calls_and_usage() -> None:
    def ask(messages: Sequence[Message]) -> ModelReply | str:
        if messages[-1].role == "tool":
            return f"It is {messages[-1].content}."
        return ModelReply("let me see", (ToolCall("add", {"first": 2, "second": 3}),), Usage(7, 2))

    def add(first: int, second: int) -> int:
        return first + second

    output = await Agent(FunctionModel(ask), tools=[add]).arun("2 + 3?")
    assert output.content == "It is 5."
    assert (output.usage, output.model) == (Usage(7, 2), "ask")


async def test_a_generator_may_end_with_its_reply() -> None:
    async def ask(messages: Sequence[Message]) -> AsyncGenerator[str | ModelReply]:
        yield "It is "
        yield "five"
        yield ModelReply(usage=Usage(1, 2), model="five-1")

    reply = await FunctionModel(ask).reply(HI)
    assert reply == ModelReply("It is five", (), Usage(1, 2), "five-1", "stop")


async def test_text_is_handed_on_when_it_comes() -> None:
    go_on = anyio.Event()

    async def two(messages: Sequence[Message]) -> AsyncGenerator[str]:
        yield "one "
        await go_on.wait()
        yield "two"

    async with Agent(FunctionModel(two)).arun_stream("hi") as events:
        texts: list[str] = []
        async for event in events:
            if isinstance(event, TextDelta):
                texts.append(event.text)
                go_on.set()
    assert texts == ["one ", "two"]


async def test_leaving_early_closes_the_generator() -> None:
    closed: list[str] = []

    async def endless(messages: Sequence[Message]) -> AsyncGenerator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.append("closed")

    async with FunctionModel(endless).stream(HI) as deltas:
        async for _ in deltas:
            break
    assert closed == ["closed"]


async def test_a_deadline_cuts_it_off() -> None:
    async def sleep(messages: Sequence[Message]) -> str:
        await anyio.sleep_forever()
        return ""

    with pytest.raises(RunTimeout):
        await Agent(FunctionModel(sleep), run_timeout=0.05).arun("hi")


async def test_its_failures_are_a_models() -> None:
    def fail(messages: Sequence[Message]) -> str:
        raise ValueError("no luck")

    with pytest.raises(ModelError, match="fail failed: ValueError: no luck") as caught:
        await Agent(FunctionModel(fail)).arun("hi")
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_failure_of_ours_stays_what_it_is() -> None:
    async def busy(messages: Sequence[Message]) -> AsyncGenerator[str]:
        yield "a"
        raise ModelRateLimitError("slow down", retry_after=3)

    with pytest.raises(ModelRateLimitError, match="slow down"):
        await FunctionModel(busy).reply(HI)


async def test_a_group_of_one_is_told_as_that_one() -> None:
    async def fail(messages: Sequence[Message]) -> str:
        async with anyio.create_task_group():
            raise ValueError("within")

    with pytest.raises(ModelError, match="ValueError: within"):
        await FunctionModel(fail).reply(HI)


@pytest.mark.parametrize("answer", [None, 3, b"bytes"], ids=["none", "number", "bytes"])
async def test_what_is_no_text_is_refused(answer: Any) -> None:
    with pytest.raises(ModelResponseError, match="answered with"):
        await FunctionModel(lambda messages: answer, id="odd").reply(HI)


async def test_nothing_may_follow_the_reply() -> None:
    async def chatty(messages: Sequence[Message]) -> AsyncGenerator[str | ModelReply]:
        yield ModelReply("done")
        yield "more"

    with pytest.raises(ModelResponseError, match="went on"):
        await FunctionModel(chatty).reply(HI)


def test_what_cannot_answer_is_refused_at_once() -> None:
    def pieces(messages: Sequence[Message]) -> Iterator[str]:
        yield "x"

    with pytest.raises(ConfigurationError, match="sync generator"):
        FunctionModel(pieces)
    with pytest.raises(ConfigurationError, match="takes a function"):
        FunctionModel("gpt-4o")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="cannot be empty"):
        FunctionModel(shout, id="")
