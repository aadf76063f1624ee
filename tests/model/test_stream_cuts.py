"""Whatever pieces a stream is cut into, and wherever it breaks: no tool is called with what the model did not say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback.openai_server import BrokenStream, Completion, OpenAIServer

from definable.agent import Agent
from definable.errors import ModelError, ModelResponseError
from definable.model import ModelReply, OpenAIChat
from definable.model.failure import ProviderError
from definable.model.openai.response import ReplyAssembler
from definable.model.sse import SSEDecoder

Call: TypeAlias = tuple[str, str]

DIALECTS = (
    "OpenAI",
    "id in every piece",
    "name in every piece",
    "a new id in every piece",
    "whole calls at index 0",
    "whole calls, no index",
    "whole calls, told apart by ids",
    "an empty object first",
    "all once more at the end",
)
NO_IDS = ("whole calls at index 0", "whole calls, no index")

ENDS = ("whole", "cut", "done", "error", "event: error", "length", "content_filter", "strange_reason")

ARGUMENTS = st.dictionaries(st.sampled_from(["pattern", "why"]), st.text(max_size=8) | st.just("}{"), max_size=2)
CALLS = st.lists(st.tuples(st.sampled_from(["keep", "delete"]), ARGUMENTS.map(json.dumps)), max_size=3)
CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=8)
TEXTS = st.text(max_size=20).filter(lambda text: not text.lstrip().startswith(("<", "[")))


def pieces(text: str, sizes: Sequence[int]) -> Iterator[str]:
    """The text in pieces of these sizes, over and over."""
    at = number = 0
    while at < len(text):
        size = sizes[number % len(sizes)]
        yield text[at : at + size]
        at, number = at + size, number + 1


def call_pieces(number: int, call: Call, dialect: str, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A call as a server of this dialect sends it."""
    name, arguments = call
    first = {"index": number, "id": f"x{number}"}
    if dialect in NO_IDS:
        index = {"index": 0} if dialect == NO_IDS[0] else {}
        yield {**index, "id": "", "function": {"name": name, "arguments": arguments}}
        return
    if dialect == "whole calls, told apart by ids":
        yield {"index": 0, "id": f"x{number}", "function": {"name": name, "arguments": arguments}}
        return
    empty = "{}" if dialect == "an empty object first" else ""
    yield {**first, "function": {"name": name, "arguments": empty}}
    for at, piece in enumerate(pieces(arguments, sizes)):
        function = {"arguments": piece} | ({"name": name} if dialect == "name in every piece" else {})
        ids = {"id in every piece": f"x{number}", "a new id in every piece": f"y{number}_{at}"}
        yield {"index": number, "id": ids.get(dialect), "function": function}
    if dialect == "all once more at the end":
        yield {**first, "function": {"name": name, "arguments": arguments}}


def events(text: str, calls: Sequence[Call], dialect: str, sizes: Sequence[int]) -> list[str]:
    """The events of a whole reply but for its end."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces(text, sizes)]
    for number, call in enumerate(calls):
        deltas += [{"tool_calls": [piece]} for piece in call_pieces(number, call, dialect, sizes)]
    return [f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n" for delta in deltas]


def stream(begin: Sequence[str], end: str) -> bytes:
    """These events, and this end."""

    def finish(reason: str) -> str:
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': {}, 'finish_reason': reason}]})}\n\n"

    last = {
        "whole": finish("stop") + "data: [DONE]\n\n",
        "cut": "",
        "done": "data: [DONE]\n\n",
        "error": 'data: {"object": "error", "message": "gone"}\n\ndata: [DONE]\n\n',
        "event: error": "event: error\ndata: gone\n\ndata: [DONE]\n\n",
    }
    return (": sign of life\n\n".join(begin) + last.get(end, finish(end) + "data: [DONE]\n\n")).encode()


def read(body: bytes, sizes: Sequence[int]) -> tuple[str, ModelReply]:
    """The text that was handed out, and the reply; raises what a broken stream raises."""
    decoder, assembler = SSEDecoder(), ReplyAssembler(think_tags=True)
    bounds = [0]
    while bounds[-1] < len(body):
        bounds.append(bounds[-1] + 7 * sizes[len(bounds) % len(sizes)])
    data = [event for begin, end in pairwise(bounds) for event in decoder.feed(body[begin:end])]
    texts: list[str] = []
    for event in data:
        texts.append(assembler.add(event))
        if assembler.is_over:
            break
    if not assembler.is_complete:
        raise ModelResponseError("broke off")
    texts.append(assembler.end())
    return "".join(texts), assembler.reply()


@settings(max_examples=60)
@given(TEXTS, CALLS, st.sampled_from(DIALECTS), st.sampled_from(ENDS), CUTS, st.data())
def test_a_reply_holds_no_call_that_the_model_did_not_make(
    text: str, calls: list[Call], dialect: str, end: str, sizes: list[int], data: st.DataObject
) -> None:
    begin = events(text, calls, dialect, sizes)
    if end != "whole":
        begin = begin[: data.draw(st.integers(0, len(begin)))]
    try:
        handed_out, reply = read(stream(begin, end), sizes)
    except (ModelResponseError, ProviderError):
        assert end in ("cut", "done", "error", "event: error")
        return
    got = [(call.name, call.arguments) for call in reply.tool_calls]
    assert handed_out == reply.content
    assert set(got) <= set(calls) and len(got) <= len(calls)
    if end == "whole":
        assert reply.content == text
        assert set(got) == set(calls)
        assert dialect in NO_IDS or got == calls
    else:
        assert text.startswith(reply.content)
        assert reply.finish_reason == end


@settings(max_examples=8)
@given(CALLS, st.sampled_from(DIALECTS), st.sampled_from(ENDS), CUTS, st.data())
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_agent_calls_no_tool_with_what_the_model_did_not_say(
    backend: str, calls: list[Call], dialect: str, end: str, sizes: list[int], data: st.DataObject
) -> None:
    begin = events("hm", calls, dialect, sizes)
    if end != "whole":
        begin = begin[: data.draw(st.integers(0, len(begin)))]
    called: list[tuple[str, dict[str, str]]] = []

    def keep(pattern: str = "*", why: str = "") -> None:
        called.append(("keep", {"pattern": pattern, "why": why}))

    def delete(pattern: str = "*", why: str = "") -> None:
        called.append(("delete", {"pattern": pattern, "why": why}))

    async def main() -> None:
        async with OpenAIServer().running() as server:
            model = OpenAIChat("gpt-4o", server.key, server.url, max_retries=0)
            server.play(*[BrokenStream(Completion(""), 0, stream(begin, end)), *[Completion("done")] * 3])
            with anyio.fail_after(30):
                try:
                    async with Agent(model, tools=[keep, delete]).arun_stream("hi") as run:
                        async for _ in run:
                            pass
                except ModelError:
                    assert end != "whole"
                await model.aclose()

    anyio.run(main, backend=backend)
    meant = [(name, {"pattern": "*", "why": ""} | json.loads(arguments)) for name, arguments in calls]
    assert all(each in meant for each in called)
    assert end == "whole" or not called, "none of a reply that was cut off"
    if end == "whole":
        assert all(each in called for each in meant)
