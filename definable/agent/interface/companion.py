"""A piece of work with something going on beside it: typing is shown while a run goes on, and so is its reply."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio

from definable.agent.isolation import Isolation

from .errors import InterfaceError

logger: logging.Logger = logging.getLogger(__name__)

COMPANION = Isolation("a companion")

Result = TypeVar("Result")


async def with_companion(
    work: Callable[[], Awaitable[Result]],
    companion: Callable[[], Coroutine[Any, Any, None]],
    dismiss: Callable[[], None] | None = None,
) -> Result:
    """Do a piece of work, and something else for as long as it takes.

    Args:
        work: What is done; what it raises comes out as it is.
        companion: What goes on beside it; what it raises is logged, and ends the companion alone.
        dismiss: Tells the companion that the work is over, and it is waited for; None: it is cancelled then.
    """
    failure: Exception | None = None
    result: list[Result] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_accompany, companion)
        try:
            result.append(await work())
        except Exception as error:  # raised below: the group would wrap it
            failure = error
        if dismiss is None:
            tasks.cancel_scope.cancel()
        else:
            dismiss()
    if failure is not None:
        raise failure
    return result[0]


async def _accompany(companion: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        with COMPANION:  # in a task of its own, where asyncio would end the event loop at a `SystemExit`
            await companion()
    except Exception as error:  # a platform that cannot be reached says so elsewhere
        level = logging.DEBUG if isinstance(error, InterfaceError | OSError) else logging.WARNING
        logger.log(level, "what went on beside a piece of work failed", exc_info=True)
