"""Answers that fail although their status is 200, that are cut off, or that keep the client waiting for nothing."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import anyio
import pytest
from loopback.openai_server import BrokenStream, Completion, Page, Problem

from definable.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelResponseError,
    ModelTimeoutError,
)
from definable.model import Message, ModelReply, ModelRequest, OpenAIChat
from definable.model.reply_stream import ReplyStream

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))


def raw(*events: Any, done: bool = True) -> BrokenStream:
    """A stream of these events: objects, or lines as they are."""
    lines = [event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n" for event in events]
    return BrokenStream(Completion(""), 0, "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode())


def text(content: str, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}], **fields}


async def read(model: OpenAIChat) -> ModelReply:
    async with model.stream(HI) as deltas:
        seen = [delta async for delta in deltas]
    assert seen[-1].reply is not None
    assert "".join(delta.text for delta in seen) == seen[-1].reply.content
    return seen[-1].reply


ERRORS = [
    ({"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500}, "500: out of memory"),
    ({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "overloaded"}, "overloaded"),
    ({"detail": "Internal Server Error"}, "Internal Server Error"),
    ({"message": "upstream"}, "upstream"),
    ({"type": "error", "error": {"message": "busy"}}, "busy"),
    ({"error": {"message": "busy", "code": "502"}}, "502: busy"),
    ({"error": "busy"}, "busy"),
    ({"choices": [{"index": 0, "delta": {}, "error": {"message": "busy", "code": 502}}]}, "502: busy"),
    ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}, "choices": None}, "login fail"),
    ("event: error\ndata: timed out\n\n", "timed out"),
    ('event: error\ndata: {"message": "timed out", "code": 500}\n\n', "500: timed out"),
    ('error: {"code": 500, "message": "slot gone"}\n\n', "500: slot gone"),
    ('{"error": {"message": "a bare line"}}\n', "a bare line"),
]


@pytest.mark.parametrize("done", [False, True])
async def test_an_error_in_the_middle_fails_whatever_its_form(provider: Any, done: bool) -> None:
    async with provider() as (server, model):
        for event, words in ERRORS:
            server.play(raw(text("Hello "), event, done=done))
            with pytest.raises(ModelResponseError, match=words):
                await read(model)


async def test_an_error_instead_of_a_whole_answer_fails(provider: Any) -> None:
    async with provider(max_retries=0) as (server, model):
        for body in ({"detail": "words"}, {"object": "error", "message": "words"}, {"error": "words", "choices": None}):
            server.play(Page(json.dumps(body).encode(), content_type="application/json"))
            with pytest.raises(ModelResponseError, match="words"):
                await model.reply(HI)


@pytest.mark.parametrize("events", [[text("Hello ")], [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]])
async def test_done_alone_completes_nothing(provider: Any, events: list[Any]) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(raw(*events, {"odd": "object"}))
        with pytest.raises(ModelResponseError, match=r'without finish_reason; it holds \{"odd": "object"\}'):
            await read(model)


async def test_a_call_in_a_stream_without_an_end_is_no_reply(provider: Any) -> None:
    call = {"index": 0, "id": "x", "function": {"name": "delete", "arguments": '{"pattern": "*"}'}}
    async with provider() as (server, model):
        server.play(raw({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}))
        with pytest.raises(ModelResponseError, match="without finish_reason"):
            await read(model)


HARMLESS = {
    "an error of code 0": [text("Hel", error={"code": 0, "message": ""}), text("lo", "stop")],
    "a ping": [{"type": "ping"}, text("Hello"), text("", "stop")],
    "no choices": [{"choices": [], "prompt_filter_results": []}, text("Hello"), {"choices": None}, text("", "stop")],
    "empty events": ["data:\n\n", text("Hello"), "data: \n\n", ": comment\n\n", text("", "stop")],
    "one line break": [f"data: {json.dumps(text('Hello'))}\ndata: {json.dumps(text('', 'stop'))}\n\n"],
    "no last line break": [text("Hello"), f"data: {json.dumps(text('', 'stop'))}\n"],
    "spaces around [DONE]": [text("Hello", "stop"), "data:  [DONE] \n\n"],
    "reason null in words": [text("Hel", "null"), text("lo", ""), text("", "stop")],
    "content in parts": [text("x") | {"choices": [{"delta": {"content": ["Hel", {"text": "lo"}]}}]}, text("", "stop")],
    "odd usage": [text("Hello", usage=7), text("", "stop", usage={"prompt_tokens": 5.0})],
    "odd model": [text("Hello", model={"name": "x"}), text("", "stop")],
    "delta null": [text("Hello"), {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}],
}


async def test_what_is_merely_odd_does_no_harm(provider: Any) -> None:
    async with provider() as (server, model):
        for oddity, events in HARMLESS.items():
            server.play(raw(*events, done=False))
            reply = await read(model)
            assert (reply.content, reply.finish_reason) == ("Hello", "stop"), oddity


async def test_usage_that_a_later_chunk_leaves_out_is_kept(provider: Any) -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    async with provider() as (server, model):
        server.play(raw(text("Hello", usage=usage), text("", "stop", usage={}), {"choices": [], "usage": None}))
        used = (await read(model)).usage
    assert (used.input_tokens, used.output_tokens, used.cached_tokens, used.reasoning_tokens) == (9, 7, 4, 5)


FINISH_REASONS = {
    "eos": "stop",
    "end_turn": "stop",
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "model_length": "length",
    "SAFETY": "content_filter",
    "sensitive": "content_filter",
    "insufficient_system_resource": "error",
    "function_call_filter: MALFORMED_FUNCTION_CALL": "error",
    "tool_calls": "stop",  # without one
    "Something_New": "Something_New",
}


async def test_every_finish_reason_reaches_the_reply(provider: Any) -> None:
    async with provider() as (server, model):
        for said, reason in FINISH_REASONS.items():
            server.play(*[Completion("The ans", finish_reason=said)] * 2)
            for reply in (await read(model), await model.reply(HI)):
                assert (reply.content, reply.finish_reason) == ("The ans", reason)


# --- waiting


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}

SIGNS = {"comment": ": keep-alive\n\n", "empty event": "data:\n\n", "no choice": {"choices": []}, "role": ROLE}


@pytest.mark.parametrize(("after", "sign"), [(0, "comment"), (0, "role"), (2, "comment"), (2, "no choice")])
async def test_signs_of_life_are_no_answer(provider: Any, after: int, sign: str) -> None:
    line = SIGNS[sign] if isinstance(SIGNS[sign], str) else f"data: {json.dumps(SIGNS[sign])}\n\n"
    async with provider(timeout=0.6) as (server, model):
        server.play(BrokenStream(Completion("one two"), after, ("again", str(line).encode())))
        with pytest.raises(ModelTimeoutError, match="nothing new for"):
            await read(model)


@pytest.mark.parametrize(
    "delta",
    [{"reasoning_content": "x"}, {"tool_calls": [{"index": 0, "function": {"arguments": " "}}]}],
    ids=["reasoning", "arguments"],
)
async def test_a_wait_begins_anew_with_what_brings_something(
    provider: Any, delta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []
    held: deque[str] = deque()
    more = ReplyStream._more  # pyright: ignore[reportPrivateUsage] - the wait itself

    async def one_at_a_time(stream: ReplyStream) -> Iterator[str]:
        deadlines.append(anyio.current_effective_deadline())
        if not held:
            events = await more(stream)
            held.extend(events)
            if not held:
                return events
        return iter((held.popleft(),))

    monkeypatch.setattr(ReplyStream, "_more", one_at_a_time)
    piece = {"choices": [{"index": 0, "delta": delta}]}
    async with provider(timeout=10) as (server, model):
        server.play(raw(text("one "), piece, *SIGNS.values(), piece, text("two", "stop")))
        await read(model)
    begun, first, second, *_ = [deadline for deadline, _ in groupby(deadlines[1:])]
    assert begun < first < second, "each piece is something new"
    assert deadlines.count(first) >= 4, "no sign of life is"


@pytest.mark.parametrize("then", ["disconnect", b'data: {"error": {"message": "busy", "code": 503}}\n\n'])
async def test_a_failure_behind_nothing_but_the_role_is_tried_again(provider: Any, then: Any) -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("x"), 1, then), Completion("second try"))
        assert (await read(model)).content == "second try"


async def test_a_failure_behind_text_is_not_tried_again(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two"), 2, "disconnect"))
        with pytest.raises(ModelConnectionError):
            await read(model)
        assert len(server.received) == 1


async def test_a_passing_error_inside_a_200_is_tried_again(provider: Any) -> None:
    async with provider() as (server, model):
        for kind in ("overloaded_error", "server_error", "429"):
            body = json.dumps({"error": {"message": "busy", "type": kind, "code": kind}}).encode()
            for _ in range(2):
                server.play(Page(body, content_type="application/json"), Completion("second try"))
            for reply in (await read(model), await model.reply(HI)):
                assert reply.content == "second try"


async def test_an_answer_without_choices_is_tried_again(provider: Any) -> None:
    async with provider() as (server, model):
        empty = Page(b'{"choices": []}', content_type="application/json")
        server.play(empty, Completion("second try"), empty, Completion("second try"))
        for reply in (await model.reply(HI), await read(model)):
            assert reply.content == "second try"


@pytest.mark.parametrize("events", [[], [{"choices": []}], [ROLE]], ids=["nothing", "no choices", "the role"])
@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_that_ends_before_it_brought_anything_is_tried_again(
    provider: Any, events: list[Any], done: bool
) -> None:
    async with provider() as (server, model):
        server.play(raw(*events, done=done), Completion("second try"))
        assert (await read(model)).content == "second try"


# --- what the words of a refusal mean


REFUSALS: list[tuple[Problem, type[ModelError]]] = [
    (Problem(400, "This model's maximum context length is 8192 tokens."), ContextWindowExceeded),
    (Problem(400, "no", code="context_length_exceeded"), ContextWindowExceeded),
    (Problem(413, "Request too large"), ContextWindowExceeded),
    (Problem(500, "the request exceeds the available context size"), ContextWindowExceeded),
    (Problem(400, "The input token count (9) exceeds the maximum number of tokens"), ContextWindowExceeded),
    (Problem(400, "The response was filtered", code="content_filter"), ContentFiltered),
    (Problem(400, "Content Exists Risk"), ContentFiltered),
    (Problem(429, "too many tokens a minute", code="insufficient_quota"), ModelRateLimitError),
]


async def test_what_a_refusal_is_about_is_told_by_its_class(provider: Any) -> None:
    async with provider() as (server, model):
        for problem, expected in REFUSALS:
            server.play(problem)
            with pytest.raises(expected) as caught:
                await model.reply(HI)
            assert caught.value.status == problem.status


async def test_googles_pause_stands_in_the_body(provider: Any) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}
    body = [{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [detail]}}]
    async with provider() as (server, model):
        server.play(Page(json.dumps(body).encode(), 429, "application/json"))
        with pytest.raises(ModelRateLimitError) as caught:
            await model.reply(HI)
        assert caught.value.retry_after == 37


async def test_the_words_of_the_provider_behind_a_router_are_told(provider: Any) -> None:
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": "prompt is too long"}}
    async with provider() as (server, model):
        server.play(Page(json.dumps({"error": error}).encode(), 400, "application/json"))
        with pytest.raises(ContextWindowExceeded, match=r"Provider returned error \(prompt is too long\)"):
            await model.reply(HI)


async def test_a_key_that_is_a_word_does_not_garble_messages(provider: Any) -> None:
    async with provider() as (server, _):
        keys = iter(["x", "none", "ollama"])
        model = OpenAIChat("gpt-4o", lambda: next(keys), server.url)
        for server.key in ("x", "none", "ollama"):
            server.play(Problem(404, "model 'x-none' not found, try: ollama pull x"))
            with pytest.raises(ModelError, match="model 'x-none' not found, try: ollama pull x"):
                await model.reply(HI)
        await model.aclose()
