"""What a user's blueprint has run around all requests: begun in order, and ended in the opposite one, also half begun.

The Quart application of this room runs its `before_serving`, `while_serving` and `after_serving` functions through
here: Quart and QuartTrio each have an order of their own, and both leave the rest open when one of them fails.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeAlias

Hook: TypeAlias = Callable[[], Awaitable[object]]

Report: TypeAlias = Callable[[Exception], Awaitable[None]]
"""Tells of a failure."""


class ServingHooks:
    """The hooks of one serving.

    Args:
        before: Run at the start.
        around: Run up to their `yield` then, and beyond it at the end.
        after: Run at the end.
        report: Told of each failure.
    """

    def __init__(
        self, before: Sequence[Hook], around: Sequence[AsyncGenerator[object]], after: Sequence[Hook], report: Report
    ) -> None:
        self._before = before
        self._around = around
        self._after = after
        self._report = report
        self._ends: list[Hook] = []
        """What is left to do, the last first."""

    async def start(self) -> None:
        """Begin them one after another.

        Raises:
            Exception: What one of them raised; `end` ends those before it.
        """
        try:
            for hook in self._before:
                await hook()
            for generator in self._around:
                await anext(generator)
                self._ends.append(_LastPart(generator))
        except Exception as error:
            await self._report(error)
            raise
        self._ends[:0] = reversed(self._after)

    async def end(self) -> None:
        """End what has begun: each, whatever becomes of the others.

        Raises:
            Exception: The first that one of them raised.
        """
        failure: Exception | None = None
        while self._ends:
            try:
                await self._ends.pop()()
            except Exception as error:
                await self._report(error)
                failure = failure or error
        if failure is not None:
            raise failure


class _LastPart:
    """What a generator does beyond its `yield`."""

    def __init__(self, generator: AsyncGenerator[object]) -> None:
        self._generator = generator

    async def __call__(self) -> None:
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            return
        raise RuntimeError(f"{self._generator!r} yields more than once")
