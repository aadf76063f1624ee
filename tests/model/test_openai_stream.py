"""Streamed replies of `OpenAIChat`, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from loopback.openai_server import BrokenStream, Completion, Fault, Page, Problem

from definable.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
)
from definable.model import Message, ModelDelta, ModelReply, ModelRequest, OpenAIChat, ToolCall, Usage

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))


async def read(model: OpenAIChat) -> list[ModelDelta]:
    async with model.stream(HI) as deltas:
        return [delta async for delta in deltas]


def whole(deltas: Sequence[ModelDelta]) -> ModelReply:
    *texts, last = deltas
    assert last.reply is not None and all(delta.reply is None and delta.text for delta in texts)
    assert "".join(delta.text for delta in texts) == last.reply.content
    return last.reply


async def test_text_comes_in_deltas_and_the_last_one_holds_the_reply(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion("one two three", usage=(5, 3)))
        deltas = await read(model)
        assert [delta.text for delta in deltas] == ["one ", "two ", "three", ""]
        assert whole(deltas) == ModelReply(
            "one two three", (), Usage(5, 3), "gpt-4o-2024-08-06", "stop", provider="openai-compatible"
        )
        assert server.received[0].body["stream_options"] == {"include_usage": True}


async def test_interleaved_parallel_tool_calls_are_assembled(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion("ok", calls=[("c1", "add", '{"a": 1, "b": 22}'), ("c2", "mul", '{"x": 3}')]))
        reply = whole(await read(model))
        assert reply.tool_calls == (ToolCall("add", '{"a": 1, "b": 22}', "c1"), ToolCall("mul", '{"x": 3}', "c2"))
        assert reply.finish_reason == "tool_calls"


async def test_an_emoji_may_come_in_two_halves(provider: Any) -> None:
    """A server that counts in UTF-16, as JavaScript does, cuts between them."""
    halves = ("a \ud83d", "\ude00 b", " \ud83d", " c")
    pieces = ('{"a": "\ud83d', '\ude00"}')
    deltas = [{"content": half} for half in halves] + [
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "add", "arguments": piece}}]} for piece in pieces
    ]
    events = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    events += ['{"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}']
    async with provider() as (server, model):
        raw = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
        server.play(BrokenStream(Completion(""), 1, raw))
        reply = whole(await read(model))
        assert reply.content == "a 😀 b \ufffd c"
        assert reply.tool_calls == (ToolCall("add", '{"a": "😀"}', "c1"),)


async def test_whole_tool_calls_in_one_chunk_are_told_apart_without_ids(provider: Any) -> None:
    calls = [{"function": {"name": name, "arguments": '{"a": 1}'}} for name in ("add", "mul")]
    chunk = {"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("x"), 1, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()))
        reply = whole(await read(model))
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("add", '{"a": 1}'), ("mul", '{"a": 1}')]


async def test_a_server_that_omits_usage_is_fine(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion("x", usage=None))
        assert whole(await read(model)).usage == Usage()


async def test_a_server_that_answers_whole_is_read_as_one_delta(provider: Any) -> None:
    async with provider() as (server, model):
        body = json.dumps(Completion("not streamed").whole()).encode()
        server.play(Page(body, content_type="application/json"))
        assert [delta.text for delta in await read(model)] == ["not streamed", ""]


async def test_nothing_follows_the_last_delta(provider: Any) -> None:
    async with provider() as (_, model):
        async with model.stream(HI) as deltas:
            _ = [delta async for delta in deltas]
            with pytest.raises(StopAsyncIteration):
                await anext(deltas)


@pytest.mark.parametrize("then", ["end", "disconnect"])
async def test_a_stream_cut_off_is_an_error_after_its_text(provider: Any, then: Any) -> None:
    expected = ModelResponseError if then == "end" else ModelConnectionError
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two three"), 3, then))
        texts: list[str] = []
        with pytest.raises(expected, match="broke"):
            async with model.stream(HI) as deltas:
                texts += [delta.text async for delta in deltas]
                raise AssertionError("the stream ended")
        assert len(server.received) == 1, "not tried again once it has begun"


async def test_the_text_before_a_break_is_delivered(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two three"), 3, "end"))
        async with model.stream(HI) as deltas:
            assert [(await anext(deltas)).text, (await anext(deltas)).text] == ["one ", "two "]
            with pytest.raises(ModelResponseError, match="without finish_reason"):
                await anext(deltas)
            with pytest.raises(StopAsyncIteration):
                await anext(deltas)


@pytest.mark.parametrize("then", ["end", "disconnect"])
async def test_a_reply_that_is_complete_survives_a_missing_done(provider: Any, then: Any) -> None:
    completion = Completion("one two")
    async with provider() as (server, model):
        server.play(BrokenStream(completion, len(list(completion.chunks(False))), then))
        assert whole(await read(model)).content == "one two"


async def test_a_stall_is_a_timeout(provider: Any) -> None:
    async with provider(timeout=0.4) as (server, model):
        server.play(BrokenStream(Completion("one two"), 2, "stall"))
        with pytest.raises(ModelTimeoutError, match=r"sent nothing new for 0\.4 s"):
            await read(model)


@pytest.mark.parametrize("raw", [b"data: {broken\n\n", b"data: []\n\n", b'data: {"choices": 3}\n\n', b"data: \xff\n\n"])
async def test_a_malformed_chunk_is_an_error(provider: Any, raw: bytes) -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two"), 2, raw))
        with pytest.raises(ModelResponseError, match="no chat completion"):
            await read(model)


@pytest.mark.parametrize(
    ("error", "expected", "status"),
    [
        ({"message": "overloaded", "type": "server_error", "code": None}, ModelResponseError, None),
        ({"message": "too fast", "type": "requests", "code": "rate_limit_exceeded"}, ModelRateLimitError, 429),
        ({"message": "who?", "code": "invalid_api_key"}, ModelAuthenticationError, 401),
        ({"message": "too long", "type": "invalid_request_error"}, ModelRequestError, 400),
        ({"message": "upstream", "code": 502}, ModelResponseError, 502),
        ({"message": "odd", "code": ["odd"], "type": {}}, ModelResponseError, None),
        ("plain words", ModelResponseError, None),
    ],
)
async def test_an_error_chunk_is_raised_as_its_kind(
    provider: Any, error: Any, expected: type[ModelError], status: int | None
) -> None:
    raw = f"data: {json.dumps({'error': error})}\n\n".encode()
    words = error if isinstance(error, str) else error["message"]
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two"), 2, raw))
        with pytest.raises(expected, match=words) as caught:
            await read(model)
        assert caught.value.status == status
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "failure",
    [
        Fault("disconnect"),
        Problem(503, "busy"),
        Problem(429, "slow down", headers={"retry-after": "0"}),
        BrokenStream(Completion("x"), 0, "disconnect"),
        BrokenStream(Completion("x"), 0, b'data: {"error": {"message": "busy", "code": 503}}\n\n'),
    ],
)
async def test_a_failure_before_the_first_chunk_is_tried_again(provider: Any, failure: Any) -> None:
    async with provider() as (server, model):
        server.play(failure, Completion("second try"))
        assert whole(await read(model)).content == "second try"
        assert len(server.received) == 2


async def test_an_empty_stream_is_an_error(provider: Any) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(BrokenStream(Completion("x"), 0, "end"), BrokenStream(Completion("x"), 0, b"data: [DONE]\n\n"))
        for _ in range(2):
            with pytest.raises(ModelResponseError, match="before its first chunk"):
                await read(model)


async def test_leaving_early_closes_the_connection(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two three"), 3, "stall"))
        async with model.stream(HI) as deltas:
            async for _ in deltas:
                break
        await server.idle()
        assert whole(await read(model)).content == "ok"


async def test_an_error_of_the_reader_goes_through_untouched(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two three"), 3, "stall"))
        with pytest.raises(ZeroDivisionError):
            async with model.stream(HI) as deltas:
                async for _ in deltas:
                    _ = 1 / 0
        await server.idle()


@pytest.mark.parametrize("answer", [Fault("hang"), BrokenStream(Completion("one two"), 2, "stall")])
async def test_cancelled_before_the_headers_or_in_the_middle_it_hangs_up(provider: Any, answer: Any) -> None:
    async with provider() as (server, model):
        await model.reply(HI)
        server.play(answer)
        with anyio.move_on_after(0.1) as scope:
            await read(model)
        assert scope.cancelled_caught
        await server.idle()
        assert whole(await read(model)).content == "ok"


async def test_many_streams_at_once(provider: Any) -> None:
    text = " ".join(f"w{number}" for number in range(50))
    contents: list[str] = []

    async with provider() as (server, model):
        server.play(*[Completion(text)] * 50)

        async def one() -> None:
            contents.append(whole(await read(model)).content)

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)
    assert contents == [text] * 50
