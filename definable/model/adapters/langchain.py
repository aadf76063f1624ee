"""`LangChainRunnable`: whatever LangChain runs, a chain, a chat model, a graph (package `langchain-core`),
https://reference.langchain.com/python/langchain-core/runnables/"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from definable.errors import ConfigurationError
from definable.model.function import Piece
from definable.model.message import Image, Message, ModelReply, ModelRequest, Usage

from .foreign import ForeignAgent, as_text

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable


class LangChainRunnable(ForeignAgent):
    """A runnable of LangChain as a model.

    A chat model, or a chain that begins with one, takes the conversation as it is. What takes anything else is told by
    `input`; what gives anything but text and messages, by `output`. So for a graph of LangGraph:

    ```
    LangChainRunnable(
        graph,
        input=lambda messages: {"messages": messages},
        output=lambda chunk: chunk[0],  # a message's piece, beside where in the graph it comes from
        stream_mode="messages",
    )
    ```

    Args:
        runnable: The runnable.
        input: Makes its input from the conversation, a list of LangChain's messages; that list itself when None.
        output: Takes the text, or a message of LangChain's, from each chunk that it streams.
        id: The model's name; the runnable's when None.
        **options: Further arguments of its `astream`, such as `config`.

    Raises:
        ConfigurationError: It is no runnable.
    """

    provider = "langchain"

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        *,
        input: Callable[[list[BaseMessage]], Any] | None = None,
        output: Callable[[Any], Any] | None = None,
        id: str | None = None,
        **options: Any,
    ) -> None:
        if not callable(getattr(runnable, "astream", None)):
            raise ConfigurationError(f"LangChainRunnable takes a Runnable of LangChain, not {runnable!r}")
        super().__init__(id or getattr(runnable, "name", None) or type(runnable).__name__)
        self._runnable = runnable
        self._input = input
        self._output = output
        self._options = options

    async def _pieces(self, request: ModelRequest) -> AsyncGenerator[Piece]:
        from langchain_core.messages import AIMessage, BaseMessage  # the user's: who has a runnable has it installed

        conversation = [message for message in map(their_message, request.messages) if message is not None]
        chunks = self._runnable.astream(
            conversation if self._input is None else self._input(conversation), **self._options
        )
        usage, model = Usage(), None
        async with aclosing(cast("AsyncGenerator[Any]", chunks)) as streamed:
            async for chunk in streamed:
                said = chunk if self._output is None else self._output(chunk)
                if isinstance(said, AIMessage):
                    usage += _usage(said)
                    model = said.response_metadata.get("model_name") or model
                if not isinstance(said, BaseMessage):
                    yield as_text(said)
                elif said.type in ("ai", "AIMessageChunk"):
                    yield str(said.text)
        yield ModelReply(usage=usage, model=model)


def their_message(message: Message) -> BaseMessage | None:
    """A message as LangChain takes it; None for what has no text, or belongs to another model's tools."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    match message.role:
        case "user":
            return HumanMessage(_content(message))
        case "assistant" if message.content:
            return AIMessage(message.content)
        case "system":
            return SystemMessage(message.content)
        case _:
            return None


def _content(message: Message) -> Any:
    if not message.images:
        return message.content
    text: Sequence[Any] = [{"type": "text", "text": message.content}] if message.content else []
    return [*text, *map(_block, message.images)]


def _block(image: Image) -> dict[str, Any]:
    if image.data is None:
        return {"type": "image", "url": image.url}
    return {"type": "image", "base64": b64encode(image.data).decode("ascii"), "mime_type": image.media_type}


def _usage(message: Any) -> Usage:
    counted: dict[str, Any] = message.usage_metadata or {}
    return Usage(
        counted.get("input_tokens", 0),
        counted.get("output_tokens", 0),
        counted.get("input_token_details", {}).get("cache_read", 0),
        counted.get("output_token_details", {}).get("reasoning", 0),
    )
