"""pydantic-ai's agents, on its own `FunctionModel`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pydantic_ai import Agent
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from .base import DELTA, INPUT, Deltas, Run, add


def echoing(latency: float = 0.0) -> Run:
    async def echo(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(latency)
        return ModelResponse(parts=[TextPart(INPUT)])

    return running(Agent(FunctionModel(echo)))


def adding() -> Run:
    return running(Agent(FunctionModel(add_first), tools=[add]))


def running(agent: Agent[None, str]) -> Run:
    async def run() -> str:
        return (await agent.run(INPUT)).output

    return run


def construct() -> Callable[[], object]:
    model = FunctionModel(add_first)
    return lambda: Agent(model, tools=[add])


def construct_and_run() -> Run:
    model = FunctionModel(add_first)

    async def run() -> str:
        return (await Agent(model, tools=[add]).run(INPUT)).output

    return run


def agent_deltas(count: int) -> Deltas:
    agent = Agent(streaming(count))

    async def deltas() -> AsyncIterator[str]:
        async with agent.run_stream(INPUT) as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text

    return deltas


def model_deltas(count: int) -> Deltas:
    model = streaming(count)

    async def deltas() -> AsyncIterator[str]:
        async with model_request_stream(model, [ModelRequest.user_text_prompt(INPUT)]) as events:
            async for event in events:
                match event:
                    case PartStartEvent(part=TextPart(content=text)) if text:
                        yield text
                    case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                        yield text
                    case _:
                        pass

    return deltas


def streaming(count: int) -> FunctionModel:
    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        for _ in range(count):
            await asyncio.sleep(0)
            yield DELTA

    return FunctionModel(stream_function=stream)


async def add_first(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The function of a model that calls `add`, then says what came of it."""
    await asyncio.sleep(0)
    for part in messages[-1].parts:
        if isinstance(part, ToolReturnPart):
            return ModelResponse(parts=[TextPart(f"The sum is {part.content}")])
    return ModelResponse(parts=[ToolCallPart("add", {"a": 1, "b": 2})])
