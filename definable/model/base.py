"""The `Model` protocol: the narrow waist between the run loop and every provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from .message import ModelDelta, ModelReply, ModelRequest


@runtime_checkable
class Model(Protocol):
    """A language model: one method for a whole reply, one for a stream.

    Implementations keep no state of a conversation: a request holds all. They must be cancellable at every await and
    raise `definable.errors.ModelError` (or one below it) when the provider fails.
    """

    @property
    def id(self) -> str:
        """The model's name, as shown in outputs and logs."""
        ...

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer a request whole.

        Raises:
            ModelError: The provider failed.
        """
        ...

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """Answer a request piece by piece: text deltas as they come, then one delta with the whole `reply`.

        A context manager, so that the connection is closed whenever the reader leaves.

        Raises:
            ModelError: The provider failed, also in the middle of a stream.
        """
        ...

    async def aclose(self) -> None:
        """Close what the model holds in the running event loop (connections); it may be used again afterwards."""
        ...
