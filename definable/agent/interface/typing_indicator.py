"""Shows that the agent is at work, for as long as it is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


async def while_typing(
    show: Callable[[], Awaitable[None]], interval: float, work: Callable[[], Awaitable[Result]]
) -> Result:
    """Do a piece of work, showing all the while that somebody is at it.

    Args:
        show: Shows it for a few seconds; what it raises is logged at debug, and ends the showing alone.
        interval: Seconds after which it must be shown again.
        work: What is done.
    """
    failure: Exception | None = None
    result: list[Result] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_showing, show, interval)
        try:
            result.append(await work())
        except Exception as error:  # raised below: the group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]


async def _keep_showing(show: Callable[[], Awaitable[None]], interval: float) -> None:
    try:
        while True:
            await show()
            await anyio.sleep(interval)
    except Exception:
        logger.debug("the typing indicator failed", exc_info=True)
