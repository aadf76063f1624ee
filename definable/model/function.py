"""`FunctionModel`, and what it shares with the agents of other frameworks: a model that answers in pieces of text.

`adapters/` builds on `PieceModel`; the run loop calls both like any `Model`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from inspect import isasyncgen, isgeneratorfunction
from typing import Any, TypeAlias, cast

from definable.concurrency.call import call_user, is_generator_function
from definable.concurrency.isolation import error_text
from definable.errors import ConfigurationError, DefinableError, ModelError, ModelResponseError

from .message import ModelDelta, ModelProfile, ModelReply, ModelRequest

Piece: TypeAlias = str | ModelReply
"""Some text of an answer, or, as the last one, the whole reply."""


@dataclass(frozen=True, slots=True)
class PlainProfile:
    """Of a model that knows text alone: it is asked for an answer of a type in its instructions."""

    tools: bool = False
    json_schema: bool = False
    json_schema_with_tools: bool = False


class PieceModel(ABC):
    """A model whose answers come in pieces; the base of those that are no provider of their own.

    Args:
        id: The model's name, as shown in outputs and logs.
    """

    profile: ModelProfile = PlainProfile()

    def __init__(self, id: str) -> None:
        if not id:
            raise ConfigurationError("id names the model and cannot be empty")
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer whole.

        Raises:
            ModelError: What answers has failed.
        """
        reply: ModelReply | None = None
        async with self.stream(request) as deltas:
            async for delta in deltas:
                reply = delta.reply
        if reply is None:
            raise ModelResponseError(f"{self.id} ended without an answer")
        return reply

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelDelta]]:
        """Answer piece by piece.

        Raises:
            ModelError: What answers has failed, also in the middle.
        """
        async with self._opened(request) as pieces, aclosing(self._deltas(pieces)) as deltas:
            yield deltas

    async def aclose(self) -> None:  # noqa: B027 - most keep nothing open
        """Do nothing: there is nothing to close."""

    def _opened(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """The pieces of the answer to a request, while the context is open."""
        return aclosing(self._pieces(request))

    @abstractmethod
    def _pieces(self, request: ModelRequest) -> AsyncGenerator[Piece]:
        """Answer a request: pieces of text, and a reply as the last piece where there is more to say."""

    async def _deltas(self, pieces: AsyncIterator[Piece]) -> AsyncGenerator[ModelDelta]:
        texts: list[str] = []
        reply: ModelReply | None = None
        try:
            async for piece in pieces:
                if reply is not None:
                    raise ModelResponseError(f"{self.id} went on after its whole reply")
                if isinstance(piece, ModelReply):
                    reply = piece
                elif type(piece) is str or isinstance(cast("object", piece), str):
                    if piece:
                        texts.append(piece)
                        yield ModelDelta(piece)
                else:
                    raise ModelResponseError(f"{self.id} answered with {type(piece).__name__}, not with text")
        except DefinableError:
            raise
        except Exception as error:
            raise ModelError(f"{self.id} failed: {error_text(error)}") from error
        said = "".join(texts)
        reply = ModelReply(said) if reply is None else reply
        if not said.endswith(reply.content):
            yield ModelDelta(reply.content)  # what was streamed before it was said on the way
        yield ModelDelta(reply=self._completed(reply, said))

    def _completed(self, reply: ModelReply, said: str) -> ModelReply:
        """A reply with what its author may leave out: the streamed text, the model's name, the reason of tool calls."""
        asks_for_tools = reply.tool_calls and reply.finish_reason == "stop"
        return replace(
            reply,
            content=reply.content or said,
            tool_calls=tuple(reply.tool_calls),
            model=reply.model or self.id,
            finish_reason="tool_calls" if asks_for_tools else reply.finish_reason,
        )


class FunctionModel(PieceModel):
    """A function that answers as a model: code of your own, or a library that has no adapter.

    Args:
        function: Gets the conversation, a tuple of `Message`s, and gives the answer: text, or a `ModelReply` (with tool
            calls, usage ...). A sync function runs in a worker thread, an async one on the event loop; an async
            generator yields pieces of text, as they come, and may yield a `ModelReply` last.
        id: The model's name; the function's when None.

    Raises:
        ConfigurationError: It cannot be called so.

    Example:
        >>> from definable.agent import Agent
        >>> agent = Agent(FunctionModel(lambda messages: messages[-1].content.upper(), id="upper"))
        >>> agent.run("hi").content
        'HI'
    """

    provider = "definable.function"
    """What spans call it."""

    def __init__(self, function: Callable[..., Any], *, id: str | None = None) -> None:
        if not callable(function):
            raise ConfigurationError(f"FunctionModel takes a function of the messages, not {function!r}")
        if isgeneratorfunction(function) or isgeneratorfunction(getattr(type(function), "__call__", None)):  # noqa: B004
            raise ConfigurationError(f"{function!r} is a sync generator: FunctionModel takes an async one")
        super().__init__(getattr(function, "__name__", type(function).__name__) if id is None else id)
        self._function = function
        self._is_generator = is_generator_function(function)

    async def _pieces(self, request: ModelRequest) -> AsyncGenerator[Piece]:
        messages = tuple(request.messages)
        if not self._is_generator:
            answer = await call_user(self._function, messages)
            if not isasyncgen(answer):
                yield answer
                return
        else:
            answer = self._function(messages)
        async with aclosing(cast("AsyncGenerator[Piece]", answer)) as pieces:
            async for piece in pieces:
                yield piece
