"""Whole replies of `OpenAIChat`, over a real socket, from a server that refuses what OpenAI refuses."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from typing import Any

import anyio
import pytest
from loopback.openai_server import Completion, OpenAIServer, Page, Problem

from definable.errors import ConfigurationError, ModelAuthenticationError, ModelRequestError
from definable.model import (
    Image,
    Message,
    Model,
    ModelRequest,
    OpenAIChat,
    OutputSchema,
    ToolCall,
    ToolDefinition,
    Usage,
)

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))
ADD = ToolDefinition(
    "add", "Add two numbers.", {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
)


def test_it_is_a_model() -> None:
    assert isinstance(OpenAIChat("gpt-4o"), Model)


async def test_a_reply_carries_content_usage_model_and_finish_reason(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion("Hello there.", usage=(3, 4)))
        reply = await model.reply(ModelRequest((Message("system", "Be kind."), Message("user", "hi"))))
        assert (reply.content, reply.usage, reply.finish_reason) == ("Hello there.", Usage(3, 4), "stop")
        assert reply.model == "gpt-4o-2024-08-06"
        assert server.received[0].body["messages"] == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi"},
        ]


async def test_parallel_tool_calls_come_in_and_their_results_go_out(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion(calls=[("c1", "add", '{"a": 1, "b": 2}'), ("c2", "add", '{"a": 3, "b": 4}')]))
        server.play(Completion("3 and 7"))
        question = Message("user", "1 + 2, 3 + 4?")
        first = await model.reply(ModelRequest((question,), (ADD,)))
        assert first.tool_calls == (
            ToolCall("add", '{"a": 1, "b": 2}', "c1"),
            ToolCall("add", '{"a": 3, "b": 4}', "c2"),
        )
        assert (first.content, first.finish_reason) == ("", "tool_calls")
        asked = Message("assistant", first.content, first.tool_calls)
        results = (Message("tool", "3", tool_call_id="c1"), Message("tool", "7", tool_call_id="c2"))
        second = await model.reply(ModelRequest((question, asked, *results), (ADD,)))
        assert second.content == "3 and 7"
        assert server.received[1].body["tools"][0]["function"]["parameters"] == ADD.parameters
        assert not server.refusals


@pytest.mark.parametrize("more", [{}, {"id": ""}, {"id": "call", "index": 0}], ids=str)
async def test_parallel_tool_calls_of_one_message_are_told_apart_without_ids(
    provider: Any, more: dict[str, Any]
) -> None:
    calls = [{**more, "function": {"name": name, "arguments": '{"a": 1}'}} for name in ("add", "mul")]
    completion = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]}
    async with provider() as (server, model):
        server.play(Page(json.dumps(completion).encode(), content_type="application/json"))
        reply = await model.reply(ModelRequest((Message("user", "1 + 1, 1 * 1?"),), (ADD,)))
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("add", '{"a": 1}'), ("mul", '{"a": 1}')]


async def test_images_go_out_as_urls_and_as_base64(provider: Any) -> None:
    async with provider() as (server, model):
        images = (Image(url="https://example.org/cat.png"), Image(data=b"\x89PNG", media_type="image/png"))
        await model.reply(
            ModelRequest((Message("user", "what is this?", images=images), Message("user", images=images)))
        )
        parts = server.received[0].body["messages"][0]["content"]
        assert [part["type"] for part in parts] == ["text", "image_url", "image_url"]
        assert parts[2]["image_url"]["url"] == "data:image/png;base64,iVBORw=="


async def test_an_output_schema_becomes_a_strict_response_format(provider: Any) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "default": "Rome"}}}
    async with provider() as (server, model):
        server.play(Completion('{"city": "Oslo"}'))
        reply = await model.reply(
            ModelRequest((Message("user", "where?"),), output_schema=OutputSchema("Place", schema))
        )
        assert json.loads(reply.content) == {"city": "Oslo"}
        sent = server.received[0].body["response_format"]["json_schema"]
        assert sent["strict"] is True and sent["schema"]["required"] == ["city"]


async def test_a_schema_that_is_no_object_is_told_in_words(provider: Any) -> None:
    """OpenAI refuses it as a response format."""
    request = ModelRequest(
        (Message("system", "Be kind."), Message("user", "numbers?")),
        output_schema=OutputSchema("list", {"type": "array", "items": {"type": "integer"}}),
    )
    async with provider() as (server, model):
        await model.reply(request)
        body = server.received[0].body
        assert "response_format" not in body
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"].startswith("Be kind.\n\n")
        assert '"items": {"type": "integer"}' in body["messages"][0]["content"]


async def test_a_response_format_of_ones_own_stays(provider: Any) -> None:
    """Of a server that knows no other, say DeepSeek's: the schema is told in words beside it."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    async with provider(response_format={"type": "json_object"}) as (server, model):
        await model.reply(ModelRequest(HI.messages, output_schema=OutputSchema("Place", schema)))
        body = server.received[0].body
        assert body["response_format"] == {"type": "json_object"}
        assert json.dumps(schema) in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (Completion("cut", finish_reason="length"), "length"),
        (Completion("", finish_reason="content_filter"), "content_filter"),
        (Completion("x", finish_reason="eos"), "stop"),
        (Completion(calls=[("c", "f", "{}")], finish_reason="stop"), "tool_calls"),
        (Completion(refusal="I cannot."), "content_filter"),
    ],
)
async def test_finish_reasons_are_ours(provider: Any, completion: Completion, expected: str) -> None:
    async with provider() as (server, model):
        server.play(completion)
        assert (await model.reply(HI)).finish_reason == expected


async def test_a_refusal_is_the_content(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion(refusal="I cannot help with that."))
        assert (await model.reply(HI)).content == "I cannot help with that."


async def test_a_server_without_usage_is_fine(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Completion("x", usage=None))
        assert (await model.reply(HI)).usage == Usage()


async def test_options_are_sent_as_parameters(provider: Any) -> None:
    options = {"temperature": 0.5, "max_tokens": 9, "extra_body": {"seed": 7}, "extra_headers": {"X-Team": "blue"}}
    async with provider(**options) as (server, model):
        await model.reply(HI)
        received = server.received[0]
        assert (received.body["temperature"], received.body["max_tokens"], received.body["seed"]) == (0.5, 9, 7)
        assert received.headers["x-team"] == "blue"


async def test_tool_options_are_sent_only_along_with_tools(provider: Any) -> None:
    async with provider(tool_choice="auto", parallel_tool_calls=False) as (server, model):
        await model.reply(HI)
        await model.reply(ModelRequest(HI.messages, (ADD,)))
        assert "tool_choice" not in server.received[0].body
        assert server.received[1].body["parallel_tool_calls"] is False


async def test_an_unknown_option_is_refused_in_the_providers_words(provider: Any) -> None:
    async with provider(temprature=1) as (_, model):
        with pytest.raises(ModelRequestError, match="Unrecognized request argument supplied: temprature"):
            await model.reply(HI)


async def test_key_and_base_url_come_from_the_environment_when_used(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider() as (server, _):
        model = OpenAIChat("gpt-4o")
        assert not model.has_key
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert model.has_key
        assert (await model.reply(HI)).content == "ok"
        await model.aclose()


async def test_without_a_key_a_run_says_what_to_set() -> None:
    model = OpenAIChat("gpt-4o")
    with pytest.raises(ModelAuthenticationError, match="set OPENAI_API_KEY, or pass api_key="):
        await model.reply(HI)
    with pytest.raises(ModelAuthenticationError, match="OPENAI_API_KEY"):
        async with model.stream(HI):
            pass
    await model.aclose()


async def test_a_key_from_a_file_may_end_in_a_line_break(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with provider(api_key=None) as (server, model):
        monkeypatch.setenv("OPENAI_API_KEY", f"{server.key}\n")
        assert (await model.reply(HI)).content == "ok"


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-é"])
async def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(ModelAuthenticationError, match="no header can carry") as caught:
        await OpenAIChat("gpt-4o", api_key=key).reply(HI)
    assert key not in str(caught.value)


async def test_one_connection_is_used_again(provider: Any) -> None:
    async with provider() as (server, model):
        for _ in range(3):
            await model.reply(HI)
            async with model.stream(HI) as deltas:
                _ = [delta async for delta in deltas]
        assert len({received.peer_port for received in server.received}) == 1


async def test_a_closed_model_can_be_used_again(provider: Any) -> None:
    async with provider() as (server, model):
        await model.reply(HI)
        await model.aclose()
        await server.idle()
        assert (await model.reply(HI)).content == "ok"


async def test_concurrent_first_uses_share_one_client(provider: Any) -> None:
    async with provider() as (server, model):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(model.reply, HI)
        assert len(server.received) == 20
        assert len(model._clients._held) == 1


async def test_a_lone_surrogate_does_not_break_the_request(provider: Any) -> None:
    async with provider() as (server, model):
        await model.reply(ModelRequest((Message("user", "bad \ud83d end"),)))
        assert server.received[0].body["messages"][0]["content"] == "bad \ud83d end"


async def test_a_schema_that_is_not_json_is_a_clear_error(provider: Any) -> None:
    tool = ToolDefinition("f", "", {"type": "object", "default": object()})
    async with provider() as (_, model):
        with pytest.raises(ModelRequestError, match="cannot be written as JSON"):
            await model.reply(ModelRequest(HI.messages, (tool,)))


@pytest.mark.filterwarnings("error")
def test_a_script_that_never_closes_leaves_nothing_open(anyio_backend: str) -> None:
    """One model over several event loops, never closed: each loop closes its own client."""
    model = OpenAIChat("gpt-4o", api_key="sk-loopback", base_url="http://placeholder")

    async def main() -> None:
        async with OpenAIServer().running() as server:
            model.base_url = server.url
            assert (await model.reply(HI)).content == "ok"
            server.play(Problem(400, "no"))
            with pytest.raises(ModelRequestError):
                await model.reply(HI)

    for _ in range(2):
        anyio.run(main, backend=anyio_backend)
    gc.collect()
    assert len(model._clients._held) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"model": "x"},
        {"messages": []},
        {"stream": True},
        {"tools": []},
        {"n": 2},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_retries": -1},
        {"base_url": "localhost:11434"},
        {"stop": object()},
    ],
)
def test_wrong_arguments_are_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        OpenAIChat("gpt-4o", **options)


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="id"):
        OpenAIChat("")


def test_repr_hides_the_key() -> None:
    assert "sk-secret" not in repr(OpenAIChat("gpt-4o", api_key="sk-secret", base_url="https://u:sk-secret@h/v1"))


def test_importing_the_models_loads_nothing_heavy() -> None:
    code = (
        "import sys, definable.model as m; m.OpenAIChat('gpt-4o');"
        "print([name for name in ('openai', 'httpx2', 'pydantic', 'trio', 'ssl') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
