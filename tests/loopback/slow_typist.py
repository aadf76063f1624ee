"""A model that takes its time for every word, for tests of what is shown meanwhile."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from definable.model import ModelDelta, ModelReply, ModelRequest, OfflineModel


def words(text: str) -> list[str]:
    """Each with the white space behind it."""
    return re.findall(r"\s*\S+\s*|\s+", text)


class SlowTypist(OfflineModel):
    """Plays its script as `OfflineModel` does.

    Args:
        script: What to answer, one item a request; without one it echoes.
        pause: Seconds before each piece.
        fails_after: Pieces after which the stream breaks.
        cut: Cuts a reply into pieces.
    """

    def __init__(
        self,
        *script: Any,
        pause: float = 0.25,
        fails_after: int | None = None,
        cut: Callable[[str], list[str]] = words,
    ) -> None:
        super().__init__(script or None)
        self.pause = pause
        self.fails_after = fails_after
        self.cut = cut

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        return _Typing(self, request)


class _Typing:
    def __init__(self, model: SlowTypist, request: ModelRequest) -> None:
        self._model = model
        self._request = request
        self._pieces: Iterator[str] = iter(())
        self._reply: ModelReply | None = None

    async def __aenter__(self) -> _Typing:
        self._reply = await self._model.reply(self._request)
        pieces = self._model.cut(self._reply.content)
        self._pieces = iter(pieces[: self._model.fails_after])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reply = None

    def __aiter__(self) -> _Typing:
        return self

    async def __anext__(self) -> ModelDelta:
        for piece in self._pieces:
            await anyio.sleep(self._model.pause)
            return ModelDelta(piece)
        if self._model.fails_after is not None:
            raise ZeroDivisionError
        return ModelDelta(reply=self._reply)
