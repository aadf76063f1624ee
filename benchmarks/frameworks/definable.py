"""definable's agents, on the offline model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from definable.agent import Agent
from definable.agent.run.output import TextDelta
from definable.model import Message, ModelReply, OfflineModel, ToolCall
from definable.model.message import ModelRequest

from .base import DELTA, INPUT, Deltas, Run, add


def echoing(latency: float = 0.0) -> Run:
    agent = Agent(OfflineModel(latency=latency))

    async def run() -> str:
        return (await agent.arun(INPUT)).content

    return run


def adding() -> Run:
    agent = Agent(OfflineModel(add_first), tools=[add])

    async def run() -> str:
        return (await agent.arun(INPUT)).content

    return run


def construct() -> Callable[[], object]:
    model = OfflineModel(add_first)
    return lambda: Agent(model, tools=[add])


def construct_and_run() -> Run:
    model = OfflineModel(add_first)

    async def run() -> str:
        return (await Agent(model, tools=[add]).arun(INPUT)).content

    return run


def agent_deltas(count: int) -> Deltas:
    agent = Agent(OfflineModel(DELTA * count))

    async def deltas() -> AsyncIterator[str]:
        async with agent.arun_stream(INPUT) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield event.text

    return deltas


def model_deltas(count: int) -> Deltas:
    model = OfflineModel(DELTA * count)

    async def deltas() -> AsyncIterator[str]:
        async with model.stream(ModelRequest((Message("user", INPUT),))) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    return deltas


def add_first(request: ModelRequest) -> ModelReply | str:
    """The script of a model that calls `add`, then says what came of it."""
    last = request.messages[-1]
    return f"The sum is {last.content}" if last.role == "tool" else ModelReply(tool_calls=(ToolCall("add", ADD),))


ADD = '{"a": 1, "b": 2}'
