"""Tool calls in the pieces in which compatible servers send them: what is called is what the model said, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from loopback.openai_server import BrokenStream, Completion, Page

from definable.model import Message, ModelReply, ModelRequest, OpenAIChat

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))


def piece(index: Any = 0, id: Any = None, name: str | None = None, arguments: Any = None) -> dict[str, Any]:
    fields = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in fields.items() if value is not None}


def chunk(*calls: Any, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    fields = delta | ({"tool_calls": list(calls)} if calls else {})
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def stream(*chunks: Any) -> BrokenStream:
    """An answer of these chunks, and [DONE]."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in (*chunks, "[DONE]")]
    return BrokenStream(Completion(""), 0, "".join([f"data: {text}\n\n" for text in texts]).encode())


async def read(model: OpenAIChat) -> ModelReply:
    async with model.stream(HI) as deltas:
        *_, last = [delta async for delta in deltas]
    assert last.reply is not None
    return last.reply


END = chunk(finish_reason="tool_calls")
A, B = '{"city": "a"}', '{"city": "b"}'


PUT_TOGETHER: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "Gemini: whole calls, all at index 0 without ids": (
        [chunk(piece(0, "", "weather", A)), chunk(piece(0, "", "weather", B))],
        [("weather", A), ("weather", B)],
    ),
    "two tools at index 0 without ids": (
        [chunk(piece(0, "", "weather", A)), chunk(piece(0, "", "clock", B))],
        [("weather", A), ("clock", B)],
    ),
    "neither index nor id": (
        [chunk(piece(None, None, "weather", A)), chunk(piece(None, None, "clock", B))],
        [("weather", A), ("clock", B)],
    ),
    "index 0, told apart by ids": (
        [chunk(piece(0, "x1", "weather", A)), chunk(piece(0, "x2", "weather", B))],
        [("weather", A), ("weather", B)],
    ),
    "a new id in every piece": (
        [
            chunk(piece(0, "x1", "weather", "")),
            chunk(piece(0, "x2", None, A[:6])),
            chunk(piece(0, "x3", None, A[6:])),
        ],
        [("weather", A)],
    ),
    "a new id and the name in every piece": (
        [
            chunk(piece(0, "x1", "weather", "")),
            chunk(piece(0, "x2", "weather", A[:6])),
            chunk(piece(0, "x3", "weather", A[6:])),
            chunk(piece(0, "x4", "weather", "")),
        ],
        [("weather", A)],
    ),
    "the name in every piece": (
        [
            chunk(piece(0, "x1", "weather", A[:6])),
            chunk(piece(0, None, "weather", A[6:])),
            chunk(piece(0, None, "weather", "")),
        ],
        [("weather", A)],
    ),
    "name in pieces": ([chunk(piece(0, "x1", "wea", "")), chunk(piece(0, None, "ther", A))], [("weather", A)]),
    "an empty object before the arguments": (
        [chunk(piece(0, "x1", "weather", "{}")), chunk(piece(0, None, None, A))],
        [("weather", A)],
    ),
    "an empty object before the arguments in pieces": (
        [chunk(piece(0, "x1", "weather", "{}")), *[chunk(piece(0, "x1", None, letter)) for letter in A]],
        [("weather", A)],
    ),
    "all arguments once more at the end": (
        [
            chunk(piece(0, "x1", "weather", A[:6])),
            chunk(piece(0, None, None, A[6:])),
            chunk(piece(0, "x1", "weather", A)),
        ],
        [("weather", A)],
    ),
    "arguments as an object": ([chunk(piece(0, "x1", "weather", {"city": "a"}))], [("weather", A)]),
    "PHP's empty object": ([chunk(piece(0, "x1", "weather", []))], [("weather", "{}")]),
    "encoded twice": ([chunk(piece(0, "x1", "weather", json.dumps(A)))], [("weather", A)]),
    "index a text, id a number": ([chunk(piece("0", 17, "weather", A))], [("weather", A)]),
    "indexes from 1 on": (
        [chunk(piece(1, "x1", "weather", A)), chunk(piece(2, "x2", "clock", B))],
        [("weather", A), ("clock", B)],
    ),
    "null for a function and for a call": (
        [chunk(piece(0, "x1", "weather", A)), chunk({"index": 0, "function": None}), chunk(None)],
        [("weather", A)],
    ),
    "no calls yet": ([chunk(content="hm", tool_calls=[]), chunk(piece(0, "x1", "weather", A))], [("weather", A)]),
    "what came before tool calls": (
        [chunk(function_call={"name": "weather", "arguments": A[:6]}), chunk(function_call={"arguments": A[6:]})],
        [("weather", A)],
    ),
    "Copilot: calls in a second choice": (
        [
            {"choices": [{"index": 0, "delta": {"content": "I look."}, "finish_reason": "tool_calls"}]},
            {"choices": [{"index": 1, "delta": {"tool_calls": [piece(0, "x1", "weather", A)]}}]},
            {"choices": [{"index": 1, "delta": {}, "finish_reason": "tool_calls"}]},
        ],
        [("weather", A)],
    ),
}


async def test_calls_are_put_together(provider: Any) -> None:
    async with provider() as (server, model):
        for dialect, (chunks, called) in PUT_TOGETHER.items():
            server.play(stream(*chunks, END))
            reply = await read(model)
            assert [(call.name, call.arguments) for call in reply.tool_calls] == called, dialect
            assert reply.finish_reason == "tool_calls", dialect
            assert len({call.id for call in reply.tool_calls}) == len(called), dialect


@pytest.mark.parametrize("reason", ["length", "content_filter", "error", "max_tokens", "something_new"])
async def test_a_call_that_was_cut_off_is_none(provider: Any, reason: str) -> None:
    """With its defaults it would do what the model never asked for: `delete(pattern="*")`."""
    async with provider() as (server, model):
        for arguments in ("", '{"pattern": "/tm', None):
            calls = [piece(0, "x1", "keep", '{"pattern": "a"}'), piece(1, "x2", "delete", arguments)]
            body = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": reason}]}
            server.play(stream(*[chunk(call) for call in calls], chunk(finish_reason=reason)))
            server.play(Page(json.dumps(body).encode(), content_type="application/json"))
            for reply in (await read(model), await model.reply(HI)):
                assert [call.name for call in reply.tool_calls] == ["keep"]
                assert reply.finish_reason == {"max_tokens": "length"}.get(reason, reason)


async def test_a_call_without_arguments_is_whole_once_the_model_is_done(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(stream(chunk(piece(0, "x1", "now", "")), END))
        [call] = (await read(model)).tool_calls
        assert (call.name, call.arguments, call.id) == ("now", "{}", "x1")


async def test_copilots_whole_answer_of_two_choices_is_one_reply(provider: Any) -> None:
    choices = [
        {"index": 0, "finish_reason": "tool_calls", "message": {"content": "I look."}},
        {"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": [piece(None, "x1", "weather", A)]}},
    ]
    async with provider() as (server, model):
        server.play(Page(json.dumps({"choices": choices}).encode(), content_type="application/json"))
        reply = await model.reply(HI)
    assert (reply.content, [call.arguments for call in reply.tool_calls]) == ("I look.", [A])


async def test_a_second_choice_adds_no_text(provider: Any) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": None}]}
    async with provider() as (server, model):
        server.play(stream(chunk(content="yes"), other, chunk(finish_reason="stop")))
        assert (await read(model)).content == "yes"


async def test_minimax_ends_its_stream_with_the_whole_message(provider: Any) -> None:
    message = {"content": "Hello there", "reasoning_content": "hm", "tool_calls": [piece(0, "x1", "weather", A)]}
    last = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    async with provider() as (server, model):
        pieces = [chunk(reasoning_content="hm"), chunk(content="Hello "), chunk(content="there")]
        server.play(stream(*pieces, chunk(piece(0, "x1", "weather", A)), last))
        reply = await read(model)
    assert (reply.content, reply.reasoning) == ("Hello there", "hm")
    assert [call.arguments for call in reply.tool_calls] == [A]
