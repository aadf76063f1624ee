"""`OfflineModel`: echo, scripts, streaming, and what it records."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import trio.testing

from definable.errors import ConfigurationError, ModelError, ModelRateLimitError
from definable.model import Message, Model, ModelReply, ModelRequest, OfflineModel, ToolCall, Usage, offline

pytestmark = pytest.mark.anyio


def ask(text: str = "hello there") -> ModelRequest:
    return ModelRequest((Message("system", "Be kind."), Message("user", text)))


async def read(model: OfflineModel, request: ModelRequest) -> tuple[list[str], ModelReply]:
    async with model.stream(request) as deltas:
        *texts, last = [delta async for delta in deltas]
    assert last.reply is not None and not last.text
    assert all(delta.reply is None for delta in texts)
    return [delta.text for delta in texts], last.reply


def test_it_is_a_model() -> None:
    assert isinstance(OfflineModel(), Model)


async def test_it_echoes_the_last_user_message() -> None:
    text = "  some text,\n exactly  "
    messages = (Message("user", "first"), Message("user", text), Message("tool", "3", tool_call_id="c"))
    reply = await OfflineModel().reply(ModelRequest(messages))
    assert (reply.content, reply.model, reply.finish_reason) == (text, "offline", "stop")


async def test_without_a_user_message_the_echo_is_empty() -> None:
    assert (await OfflineModel().reply(ModelRequest((Message("system", "x"),)))).content == ""


async def test_usage_counts_words() -> None:
    assert (await OfflineModel().reply(ask("one two three"))).usage == Usage(5, 3)


async def test_a_script_is_played_one_item_a_request() -> None:
    call = ToolCall("add", {"a": 1, "b": 2})
    model = OfflineModel(["text", ModelReply(tool_calls=(call,)), ModelReply("own", usage=Usage(70, 7))])
    first, second, third = [await model.reply(ask()) for _ in range(3)]
    assert first.content == "text"
    assert (second.tool_calls, second.finish_reason) == ((call,), "tool_calls")
    assert third.usage == Usage(70, 7)
    with pytest.raises(ModelError, match="script is exhausted: it has no answer for request 4"):
        await model.reply(ask())


async def test_tool_calls_may_be_a_list() -> None:
    calls: Any = [ToolCall("add", {"a": 1})]
    assert (await OfflineModel(ModelReply(tool_calls=calls)).reply(ask())).tool_calls == tuple(calls)


@pytest.mark.parametrize("error", [ModelRateLimitError("slow down"), ModelRateLimitError, ValueError])
async def test_exceptions_in_a_script_are_raised(error: Any) -> None:
    model = OfflineModel([error, error, "fine"])
    with pytest.raises(error if isinstance(error, type) else type(error)):
        await model.reply(ask())
    with pytest.raises(error if isinstance(error, type) else type(error)):
        await read(model, ask())
    assert (await model.reply(ask())).content == "fine"


async def test_an_exception_that_answers_every_request_keeps_no_frames_of_those_before() -> None:
    model = OfflineModel(ValueError("boom"))
    depths: list[int] = []
    for _ in range(3):
        with pytest.raises(ValueError, match="boom") as caught:
            await model.reply(ModelRequest(()))
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1


async def test_callables_answer_from_the_request() -> None:
    def sync(request: ModelRequest) -> str:
        return request.messages[-1].content.upper()

    async def later(request: ModelRequest) -> ModelReply:
        await anyio.lowlevel.checkpoint()
        return ModelReply(sync(request)[::-1])

    def failing(request: ModelRequest) -> Exception:
        return ValueError(request.messages[-1].content)

    model = OfflineModel([sync, later, failing])
    assert (await model.reply(ask("abc"))).content == "ABC"
    assert (await model.reply(ask("abc"))).content == "CBA"
    with pytest.raises(ValueError, match="abc"):
        await model.reply(ask("abc"))
    assert [(await OfflineModel(sync).reply(ask("x"))).content for _ in range(2)] == ["X", "X"]


async def test_a_single_answer_answers_everything() -> None:
    model = OfflineModel("always")
    assert [(await model.reply(ask())).content for _ in range(3)] == ["always"] * 3


async def test_endless_and_failing_iterables() -> None:
    def script() -> Iterator[str]:
        yield "one"
        raise LookupError("the script's own")

    endless = OfflineModel(itertools.cycle(["a", "b"]))
    assert [(await endless.reply(ask())).content for _ in range(3)] == ["a", "b", "a"]
    model = OfflineModel(script())
    await model.reply(ask())
    with pytest.raises(LookupError, match="the script's own"):
        await model.reply(ask())
    with pytest.raises(ModelError, match="exhausted"):
        await model.reply(ask())


@pytest.mark.parametrize("script", [[7], 7, ["fine", None], {"a": object()}.values()])
async def test_what_cannot_be_an_answer_is_refused(script: Any) -> None:
    with pytest.raises((ConfigurationError, ModelError), match="OfflineModel cannot answer with"):
        model = OfflineModel(script)
        await model.reply(ask())


@pytest.mark.parametrize("latency", [-1, float("nan"), float("inf")])
def test_a_wrong_latency_is_refused(latency: float) -> None:
    with pytest.raises(ConfigurationError, match="latency"):
        OfflineModel(latency=latency)


@pytest.mark.parametrize("text", ["one two  three", " leading and trailing ", "line\nbreaks\n\n", "", "   "])
async def test_a_stream_is_the_reply_in_words(text: str) -> None:
    texts, reply = await read(OfflineModel(), ask(text))
    assert "".join(texts) == reply.content == text
    assert texts == (await read(OfflineModel(), ask(text)))[0]


async def test_concurrent_requests_get_the_script_in_the_order_in_which_they_ask() -> None:
    model = OfflineModel([str(number) for number in range(3)])
    got: dict[int, str] = {}

    async def one(number: int) -> None:
        got[number] = (await model.reply(ask())).content

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
    assert got == {number: str(number) for number in range(3)}


async def test_requests_are_recorded_as_they_were() -> None:
    model = OfflineModel()
    messages = [Message("user", "hi")]
    await model.reply(ModelRequest(messages))
    messages.append(Message("assistant", "later"))
    assert model.requests == [ModelRequest((Message("user", "hi"),))]


async def test_the_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MAX_RECORDED_REQUESTS", 3)
    model = OfflineModel()
    for number in range(5):
        await model.reply(ask(str(number)))
    assert [request.messages[-1].content for request in model.requests] == ["2", "3", "4"]


async def test_the_record_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MAX_RECORDED_BYTES", 100_000)
    model = OfflineModel()
    for number in range(100):
        await model.reply(ask(f"{number}" + "x" * 20_000))
        assert len(model.requests) <= 5
        assert model.requests[-1].messages[-1].content.startswith(f"{number}x")
    await model.reply(ask("x" * 200_000))
    assert len(model.requests) == 1
    model.requests.clear()
    for number in range(4):
        await model.reply(ask(str(number)))
    assert len(model.requests) == 4


def test_latency_is_waited_for_in_the_loops_time() -> None:
    async def main() -> float:
        model = OfflineModel(latency=60)
        start = anyio.current_time()
        await model.reply(ask())
        await read(model, ask())
        return anyio.current_time() - start

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == 120


@pytest.mark.parametrize("latency", [0, 3600])
async def test_it_can_be_cancelled(latency: float) -> None:
    with anyio.move_on_after(0) as scope:
        await OfflineModel(latency=latency).reply(ask())
    assert scope.cancelled_caught
