"""agno's agents, on a model of ours that needs no network; telemetry is off, it would call home."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agno.agent import Agent
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.run.agent import RunContentEvent

from .base import DELTA, INPUT, Deltas, Run, add

ADD_CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}


@dataclass
class InProcessModel(Model):
    """Answers at once, or after `latency` seconds."""

    id: str = "in-process"
    latency: float = 0.0
    deltas: int = 0

    async def ainvoke(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        await asyncio.sleep(self.latency)
        return self.answer(messages)

    async def ainvoke_stream(self, messages: list[Message], *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        for _ in range(self.deltas):
            await asyncio.sleep(0)
            yield ModelResponse(content=DELTA)

    def answer(self, messages: list[Message]) -> ModelResponse:
        return ModelResponse(role="assistant", content=INPUT)

    def invoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError

    def invoke_stream(self, *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        return response

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        return response


@dataclass
class AddingModel(InProcessModel):
    """Calls `add`, then says what came of it."""

    def answer(self, messages: list[Message]) -> ModelResponse:
        if messages[-1].role == "tool":
            return ModelResponse(role="assistant", content=f"The sum is {messages[-1].content}")
        return ModelResponse(role="assistant", tool_calls=[ADD_CALL])


def echoing(latency: float = 0.0) -> Run:
    return running(Agent(model=InProcessModel(latency=latency), telemetry=False))


def adding() -> Run:
    return running(Agent(model=AddingModel(), tools=[add], telemetry=False))


def running(agent: Agent) -> Run:
    async def run() -> str:
        return str((await agent.arun(INPUT)).content)

    return run


def construct() -> Callable[[], object]:
    model = AddingModel()
    return lambda: Agent(model=model, tools=[add], telemetry=False)


def construct_and_run() -> Run:
    model = AddingModel()

    async def run() -> str:
        return str((await Agent(model=model, tools=[add], telemetry=False).arun(INPUT)).content)

    return run


def agent_deltas(count: int) -> Deltas:
    agent = Agent(model=InProcessModel(deltas=count), telemetry=False)

    async def deltas() -> AsyncIterator[str]:
        async for event in agent.arun(INPUT, stream=True):
            if isinstance(event, RunContentEvent):
                yield str(event.content)

    return deltas


def model_deltas(count: int) -> Deltas:
    model = InProcessModel(deltas=count)

    async def deltas() -> AsyncIterator[str]:
        async for piece in model.ainvoke_stream([Message(role="user", content=INPUT)]):
            yield str(piece.content)

    return deltas
