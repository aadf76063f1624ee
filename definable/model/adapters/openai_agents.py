"""`OpenAIAgentsAgent`: an agent of the OpenAI Agents SDK, https://openai.github.io/openai-agents-python/ (package
`openai-agents`)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import anyio

from definable.errors import ConfigurationError
from definable.model.function import Piece
from definable.model.message import Image, Message, ModelReply, ModelRequest, Usage

from .foreign import ForeignAgent, as_data, as_text

if TYPE_CHECKING:
    from agents import Agent, RunConfig
    from agents.result import RunResultStreaming

CANCEL_TIMEOUT = 4.0
"""Seconds that the SDK's own tasks have to end once they were cancelled."""


class OpenAIAgentsAgent(ForeignAgent):
    """An agent of the OpenAI Agents SDK as a model.

    Its tools, handoffs, guardrails and output type are its own. A session's history goes to it as its own items, tool
    calls included; the instructions of the `definable` agent come first, as a system message. The SDK reports its
    traces to OpenAI unless it is told not to (by OPENAI_AGENTS_DISABLE_TRACING=1, or in `run_config`).

    Args:
        agent: An `agents.Agent`.
        context: What its tools and hooks share, as in `Runner.run(context=...)`.
        run_config: The SDK's settings of a run.
        max_turns: How often a run may ask the language model; the SDK's own default when None.
        id: The model's name; the agent's when None.

    Raises:
        ConfigurationError: It is no such agent.
    """

    provider = "openai_agents"

    def __init__(
        self,
        agent: Agent[Any],
        *,
        context: Any = None,
        run_config: RunConfig | None = None,
        max_turns: int | None = None,
        id: str | None = None,
    ) -> None:
        if not hasattr(agent, "handoffs"):
            raise ConfigurationError(f"OpenAIAgentsAgent takes an Agent of the OpenAI Agents SDK, not {agent!r}")
        super().__init__(id or agent.name)
        self._agent = agent
        self._settings: dict[str, Any] = {"context": context, "run_config": run_config}
        if max_turns is not None:
            self._settings["max_turns"] = max_turns

    async def _pieces(self, request: ModelRequest) -> AsyncGenerator[Piece]:
        from agents import Runner  # the user's: who has an agent of it has it installed

        result = Runner.run_streamed(self._agent, list(self._items(request.messages)), **self._settings)
        try:
            async with aclosing(cast("AsyncGenerator[Any]", result.stream_events())) as events:
                try:
                    async for event in events:
                        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                            yield event.data.delta
                finally:
                    if not result.is_complete:
                        result.cancel()  # else closing its events waits for the end of the run
        finally:
            await _ended(result)
        yield self._reply(result)

    def _reply(self, result: RunResultStreaming) -> ModelReply:
        usage = result.context_wrapper.usage
        return ModelReply(
            as_text(result.final_output),
            usage=Usage(
                usage.input_tokens,
                usage.output_tokens,
                usage.input_tokens_details.cached_tokens or 0,
                usage.output_tokens_details.reasoning_tokens or 0,
            ),
            model=_name(result.last_agent.model),
            provider=self.provider,
            provider_data=as_data([item.to_input_item() for item in result.new_items]),
        )

    def _items(self, messages: Sequence[Message]) -> Iterator[Any]:
        for message in messages:
            data = self._own_data(message)
            if data is not None:
                yield from data
            elif message.role == "user" and message.images:
                yield {"role": "user", "content": list(_parts(message))}
            elif message.role != "tool" and message.content:
                yield {"role": message.role, "content": message.content}


async def _ended(result: RunResultStreaming) -> None:
    """Until the SDK's task has ended: where it is cancelled, the SDK does not wait for it."""
    task, ended = result.run_loop_task, anyio.Event()
    if task is not None:
        task.add_done_callback(lambda _: ended.set())
        with anyio.move_on_after(CANCEL_TIMEOUT, shield=True):
            await ended.wait()


def _name(model: Any) -> str | None:
    """Which language model an agent asks."""
    name = getattr(model, "model", model)
    return name if isinstance(name, str) else None


def _parts(message: Message) -> Iterator[dict[str, Any]]:
    if message.content:
        yield {"type": "input_text", "text": message.content}
    for image in message.images:
        yield {"type": "input_image", "detail": "auto", "image_url": _url(image)}


def _url(image: Image) -> str:
    if image.data is None:
        return image.url or ""
    return f"data:{image.media_type};base64,{b64encode(image.data).decode('ascii')}"
