"""`PydanticAIAgent`: an agent of Pydantic AI, https://pydantic.dev/docs/ai/ (package `pydantic-ai-slim`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from definable.errors import ConfigurationError
from definable.model.function import Piece
from definable.model.message import Image, Message, ModelReply, ModelRequest, Usage

from .foreign import ForeignAgent, as_data, as_text, instructions

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, UserContent
    from pydantic_ai.run import AgentRunResult


class PydanticAIAgent(ForeignAgent):
    """An agent of Pydantic AI as a model.

    Its tools, output type, retries and limits are its own. A session's history goes to it as its own messages, tool
    calls included; the instructions of the `definable` agent go beside its own.

    Args:
        agent: A `pydantic_ai.Agent`.
        deps: What its tools and instructions depend on, as in `agent.run(deps=...)`.
        id: The model's name; the agent's when None.

    Raises:
        ConfigurationError: It is no such agent.
    """

    provider = "pydantic_ai"

    def __init__(self, agent: Agent[Any, Any], *, deps: Any = None, id: str | None = None) -> None:
        if not callable(getattr(agent, "run_stream_events", None)):
            raise ConfigurationError(f"PydanticAIAgent takes an Agent of Pydantic AI, not {agent!r}")
        super().__init__(id or agent.name or "pydantic_ai")
        self._agent = agent
        self._deps = deps

    async def _pieces(self, request: ModelRequest) -> AsyncGenerator[Piece]:
        from pydantic_ai import AgentRunResultEvent  # the user's: who has an agent of it has it installed
        from pydantic_ai.capabilities import ReinjectSystemPrompt
        from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

        *history, prompt = [message for message in request.messages if message.role != "system"]
        running = self._agent.run_stream_events(
            user_content(prompt),
            message_history=self._history(history),
            instructions=instructions(request.messages),
            deps=self._deps,
            capabilities=[ReinjectSystemPrompt()],  # else an agent's system prompt is not sent with a history
            infer_name=False,
        )
        async with running as events:
            async for event in events:
                match event:
                    case (
                        PartStartEvent(part=TextPart(content=text))
                        | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                    ):
                        yield text
                    case AgentRunResultEvent(result=result):
                        yield self._reply(result)
                    case _:
                        pass

    def _reply(self, result: AgentRunResult[Any]) -> ModelReply:
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        usage = result.usage
        return ModelReply(
            as_text(result.output),
            usage=Usage(
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_tokens,
                usage.details.get("reasoning_tokens", 0),
            ),
            model=result.response.model_name,
            provider=self.provider,
            # Without the user's own message, which is in the history already.
            provider_data=as_data(ModelMessagesTypeAdapter.dump_python(result.new_messages()[1:], mode="json")),
        )

    def _history(self, messages: Sequence[Message]) -> list[ModelMessage]:
        from pydantic_ai import messages as theirs

        history: list[ModelMessage] = []
        for message in messages:
            data = self._own_data(message)
            if data is not None:
                history += theirs.ModelMessagesTypeAdapter.validate_python(data)
            elif message.role == "user":
                history.append(theirs.ModelRequest([theirs.UserPromptPart(user_content(message))]))
            elif message.role == "assistant" and message.content:
                history.append(theirs.ModelResponse([theirs.TextPart(message.content)]))
        return history


def user_content(message: Message) -> str | Sequence[UserContent]:
    """A user's message, with its images, as Pydantic AI takes it."""
    from pydantic_ai.messages import BinaryContent, ImageUrl

    if not message.images:
        return message.content

    def seen(image: Image) -> UserContent:
        if image.data is not None:
            return BinaryContent(image.data, media_type=image.media_type)
        return ImageUrl(image.url or "")

    return [*([message.content] if message.content else ()), *map(seen, message.images)]
