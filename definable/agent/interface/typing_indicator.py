"""Shows that the agent is at work, for as long as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio

from definable.agent.containment import closing_what_it_leaves

from .companion import with_companion

Result = TypeVar("Result")


async def while_typing(
    show: Callable[[], Awaitable[None]], interval: float, work: Callable[[], Awaitable[Result]]
) -> Result:
    """Do a piece of work, showing all the while that somebody is at it.

    Args:
        show: Shows it for a few seconds; what it raises is logged, and ends the showing alone.
        interval: Seconds after which it must be shown again.
        work: What is done.
    """
    return await with_companion(work, partial(_keep_showing, show, interval))


async def _keep_showing(show: Callable[[], Awaitable[None]], interval: float) -> None:
    while True:
        await closing_what_it_leaves(show, show)
        await anyio.sleep(interval)
