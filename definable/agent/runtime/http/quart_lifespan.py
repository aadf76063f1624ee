"""What a user's blueprint has run around all requests: begun in order, and ended in the opposite one, also half begun.

The application of `quart_app.py` runs its `before_serving`, `while_serving` and `after_serving` functions through
here: Quart and QuartTrio each have an order of their own, and both leave the rest open when one of them fails.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import anyio
from quart import Quart

from definable.concurrency.call import closing_what_it_leaves

SHUTDOWN_TIMEOUT = 10.0
"""Seconds for the `after_serving` functions when the service is cancelled."""

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
                await closing_what_it_leaves("a before_serving function", hook)
            for generator in self._around:
                await closing_what_it_leaves("a while_serving function", anext, generator)
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
                await closing_what_it_leaves("an after_serving function", self._ends.pop())
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


@asynccontextmanager
async def quart_lifespan(app: Quart) -> AsyncGenerator[None]:
    """Runs the application's `before_serving`, `while_serving` and `after_serving` functions around the body.

    Also holds its background tasks; they have `BACKGROUND_TASK_SHUTDOWN_TIMEOUT` seconds once the body has ended, and
    what they may use is closed after them. To be left after the last request has been answered.

    Raises:
        Exception: What a `before_serving` or `after_serving` function raised; it is logged by then.
    """
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as background:
            cast(Any, app).nursery = background
            try:
                await app.startup()
                yield
            except Exception as error:
                failure = error  # raised outside, because a task group would wrap it
            finally:
                app.shutdown_event.set()
                patience = cast("dict[str, float | None]", app.config)["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"]
                background.cancel_scope.deadline = anyio.current_time() + (0 if failure else patience or 0)
    finally:
        # Shielded: what `before_serving` opened is closed also when the service is cancelled. Bounded.
        with anyio.move_on_after(SHUTDOWN_TIMEOUT, shield=True):
            async with anyio.create_task_group() as background:
                cast(Any, app).nursery = background
                try:
                    await app.shutdown()
                except Exception as error:
                    failure = failure or error
    if failure is not None:
        raise failure
