"""What a model thought: read in every form in which servers send it, never shown, and sent back to its own provider."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback.openai_server import BrokenStream, Completion, Page

from definable.model import Message, ModelReply, ModelRequest, OpenAIChat, ToolCall, ToolDefinition
from definable.model.openai.profiles import Profile
from definable.model.openai.reasoning import TagSplitter

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))
ADD = ToolDefinition("add", "Add.", {"type": "object", "properties": {}})
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SIGNED = {"google": {"thought_signature": "AbC"}}
DETAILS = [{"type": "reasoning.text", "index": 0, "text": "I must add.", "signature": "s", "format": "f"}]


async def ask(model: OpenAIChat, request: ModelRequest = HI, *, streamed: bool) -> ModelReply:
    if not streamed:
        return await model.reply(request)
    async with model.stream(request) as deltas:
        seen = [delta async for delta in deltas]
    assert seen[-1].reply is not None
    assert "".join(delta.text for delta in seen) == seen[-1].reply.content
    return seen[-1].reply


def answer(message: dict[str, Any], *, streamed: bool, finish_reason: str = "stop") -> Any:
    """One message, whole or field by field, its texts letter by letter."""
    if not streamed:
        body = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
        return Page(json.dumps(body).encode(), content_type="application/json")
    deltas: list[dict[str, Any]] = []
    for name, value in message.items():
        letters = list(value) if isinstance(value, str) else [value]
        deltas += [{name: letter} for letter in letters]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish_reason})
    events = [json.dumps({"choices": [choice]}) for choice in choices]
    return BrokenStream(Completion(""), 0, "".join([f"data: {event}\n\n" for event in [*events, "[DONE]"]]).encode())


THINKING = [{"type": "thinking", "thinking": [{"type": "text", "text": "I must add."}]}, {"type": "text", "text": "3"}]


FORMS: list[dict[str, Any]] = [
    {"reasoning_content": "I must add.", "content": "3"},
    {"reasoning": "I must add.", "content": "3"},
    {"content": "<think>I must add.</think>3"},
    {"content": "\n<think>\nI must add.\n</think>\n\n3"},
    {"content": "[THINK]I must add.[/THINK] 3"},
    {"content": THINKING},
    {"reasoning": "I must add.", "reasoning_details": DETAILS, "content": "3"},
]


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_read_in_every_form_and_is_no_answer(provider: Any, streamed: bool) -> None:
    async with provider() as (server, model):
        for message in FORMS:
            server.play(answer(message, streamed=streamed))
            reply = await ask(model, streamed=streamed)
            assert (reply.content, reply.reasoning, reply.provider) == ("3", "I must add.", "openai-compatible"), (
                message
            )


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_only_looks_like_a_tag_is_text(provider: Any, streamed: bool) -> None:
    async with provider() as (server, model):
        for text in ("<thin", "<", "a <think>b</think>", "<b>bold</b>", " < 3", "[TH", "<think"):
            server.play(answer({"content": text}, streamed=streamed))
            assert (await ask(model, streamed=streamed)).content == text


async def test_openais_own_texts_may_begin_with_a_tag(provider: Any) -> None:
    async with provider(profile="openai") as (server, model):
        server.play(Completion("<think> is a tag"))
        assert (await model.reply(HI)).content == "<think> is a tag"


@given(st.lists(st.text("<think>/ \nab", max_size=6)))
def test_where_the_text_is_cut_does_not_matter(pieces: list[str]) -> None:
    whole, cut = TagSplitter(), TagSplitter()
    expected = whole.feed("".join(pieces)) + whole.end()
    assert "".join([cut.feed(piece) for piece in pieces]) + cut.end() == expected
    assert cut.reasoning == whole.reasoning


def history(reply: ModelReply, *, provider: str | None = None) -> ModelRequest:
    """The next turn: the reply, the results of its calls, and a further question."""
    message = Message(
        "assistant",
        reply.content,
        reply.tool_calls,
        reasoning=reply.reasoning,
        provider=provider or reply.provider,
        provider_data=reply.provider_data,
    )
    results = [Message("tool", "3", tool_call_id=call.id) for call in reply.tool_calls]
    return ModelRequest((*HI.messages, message, *results), (ADD,))


BACK: dict[str, tuple[str | Profile, dict[str, Any], dict[str, Any]]] = {
    "DeepSeek": ("deepseek", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
    "DeepSeek, none": ("deepseek", {}, {"reasoning_content": ""}),
    "Kimi": ("moonshot", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
    "Groq": ("groq", {"reasoning": "hm"}, {"reasoning": "hm"}),
    "OpenRouter": (
        "openrouter",
        {"reasoning": "I must add.", "reasoning_details": DETAILS},
        {"reasoning": "I must add.", "reasoning_details": DETAILS},
    ),
    "a signature of the message": ("google", {"extra_content": SIGNED}, {"extra_content": SIGNED}),
    "MiniMax": ("minimax", {"content": "<think>hm</think>I add."}, {"content": "<think>\nhm\n</think>\n\nI add."}),
    "tags of an unknown server": (Profile(), {"content": "<think>hm</think>I add."}, {"content": "I add."}),
    "never": (Profile(reasoning_back="never"), {"reasoning_content": "hm"}, {}),
}


@pytest.mark.parametrize(("profile", "message", "back"), BACK.values(), ids=BACK.keys())
async def test_reasoning_goes_back_as_its_provider_wants_it(
    provider: Any, profile: Any, message: dict[str, Any], back: dict[str, Any]
) -> None:
    async with provider(id="kimi-k2", profile=profile) as (server, model):
        server.models = frozenset({"kimi-k2"})
        server.rules = "lenient"
        for streamed in (False, True):
            server.play(answer({**message, "tool_calls": [CALL]}, streamed=streamed, finish_reason="tool_calls"))
            reply = await ask(model, streamed=streamed)
            await ask(model, history(reply), streamed=streamed)
            sent = server.received[-1].body["messages"][1]
            assert sent == {"role": "assistant", "content": None, "tool_calls": sent["tool_calls"], **back}


async def test_a_thoughts_signature_goes_back_with_its_call(provider: Any) -> None:
    async with provider(id="gemini-3-pro", profile="google") as (server, model):
        server.models = frozenset({"gemini-3-pro"})
        server.rules = "google"
        calls = {"tool_calls": [CALL | {"extra_content": SIGNED}]}
        for streamed in (False, True):
            server.play(answer(calls, streamed=streamed, finish_reason="tool_calls"))
            await ask(model, history(await ask(model, streamed=streamed)), streamed=streamed)
            assert server.received[-1].body["messages"][1]["tool_calls"][0]["extra_content"] == SIGNED


async def test_what_another_provider_said_is_not_sent_on(provider: Any) -> None:
    data = {"form": "reasoning_content", "reasoning_details": DETAILS, "extra_content": SIGNED}
    call = ToolCall("add", {"a": 1}, "c1", {"extra_content": SIGNED})
    reply = ModelReply("", (call,), reasoning="hm", provider="anthropic", provider_data=data)
    async with provider() as (server, model):  # whose rules know none of these fields
        await model.reply(history(reply))
        assert not server.refusals


async def test_gemini_is_told_that_a_call_of_another_model_has_no_signature(provider: Any) -> None:
    reply = ModelReply("", (ToolCall("add", {}, "c1"), ToolCall("add", {}, "c2")), provider="openai")
    async with provider(id="gemini-3-pro", profile="google") as (server, model):
        server.models = frozenset({"gemini-3-pro"})
        server.rules = "google"
        await model.reply(history(reply))
        first, second = server.received[-1].body["messages"][1]["tool_calls"]
        assert first["extra_content"]["google"]["thought_signature"] == "skip_thought_signature_validator"
        assert "extra_content" not in second
