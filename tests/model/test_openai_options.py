"""Keys, headers and options of `OpenAIChat`: each reaches the provider, or is refused with the way out."""

from __future__ import annotations

import inspect
from typing import Any

import openai
import pytest
from loopback.openai_server import Problem
from pydantic import SecretStr

from definable.errors import ConfigurationError, ModelAuthenticationError, ModelError
from definable.model import Image, Message, ModelReply, ModelRequest, OpenAIChat, ToolCall, ToolDefinition
from definable.model.openai.profiles import Profile

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))
ADD = ToolDefinition("add", "Add.", {"type": "object", "properties": {}})
CALLED = (
    Message("user", "hi"),
    Message("assistant", tool_calls=(ToolCall("add", {}, "c1"),)),
    Message("tool", "3", tool_call_id="c1"),
)


async def ask(model: OpenAIChat, request: ModelRequest = HI, *, streamed: bool) -> ModelReply:
    if not streamed:
        return await model.reply(request)
    async with model.stream(request) as deltas:
        *_, last = [delta async for delta in deltas]
    assert last.reply is not None
    return last.reply


# --- keys


@pytest.mark.parametrize("kind", ["function", "async function", "SecretStr", "function of a SecretStr"])
async def test_a_key_may_be_a_secret_or_a_function(provider: Any, kind: str) -> None:
    async with provider() as (server, _):
        times = 0

        def token() -> str:
            nonlocal times
            times += 1
            return server.key

        async def async_token() -> str:
            return token()

        def secret() -> SecretStr:
            return SecretStr(token())

        keys = {"function": token, "async function": async_token, "SecretStr": SecretStr(server.key)}
        model = OpenAIChat("gpt-4o", keys.get(kind, secret), server.url)
        assert model.has_key
        for streamed in (False, True):
            assert (await ask(model, streamed=streamed)).content == "ok"
        assert times == (0 if kind == "SecretStr" else 2), "asked before each request: tokens expire"
        await model.aclose()


async def test_every_token_that_was_sent_stays_out_of_messages(provider: Any) -> None:
    async with provider() as (server, _):
        tokens = iter(["sk-the-first", "sk-the-second"])
        model = OpenAIChat("gpt-4o", lambda: next(tokens), server.url, max_retries=0)
        for server.key in ("sk-the-first", "sk-the-second"):
            server.play(Problem(400, "sk-the-first or sk-the-second?"))
            with pytest.raises(ModelError, match=r"\*\*\* or ") as caught:
                await model.reply(HI)
        assert str(caught.value).endswith("*** or ***?")
        await model.aclose()


@pytest.mark.parametrize("given", ["nothing", "an error", "no text"])
async def test_a_key_function_that_fails_is_a_clear_error(provider: Any, given: str) -> None:
    async with provider() as (server, _):

        def token() -> Any:
            if given == "an error":
                raise LookupError("vault closed")
            return "" if given == "nothing" else 7

        model = OpenAIChat("gpt-4o", token, server.url)
        words = {"nothing": "no API key", "an error": "LookupError: vault closed", "no text": "returned no text: int"}
        with pytest.raises(ModelAuthenticationError, match=words[given]):
            await model.reply(HI)
        await model.aclose()


@pytest.mark.parametrize("key", [b"sk-x", 7, ["sk-x"]])
def test_a_key_that_is_none_is_refused_at_once(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key is text, a SecretStr or a function"):
        OpenAIChat("gpt-4o", key)


# --- headers and what else the SDK's client takes


async def test_headers_query_and_organization_reach_the_server(provider: Any) -> None:
    options = {"default_headers": {"X-Team": "blue"}, "extra_headers": {"X-Job": "7"}, "organization": "org-1"}
    async with provider(**options) as (server, model):
        await model.reply(HI)
        headers = server.received[0].headers
        assert (headers["x-team"], headers["x-job"], headers["openai-organization"]) == ("blue", "7", "org-1")


async def test_an_authorization_of_ones_own_goes_before_the_key(provider: Any) -> None:
    async with provider() as (server, _):
        headers = {"authorization": f"Bearer {server.key}"}
        model = OpenAIChat("gpt-4o", "unused", server.url, extra_headers=headers)
        assert (await model.reply(HI)).content == "ok"
        await model.aclose()


OURS = {"self", "api_key", "base_url", "timeout", "max_retries"}
THROUGH = {"default_headers", "default_query", "organization", "project"}


@pytest.mark.parametrize("client", [openai.AsyncOpenAI, openai.AsyncAzureOpenAI], ids=["OpenAI", "Azure"])
def test_what_the_sdks_client_takes_is_taken_or_refused_with_the_way_out(client: Any) -> None:
    for name in inspect.signature(client.__init__).parameters.keys() - OURS - THROUGH:
        with pytest.raises(ConfigurationError, match=f"{name}= is not an option of OpenAIChat: ."):
            OpenAIChat("gpt-4o", **{name: "x"})
    for name in THROUGH:
        OpenAIChat("gpt-4o", **{name: {} if name.startswith("default") else "x"})


# --- options


async def test_an_option_that_is_none_is_left_out(provider: Any) -> None:
    async with provider(temperature=None, max_tokens=None, tool_choice=None) as (server, model):
        await model.reply(ModelRequest(HI.messages, (ADD,)))
        assert server.received[0].body.keys() == {"model", "messages", "tools"}


@pytest.mark.parametrize(
    "options",
    [{"stream_options": None}, {"extra_body": {"stream_options": None}}, {"profile": Profile(stream_options=False)}],
    ids=["option", "body", "profile"],
)
async def test_usage_of_streams_need_not_be_asked_for(provider: Any, options: dict[str, Any]) -> None:
    async with provider(**options) as (server, model):
        for streamed in (False, True):
            await ask(model, streamed=streamed)
            assert "stream_options" not in server.received[-1].body


async def test_stream_options_of_ones_own_are_sent_with_streams_alone(provider: Any) -> None:
    async with provider(stream_options={"include_usage": False}) as (server, model):
        for streamed in (False, True):
            await ask(model, streamed=streamed)
        whole, stream = server.received
        assert "stream_options" not in whole.body and stream.body["stream_options"] == {"include_usage": False}


NAMED = {"type": "function", "function": {"name": "add"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}


@pytest.mark.parametrize(
    ("choice", "later"),
    [
        ("required", None),
        ("any", None),
        (NAMED, None),
        (ALLOWED, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}),
        ("auto", "auto"),
        ("none", "none"),
    ],
    ids=["required", "any", "named", "allowed", "auto", "none"],
)
async def test_a_forced_tool_is_forced_once(provider: Any, choice: Any, later: Any) -> None:
    """A model that must call a tool in every turn never comes to an end."""
    async with provider(tool_choice=choice) as (server, model):
        await model.reply(ModelRequest(HI.messages, (ADD,)))
        await model.reply(ModelRequest(CALLED, (ADD,)))
        await model.reply(ModelRequest((*CALLED, Message("assistant", "3"), Message("user", "more")), (ADD,)))
        first, second, third = [received.body.get("tool_choice") for received in server.received]
        assert (first, second, third) == (choice, later, choice)


@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("wanted", ["", "max_tokens", "max_completion_tokens"])
async def test_the_limit_of_tokens_has_the_name_that_the_provider_knows(provider: Any, given: str, wanted: Any) -> None:
    async with provider(profile=Profile(max_tokens=wanted), **{given: 7}) as (server, model):
        await model.reply(HI)
        assert server.received[0].body.keys() - {"model", "messages"} == {wanted or given}


async def test_images_of_results_come_behind_all_results(provider: Any) -> None:
    calls = (ToolCall("add", {}, "c1"), ToolCall("add", {}, "c2"))
    picture = Image(data=b"png")
    messages = (
        Message("user", "hi"),
        Message("assistant", tool_calls=calls),
        Message("tool", "one", tool_call_id="c1", images=(picture,)),
        Message("tool", "two", tool_call_id="c2", images=(picture,)),
    )
    async with provider() as (server, model):
        await model.reply(ModelRequest((*messages, Message("assistant", "ok"), Message("user", "so?")), (ADD,)))
        await model.reply(ModelRequest(messages, (ADD,)))
        roles = [[message["role"] for message in received.body["messages"]] for received in server.received]
        assert roles[1] == ["user", "assistant", "tool", "tool", "user"]
        assert roles[0] == [*roles[1], "assistant", "user"]
        assert [part["type"] for part in server.received[1].body["messages"][-1]["content"]] == [
            "text",
            "image_url",
            "image_url",
        ]
