"""The cancel scopes that are open in a task, on trio.

trio has no public way to see them. This leans on its internals, `_cancel_status` and `_child_nurseries` of a task, as
they are in trio 0.31 to 0.35. With another trio, whose parts are others, what is left open is not noticed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import trio

from . import containment_trio_generators
from .error_text import error_text

logger: logging.Logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CLOSE_TIMEOUT = 1.0
"""Seconds that the tasks of a nursery have to end of which only the scope was closed."""

POLL_INTERVAL = 0.001
"""Seconds between two looks at the tasks of a nursery that was left open: trio notifies its own end alone."""


def innermost() -> Any:
    """The status of the cancel scope that the running task has opened last."""
    return getattr(trio.lowlevel.current_task(), "_cancel_status", None)


async def close_beyond(scope: Any, timeout: float) -> str:
    """Cancel and close what was opened after a scope; says in words what that was."""
    task: Any = trio.lowlevel.current_task()
    tasks = 0
    while (status := task._cancel_status) is not scope and status is not None:
        left: trio.CancelScope = status._scope
        left.cancel()
        nurseries: list[Any] = task._child_nurseries
        if nurseries and nurseries[-1].cancel_scope is left:
            tasks += await _close_innermost(nurseries, timeout)
        left.__exit__(None, None, None)
    if tasks:
        return f"a task group with {tasks} tasks" if tasks > 1 else "a task group with a task"
    return "a cancel scope, a time-out or a task group"


async def _close_innermost(nurseries: list[Any], timeout: float) -> int:
    """End the tasks of the nursery that was opened last; their number.

    It is closed first: whoever leaves it meanwhile or later, as trio does when it closes an async generator that nobody
    has finished, neither waits in it, nor reaches for the nurseries of this task.
    """
    nursery: Any = nurseries.pop()
    nursery._closed = True
    nursery._parent_task = _NoTask(nursery)
    count = len(nursery.child_tasks)
    with trio.move_on_after(timeout, shield=True):  # its scope is cancelled, and this task is in it
        while nursery.child_tasks:  # noqa: ASYNC110 - trio has no event of it
            await trio.sleep(POLL_INTERVAL)
    if nursery.child_tasks:
        trio.lowlevel.spawn_system_task(_await_the_rest, nursery)
    return count


async def _await_the_rest(nursery: Any) -> None:
    """Wait for tasks that do not end when they are cancelled; trio's run cannot end while tasks belong to nobody."""
    try:
        async with trio.open_nursery() as home:
            heir: Any = home
            for task in nursery.child_tasks:
                nursery._children.remove(task)
                task._parent_nursery = heir
                heir._children.add(task)
    except BaseException as error:
        logger.error("a task that was left behind failed: %s", error_text(error))


class _NoTask:
    """Stands for the task that opened a nursery, once the nursery was closed for it."""

    def __init__(self, nursery: object) -> None:
        self._child_nurseries = [nursery]


def close_generators_safely() -> None:
    """Have async generators that user code begins and does not finish closed without harm to what runs it."""
    containment_trio_generators.install()


async def in_own_task(function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
    """Call an async function in the caller's task: on trio nothing holds a task that has not opened a scope in it.

    A nursery of which only the scope was closed, by one around it that was closed first, would end the task at its end.
    """
    nurseries: list[Any] = getattr(trio.lowlevel.current_task(), "_child_nurseries", [])
    before = len(nurseries)
    try:
        return await function(*args)
    finally:
        while len(nurseries) > before:
            nurseries[-1].cancel_scope.cancel()
            await _close_innermost(nurseries, CLOSE_TIMEOUT)
