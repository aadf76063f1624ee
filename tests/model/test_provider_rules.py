"""An agent with tools, reasoning and an output type, in one session, under the rules of each provider."""

from __future__ import annotations

import json
from typing import Any

import pytest
from loopback.openai_server import BrokenStream, Completion, Page
from loopback.provider_rules import PROVIDERS
from pydantic import BaseModel

from definable.agent import Agent, TextDelta, ToolResult
from definable.model import Image, OpenAIChat

pytestmark = pytest.mark.anyio

REASONING: dict[str, dict[str, Any]] = {
    "vllm": {"reasoning": "hm"},
    "deepseek": {"reasoning_content": "hm"},
    "kimi": {"reasoning_content": "hm"},
    "groq": {"reasoning": "hm"},
    "minimax": {"content": "<think>hm</think>"},
    "lenient": {"content": "<think>hm</think>"},
}
"""How it comes with a call, by the rules."""


class City(BaseModel):
    name: str
    people: int


def people(name: str) -> int:
    """How many people live there."""
    return 700_000


def picture(name: str) -> ToolResult:
    """A picture of it."""
    return ToolResult("here", media=[Image(data=b"\x89PNG")])


def calls(rules: str, name: str, reasoning: dict[str, Any], *, streamed: bool) -> Any:
    """A call as this provider sends it, with an id as long as OpenAI's."""
    call: dict[str, Any] = {"index": 0, "id": f"call_{'x' * 24}", "type": "function"}
    call["function"] = {"name": name, "arguments": '{"name": "Oslo"}'}
    if rules == "google":
        call["extra_content"] = {"google": {"thought_signature": "AbC"}}
    message = {"role": "assistant", "content": None, **reasoning, "tool_calls": [call]}
    choice = {"index": 0, "delta" if streamed else "message": message, "finish_reason": "tool_calls"}
    body = json.dumps({"choices": [choice]})
    if not streamed:
        return Page(body.encode(), content_type="application/json")
    return BrokenStream(Completion(""), 0, f"data: {body}\n\ndata: [DONE]\n\n".encode())


async def run(agent: Agent, text: str, *, streamed: bool) -> Any:
    if not streamed:
        return await agent.arun(text, session_id="s")
    async with agent.arun_stream(text, session_id="s") as events:
        _ = [event async for event in events]
    return events.output


@pytest.mark.parametrize("rules", PROVIDERS)
async def test_no_turn_of_a_session_is_refused(provider: Any, rules: str) -> None:
    (profile, id), reasoning = PROVIDERS[rules], REASONING.get(rules, {})
    async with provider(id=id, profile=profile, max_completion_tokens=99, parallel_tool_calls=False) as (server, model):
        server.models, server.rules = frozenset({id}), rules
        agent = Agent(model, "Be brief.", tools=[people, picture])
        for streamed in (False, True):
            for tool in ("people", "picture"):
                server.play(calls(rules, tool, reasoning, streamed=streamed), Completion("It is so."))
                output = await run(agent, f"{tool}?", streamed=streamed)
                assert (output.content, len(output.tool_calls)) == ("It is so.", 1)
        assert len(server.received) == 8 and not server.refusals
        if reasoning:
            said = [message for message in output.messages if message.reasoning]
            assert [message.reasoning for message in said] == ["hm"]


@pytest.mark.parametrize("rules", PROVIDERS)
@pytest.mark.parametrize("tools", [[], [people]], ids=["alone", "with tools"])
async def test_an_answer_of_a_type_is_asked_for_as_the_provider_knows_it(
    provider: Any, rules: str, tools: list[Any]
) -> None:
    profile, id = PROVIDERS[rules]
    answer = '{"name": "Oslo", "people": 700000}'
    async with provider(id=id, profile=profile) as (server, model):
        server.models, server.rules = frozenset({id}), rules
        agent = Agent(model, "Be brief.", tools=tools, output_type=City)
        for streamed in (False, True):
            server.play(Completion(answer))
            output = await run(agent, "Oslo?", streamed=streamed)
            assert output.content == City(name="Oslo", people=700_000)
        assert not server.refusals


async def test_an_answer_that_cannot_be_streamed_comes_in_one_piece(provider: Any) -> None:
    profile, id = PROVIDERS["groq gpt-oss"]
    async with provider(id=id, profile=profile) as (server, model):
        server.models, server.rules = frozenset({id}), "groq gpt-oss"
        server.play(Completion('{"name": "Oslo", "people": 7}'))
        async with Agent(model, output_type=City).arun_stream("Oslo?") as events:
            texts = [event.text async for event in events if isinstance(event, TextDelta)]
        assert texts == ['{"name": "Oslo", "people": 7}']
        assert "stream" not in server.received[0].body and "response_format" in server.received[0].body


async def test_a_conversation_goes_on_with_another_provider(provider: Any) -> None:
    """What is left of one provider in a session is no obstacle to the next."""
    async with provider() as (server, _):
        for rules, (profile, id) in PROVIDERS.items():
            server.models, server.rules = frozenset({id}), rules
            model = OpenAIChat(id, server.key, server.url, profile=profile)
            if rules == "openai":
                agent = Agent(model, tools=[people])
            agent.model = model
            server.play(calls(rules, "people", REASONING.get(rules, {}), streamed=False), Completion("So many."))
            assert (await run(agent, "people?", streamed=False)).content == "So many."
            await model.aclose()
        assert not server.refusals
