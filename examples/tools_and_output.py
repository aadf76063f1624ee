"""Tools and structured output, followed as they happen.

    python examples/tools_and_output.py

Needs no key: without OPENAI_API_KEY a script plays the model.
"""

import os

import anyio
from pydantic import BaseModel

from definable.agent import Agent, RunContext
from definable.model import Model, ModelReply, OfflineModel, OpenAIChat, ToolCall


class Weather(BaseModel):
    city: str
    degrees: float
    advice: str


def temperature(city: str, context: RunContext) -> float:
    """The temperature in a city, in degrees Celsius.

    Args:
        city: The city's name.
    """
    context.session_state["asked"] = city
    return 21.5


async def rain(city: str) -> str:
    """Whether it rains in a city."""
    await anyio.sleep(0.1)
    return "no"


def model() -> Model:
    if os.environ.get("OPENAI_API_KEY"):
        return OpenAIChat("gpt-4o-mini")
    calls = (ToolCall("temperature", {"city": "Oslo"}), ToolCall("rain", {"city": "Oslo"}))
    return OfflineModel([ModelReply(tool_calls=calls), '{"city": "Oslo", "degrees": 21.5, "advice": "A T-shirt."}'])


async def main() -> None:
    agent = Agent(model(), tools=[temperature, rain], output_type=Weather, run_timeout=60)
    async with agent.arun_stream("What do I wear in Oslo?") as events:
        async for event in events:
            print(type(event).__name__)
    assert events.output is not None
    print(repr(events.output.content))


if __name__ == "__main__":
    anyio.run(main)
