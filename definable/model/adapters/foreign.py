"""What the adapters share: where a framework runs, what it is told, and its errors in ours.

Such an agent makes its own tool calls and turns within one reply. What it needs to go on with a conversation, it gets
back by `Message.provider_data`, under its framework's name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from pydantic_core import to_json, to_jsonable_python

from definable.concurrency.asyncio_thread import AsyncioHome, RemoteIteration
from definable.concurrency.isolation import error_text, sole_member
from definable.errors import (
    DefinableError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
)
from definable.model.function import Piece, PieceModel
from definable.model.message import Message, ModelRequest


class ForeignAgent(PieceModel):
    """An agent of a framework that runs on asyncio alone; on trio it runs in the one asyncio thread of the service.

    Args:
        id: The model's name, as shown in outputs and logs.
    """

    provider: str
    """The framework: what spans call it, and whose `provider_data` goes back to it."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._asyncio = AsyncioHome()

    async def aclose(self) -> None:
        """Leave the asyncio thread, where there is one; who leaves it last ends it."""
        await self._asyncio.aclose()

    @asynccontextmanager
    async def _opened(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[Piece]]:
        self._check(request)
        loop = await self._asyncio.loop()
        async with RemoteIteration(loop, partial(self._explained, request), self.id) as pieces:
            yield pieces

    def _check(self, request: ModelRequest) -> None:
        if request.tools:
            names = ", ".join(tool.name for tool in request.tools)
            raise ModelRequestError(f"{self.id} cannot be given tools ({names}): it has those of its own framework")
        if request.output_schema is not None:
            raise ModelRequestError(f'{self.id} knows no schema by a parameter of its provider: output_mode="prompt"')

    async def _explained(self, request: ModelRequest) -> AsyncGenerator[Piece]:
        try:
            async with aclosing(self._pieces(request)) as pieces:
                async for piece in pieces:
                    yield piece
        except DefinableError:
            raise
        except Exception as error:
            raise explain(error, self.id) from error

    def _own_data(self, message: Message) -> Any:
        """What the framework wants back with a message of its own; None where there is nothing."""
        data = message.provider_data if message.provider == self.provider else None
        return None if data is None else data.get("messages")


def instructions(messages: Sequence[Message]) -> str | None:
    """What system messages say, for a framework that takes it apart from the conversation."""
    return "\n\n".join(message.content for message in messages if message.role == "system") or None


def as_text(output: Any) -> str:
    """A framework's final output, whose type its agent chooses, as text."""
    return output if isinstance(output, str) else "" if output is None else to_json(output, fallback=str).decode()


def as_data(messages: Any) -> Mapping[str, Any]:
    """A framework's messages as JSON values, to be handed back by `_own_data`."""
    return {"messages": to_jsonable_python(messages, fallback=str)}


def explain(error: Exception, whose: str) -> ModelError:
    """A framework's failure in the words of our error tree, by the HTTP status that one of its causes has.

    Args:
        error: What it raised.
        whose: The model's name.
    """
    text = f"{whose} failed: {error_text(error)}"
    causes = list(_causes(error))
    status = next((code for cause in causes if isinstance(code := getattr(cause, "status_code", None), int)), None)
    match status:
        case 401 | 403:
            return ModelAuthenticationError(text, status=status)
        case 429:
            return ModelRateLimitError(text, status=status)
        case 408 | 504:
            return ModelTimeoutError(text, status=status)
        case int() if status >= 500:
            return ModelResponseError(text, status=status)
        case int() if status >= 400:
            return ModelRequestError(text, status=status)
        case _:
            pass
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if names & {"TimeoutError", "TimeoutException", "APITimeoutError"}:
        return ModelTimeoutError(text)
    if names & {"ConnectionError", "TransportError", "APIConnectionError"}:
        return ModelConnectionError(text)
    return ModelError(text)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it, the last first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        error = sole_member(error)
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
