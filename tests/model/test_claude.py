"""`Claude` on the official SDK, against a strict server over real sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from loopback.anthropic_server import SIGNATURE, AnthropicServer, Fails, Says
from pydantic import SecretStr

from definable.agent import Agent, TextDelta
from definable.errors import (
    ConfigurationError,
    ContextWindowExceeded,
    MissingExtra,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    RunTimeout,
)
from definable.model import (
    Claude,
    Image,
    Message,
    Model,
    ModelReply,
    ModelRequest,
    OutputSchema,
    ToolCall,
    ToolDefinition,
    Usage,
    resolve_model,
)
from definable.model.anthropic.request import encode_request
from definable.model.message import message_from_json, message_to_json

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("system", "Be kind."), Message("user", "hi")))
THINK: Any = {"type": "enabled", "budget_tokens": 2_000}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)


@asynccontextmanager
async def claude(**options: Any) -> AsyncGenerator[tuple[AnthropicServer, Claude]]:
    """A server and a model of it; every connection must be gone once the model is closed."""
    server = AnthropicServer()
    async with server.running():
        model = Claude("claude-sonnet-5", **{"api_key": server.key, "base_url": server.base_url} | options)
        with anyio.fail_after(40):
            yield server, model
            await model.aclose()
            await server.idle()


def kept(reply: ModelReply) -> Message:
    """A reply as it is kept in a session, and read from a store again."""
    message = Message(
        "assistant",
        reply.content,
        reply.tool_calls,
        reasoning=reply.reasoning,
        provider=reply.provider,
        provider_data=reply.provider_data,
    )
    return message_from_json(json.loads(json.dumps(message_to_json(message))))


def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


async def test_it_answers_whole_and_in_pieces() -> None:
    async with claude() as (server, model):
        assert isinstance(model, Model)
        server.play(Says("good morning"), Says("one two three"))
        reply = await model.reply(HI)
        assert (reply.content, reply.model, reply.finish_reason) == (
            "good morning",
            "claude-sonnet-5",
            "stop",
        )
        assert reply.usage == Usage(329, 12, 300)
        async with Agent(model).arun_stream("count") as events:
            texts = [event.text async for event in events if isinstance(event, TextDelta)]
        assert texts == ["one ", "two ", "three"]
        body = server.received[0].body
        assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
        assert (body["max_tokens"], body["stream"]) == (8_192, True)


async def test_it_calls_tools() -> None:
    async with claude() as (server, model):
        calls = [("toolu_1", "add", {"first": 2, "second": 3}), ("toolu_2", "add", {"first": 4, "second": 5})]
        server.play(Says("let me see", calls=calls), Says("5 and 9"))
        output = await Agent(model, tools=[add]).arun("2 + 3, 4 + 5?")
        assert output.content == "5 and 9"
        asked, results = server.received[1].body["messages"][1:]
        assert [block["type"] for block in asked["content"]] == ["text", "tool_use", "tool_use"]
        assert [block["tool_use_id"] for block in results["content"]] == ["toolu_1", "toolu_2"]
        assert server.refused == []


async def test_thinking_goes_back_with_its_signature() -> None:
    async with claude(thinking=THINK) as (server, model):
        calls = [("toolu_1", "add", {"first": 2, "second": 3})]
        server.play(Says("So:", thinking="two and three", redacted="secret", calls=calls), Says("It is 5."))
        tools = (ToolDefinition("add", "Add.", {"type": "object", "properties": {}}),)
        question = Message("user", "2 + 3?")
        reply = await model.reply(ModelRequest((question,), tools))
        assert (reply.content, reply.reasoning, reply.usage.reasoning_tokens) == ("So:", "two and three", 5)
        conversation = (question, kept(reply), Message("tool", "5", tool_call_id="toolu_1"))
        assert (await model.reply(ModelRequest(conversation, tools))).content == "It is 5."
        sent = server.received[1].body["messages"][1]["content"]
        assert [block["type"] for block in sent] == ["redacted_thinking", "thinking", "text", "tool_use"]
        assert sent[1] == {"type": "thinking", "thinking": "two and three", "signature": SIGNATURE}
        assert server.refused == []


async def test_another_providers_thinking_is_not_sent() -> None:
    async with claude() as (server, model):
        other = Message("assistant", "hello", reasoning="hm", provider="deepseek", provider_data={"content": []})
        changed = Message(
            "assistant", "hello", provider="anthropic", provider_data={"content": [{"type": "tool_use", "id": "x"}]}
        )
        await model.reply(
            ModelRequest((Message("user", "hi"), other, Message("user", "so?"), changed, Message("user", "?")))
        )
        assert [message["content"][0].get("text") for message in server.received[0].body["messages"]] == [
            "hi",
            "hello",
            "so?",
            "hello",
            "?",
        ]


async def test_whatever_a_conversation_holds_is_accepted() -> None:
    async with claude() as (server, model):
        images = (Image(data=b"\x89PNG"), Image(url="https://example.com/a.png"))
        conversation = (
            Message("assistant", "I go first"),
            Message("user", "look", images=images),
            Message("user", " "),
            Message("assistant", "", (ToolCall("add", "[1", "call:1"), ToolCall("add", {"first": 1}, "call_2"))),
            Message("tool", "", tool_call_id="call:1"),
            Message("tool", "seen", tool_call_id="call_2", images=images[:1]),
            Message("user", "and?"),
        )
        await model.reply(ModelRequest(conversation))
        assert server.refused == []
        turns = server.received[0].body["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
        assert [block["type"] for block in turns[4]["content"]] == ["tool_result", "tool_result", "text"]
        assert [block["type"] for block in turns[2]["content"]] == ["image", "image", "text", "text"]


async def test_an_id_that_returns_is_sent_once() -> None:
    """Other providers number the calls of each reply anew; the API wants each id once in a conversation."""
    same = ("call:0", "call_0", "call_0_2")
    turn = (
        Message("assistant", "", tuple([ToolCall("add", {"first": n}, id) for n, id in enumerate(same)])),
        *[Message("tool", f"result of {id}", tool_call_id=id) for id in same],
    )
    async with claude() as (server, model):
        await model.reply(ModelRequest((Message("user", "go"), *turn, *turn, Message("user", "and?"))))
        assert server.refused == []
        turns = server.received[0].body["messages"]
        ids = [[block["id"] for block in asked["content"]] for asked in turns if asked["role"] == "assistant"]
        answered = [[block.get("tool_use_id") for block in told["content"]][:3] for told in turns[2::2]]
        assert ids == answered == [["call_0", "call_0_2", "call_0_2_2"], ["call_0_3", "call_0_4", "call_0_2_3"]]


async def test_an_id_that_returns_does_so_in_a_run_too() -> None:
    async with claude() as (server, model):
        calls = Says(calls=[("toolu_1", "add", {"first": 1, "second": 2})])
        thinks = Says(thinking="hm", calls=[("toolu_1", "add", {"first": 3, "second": 4})])
        server.play(calls, thinks, calls, Says("done"))
        output = await Agent(model, tools=[add]).arun("count")
        assert [execution.result for execution in output.tool_calls] == ["3", "7", "3"]
        assert (output.content, server.refused) == ("done", [])


async def test_the_beginning_of_a_conversation_is_cached() -> None:
    async with claude(cache_ttl="1h") as (server, model):
        await model.reply(HI)
        body = server.received[0].body
        mark = {"type": "ephemeral", "ttl": "1h"}
        assert (body["system"], body["cache_control"]) == (
            [{"type": "text", "text": "Be kind.", "cache_control": mark}],
            mark,
        )
    uncached = encode_request("m", HI, {"max_tokens": 1}, provider="anthropic", cache_ttl=None)
    assert "cache_control" not in json.dumps(uncached)


async def test_options_go_through() -> None:
    async with claude(temperature=0.5, max_tokens=100, extra_headers={"x-own": "1"}, extra_body={"top_k": 3}) as (
        server,
        model,
    ):
        schema = OutputSchema("City", {"type": "object", "properties": {}})
        await model.reply(ModelRequest(HI.messages, output_schema=schema))
        received = server.received[0]
        assert (received.body["temperature"], received.body["top_k"], received.headers["x-own"]) == (0.5, 3, "1")
        assert received.body["output_config"] == {"format": {"type": "json_schema", "schema": dict(schema.schema)}}


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
async def test_how_a_reply_ended(stop_reason: str, finish_reason: str) -> None:
    async with claude() as (server, model):
        server.play(Says("text", stop_reason=stop_reason))
        assert (await model.reply(HI)).finish_reason == finish_reason


async def test_a_call_that_was_cut_off_is_none() -> None:
    async with claude() as (server, model):
        events = list(Says("so", calls=[("toolu_1", "wipe", {"pattern": "*.tmp"})]).stream())
        # Cut in the middle of the arguments, with a proper end.
        cut = [
            event for event in events if event["type"] != "content_block_delta" or "partial_json" not in event["delta"]
        ]
        part = {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"pa'},
        }
        cut.insert(-3, part)
        cut[-2]["delta"]["stop_reason"] = "max_tokens"
        raw = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in cut[1:])
        server.play(Says("so", events=1, then=raw.encode()))
        reply = await model.reply(HI)
        assert (reply.content, reply.tool_calls, reply.finish_reason) == ("so", (), "length")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        pytest.param(Fails(400, "invalid_request_error", "no such thing"), ModelRequestError, id="400"),
        pytest.param(
            Fails(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
            ContextWindowExceeded,
            id="too-long",
        ),
        pytest.param(Fails(401, "authentication_error", "invalid x-api-key"), ModelAuthenticationError, id="401"),
        pytest.param(Fails(404, "not_found_error", "model: nobody"), ModelRequestError, id="404"),
        pytest.param(Fails(429, "rate_limit_error", "slow down", {"retry-after": "60"}), ModelRateLimitError, id="429"),
        pytest.param(Fails(500, "api_error", "Internal server error"), ModelResponseError, id="500"),
        pytest.param(Fails(504, "timeout_error", "late"), ModelTimeoutError, id="504"),
        pytest.param(Fails(529, "overloaded_error", "Overloaded"), ModelResponseError, id="529"),
    ],
)
async def test_each_failure_has_its_error(failure: Fails, expected: type[ModelError]) -> None:
    async with claude(max_retries=0) as (server, model):
        server.play(failure)
        with pytest.raises(ModelError, match=failure.message.partition(":")[0]) as caught:
            await model.reply(HI)
        assert (type(caught.value), caught.value.status) == (expected, failure.status)
        if isinstance(caught.value, ModelRateLimitError):
            assert caught.value.retry_after == 60


async def test_an_overloaded_server_is_asked_again() -> None:
    async with claude() as (server, model):
        server.play(*[Fails(529, "overloaded_error", "Overloaded")] * 2, Says("at last"))
        assert (await model.reply(HI)).content == "at last"


OVERLOADED = b"event: error\ndata: " + Fails(529, "overloaded_error", "Overloaded").body() + b"\n\n"


@pytest.mark.parametrize("events", [0, 1], ids=["nothing", "the start"])
@pytest.mark.parametrize("then", ["end", "disconnect", OVERLOADED], ids=["end", "disconnect", "error"])
async def test_a_stream_that_ends_before_it_brought_anything_is_tried_again(then: Any, events: int) -> None:
    async with claude() as (server, model):
        server.play(Says("lost", events=events, then=then), Says("second try"))
        reply = await model.reply(HI)
        assert (reply.content, reply.usage) == ("second try", Usage(329, 12, 300))


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        pytest.param(
            Says(
                "one two",
                events=4,
                then=OVERLOADED,
            ),
            ModelResponseError,
            "529: Overloaded",
            id="error-event",
        ),
        pytest.param(Says("one two", events=4), ModelResponseError, "broke off", id="end"),
        pytest.param(
            Says("one two", events=4, then=b"event: message_stop\ndata: {oh\n\n"),
            ModelResponseError,
            "read",
            id="no-json",
        ),
        pytest.param(Says("one two", events=4, then="disconnect"), ModelConnectionError, "broke", id="disconnect"),
        pytest.param(
            Says("one two", events=4, then="stall"), ModelTimeoutError, "sent nothing new for 0.5 s", id="stall"
        ),
    ],
)
async def test_a_stream_that_breaks_fails(answer: Says, expected: type[ModelError], said: str) -> None:
    async with claude(timeout=0.5) as (server, model):
        server.play(answer)
        texts: list[str] = []
        with pytest.raises(expected, match=said):
            async with model.stream(HI) as deltas:
                async for delta in deltas:
                    texts.append(delta.text)  # noqa: PERF401 - the stream fails, and those before count
        assert texts == ["one "]


async def test_keep_alives_bring_nothing() -> None:
    async with claude(timeout=0.3, max_retries=0) as (server, model):
        server.play(Says("one", events=1, then=b'event: ping\ndata: {"type": "ping"}\n\n' * 3))
        with pytest.raises(ModelResponseError, match="before anything"):
            await model.reply(HI)


async def test_a_run_that_is_cut_off_hangs_up() -> None:
    async with claude() as (server, model):
        server.play(Says("one two", events=4, then="stall"))
        with pytest.raises(RunTimeout):
            await Agent(model, run_timeout=0.3).arun("hi")
        await server.idle()


async def test_a_missing_or_wrong_key_says_so() -> None:
    model = Claude("claude-sonnet-5")
    assert not model.has_key
    with pytest.raises(ModelAuthenticationError, match="set ANTHROPIC_API_KEY"):
        await model.reply(HI)
    async with claude(api_key="sk-ant-wrong-12345") as (_, other):
        with pytest.raises(ModelAuthenticationError, match=r"invalid x-api-key \(check api_key= or its variable\)"):
            await other.reply(HI)


async def test_a_key_may_be_a_secret_or_a_function_that_is_asked_before_each_request() -> None:
    keys = iter(["sk-ant-old-12345", "sk-ant-new-12345"])

    async def next_key() -> SecretStr:
        return SecretStr(next(keys))

    async with claude(api_key=next_key) as (server, model):
        server.key = "sk-ant-new-12345"
        with pytest.raises(ModelAuthenticationError):
            await model.reply(HI)
        assert (await model.reply(HI)).content
    async with claude(api_key=lambda: 7) as (_, model):
        with pytest.raises(ModelAuthenticationError, match="returned no text: int"):
            await model.reply(HI)


@pytest.mark.parametrize("model", ["Claude", "OpenAIChat"])
def test_a_model_loads_its_own_sdk_alone(model: str) -> None:
    code = f"""
import anyio, sys
from definable.errors import ModelConnectionError
from definable.model import *
model = {model}("x", "key", "http://127.0.0.1:1", max_retries=0)
assert not {{"anthropic", "openai"}} & sys.modules.keys()
try:
    anyio.run(model.reply, ModelRequest((Message("user", "hi"),)))
except ModelConnectionError:
    print(*({{"anthropic", "openai"}} & sys.modules.keys()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.split() == [{"Claude": "anthropic", "OpenAIChat": "openai"}[model]]


async def test_a_server_that_is_away_is_a_connection_failure() -> None:
    model = Claude("claude-sonnet-5", "key", "http://127.0.0.1:1", max_retries=0)
    with pytest.raises(ModelConnectionError, match=r"cannot reach http://127\.0\.0\.1:1"):
        await model.reply(HI)
    await model.aclose()


def test_a_script_that_closes_nothing_leaves_nothing_open() -> None:
    async def main() -> str:
        server = AnthropicServer()
        async with server.running():
            return (await Claude("claude-sonnet-5", server.key, server.base_url).reply(HI)).content

    assert [anyio.run(main, backend=backend) for backend in ("asyncio", "trio")] == ["ok", "ok"]


def test_it_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolve_model("anthropic/claude-sonnet-5")
    assert isinstance(model, Claude)
    assert model.id == "claude-sonnet-5"
    monkeypatch.setattr("definable.model.anthropic.model.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"definable\[anthropic\]"):
        Claude("claude-sonnet-5")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"cache_ttl": "1d"}, "cache_ttl"),
        ({"base_url": "host"}, "base_url"),
        ({"system": "x"}, "give the agent instructions"),
        ({"metadata": object()}, "JSON"),
    ],
    ids=["timeout", "max-tokens", "cache", "url", "ours", "json"],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Claude("claude-sonnet-5", "key", **options)
