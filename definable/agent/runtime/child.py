"""The runtime's own children run as long as it serves: one that ends by itself is an error, and never a silent one.

anyio on asyncio takes a child that ends by a cancellation which no scope of anyio's made (`Task.cancel`, an
`asyncio.timeout` that somebody left open) for one that may end so, and cancels the whole group without an error.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskStatus

from definable.agent.error_text import error_text
from definable.agent.isolation import failure_of
from definable.errors import ServeError

logger: logging.Logger = logging.getLogger("definable")


async def run_child(
    name: str,
    function: Callable[..., Awaitable[object]],
    may_end: Callable[[], bool],
    *,
    task_status: TaskStatus[Any] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run one of the runtime's children.

    Args:
        name: Of the child, for the error.
        function: The child; it is handed `task_status`.
        may_end: Whether it may end by itself now, since a stop has begun.
        task_status: The child's own.

    Raises:
        ServeError: It ended by itself: serving cannot go on.
        Exception: What it raised; it is logged by then.
    """
    try:
        await function(task_status=task_status)
    except Exception as error:
        logger.critical("%s failed, and serving ends: %s", name, error_text(error))
        raise
    except anyio.get_cancelled_exc_class() as stray:
        if anyio.get_current_task().has_pending_cancellation():
            raise
        raise _ended(name, "it was cancelled by none of our scopes") from failure_of(stray, name)
    if not may_end():
        raise _ended(name, "it returned")


def _ended(name: str, how: str) -> ServeError:
    logger.critical("%s ended by itself (%s): serving ends, since it cannot do without", name, how)
    return ServeError(f"{name} ended by itself ({how}): serving cannot go on")
