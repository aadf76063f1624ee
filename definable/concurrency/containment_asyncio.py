"""`call.OpenScopes` on asyncio: the cancel scopes that are open in a task, and tasks for pieces of work.

anyio has no public way to see a task's scopes, nor one to have a task take its caller's place in them: a task group for
each piece of work would cost 20 us, this costs 5. It leans on anyio's `_task_states` and on the links between a
`CancelScope` and its tasks, as they are in anyio 4.16 (https://github.com/agronholm/anyio, `_backends/_asyncio.py`).
With another anyio, whose parts are others, work runs in a task group and what it leaves open is not noticed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import anyio
from anyio._backends import _asyncio as backend

from definable.concurrency.logs import logger_named

Result = TypeVar("Result")

logger: logging.Logger = logger_named(__name__)

_states: Any = getattr(backend, "_task_states", None)
_TaskState: Any = getattr(backend, "TaskState", None)

IS_KNOWN: bool = (
    _states is not None
    and {"parent_id", "cancel_scope"} <= set(getattr(_TaskState, "__slots__", ()))
    and all(
        hasattr(backend.CancelScope(), name)
        for name in ("_tasks", "_child_scopes", "_parent_scope", "_cancel_handle", "_deliver_cancellation")
    )
)
"""Whether this version of anyio is one whose parts are used here."""
if not IS_KNOWN:
    logger.warning("this version of anyio is not known: a cancel scope that user code leaves open is not noticed")


def innermost() -> Any:
    if not IS_KNOWN:
        return None
    state = _states.get(asyncio.current_task())
    return None if state is None else state.cancel_scope


async def close_beyond(scope: Any, timeout: float) -> str:
    task, tasks = asyncio.current_task(), set[asyncio.Task[Any]]()
    state = _states[task]
    while (left := state.cancel_scope) is not scope and left is not None:
        left.cancel()
        tasks |= _tasks_of(left)
        left.__exit__(None, None, None)
    tasks.discard(task)  # pyright: ignore[reportArgumentType] - there is one, it runs
    if tasks:
        with anyio.CancelScope(shield=True):  # bounded by the wait's own time-out
            await asyncio.wait(tasks, timeout=timeout)
        return f"a task group with {len(tasks)} tasks" if len(tasks) > 1 else "a task group with a task"
    return "a cancel scope, a time-out or a task group"


def _tasks_of(scope: Any) -> set[asyncio.Task[Any]]:
    return scope._tasks.union(*map(_tasks_of, scope._child_scopes))


def close_generators_safely() -> None:
    """Nothing is needed: a task group that is left in another task fails there, and harms nobody else."""


async def in_own_task(function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
    """Call an async function in a task that ends with it, and that takes the caller's place in its cancel scope.

    What cancels the caller's scope cancels the new task in its stead; a cancellation by `Task.cancel` goes through the
    wait for it. `SystemExit` and `KeyboardInterrupt` would end the event loop out of a task: they are carried over.
    """
    if not IS_KNOWN:
        return await _in_task_group(function, *args)
    host = asyncio.current_task()
    caller = _states.get(host)
    scope = None if caller is None else caller.cancel_scope
    state = _TaskState(None if caller is None else caller.parent_id, scope)
    if scope is not None:
        scope._tasks.discard(host)
    task = None
    ended: list[tuple[Result, BaseException | None]] = []
    try:
        task = _started(_outcome(state, ended, function, args))
        if scope is not None and not task.done() and state.cancel_scope is scope:
            scope._tasks.add(task)
            _go_on_cancelling(scope)  # it may have been cancelled by what has run of the task by now
        try:
            task.result() if task.done() else await task
        except asyncio.CancelledError:
            if not ended or (host is not None and host.cancelling()):
                raise
            # Else the work was at its end and had its own task cancelled: there was nothing left of it to cancel.
    finally:
        if scope is not None:
            scope._tasks -= {task}
            scope._tasks.add(host)
            _go_on_cancelling(scope)
    result, error = ended.pop()
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback has this frame: a cycle
    return result


def _started(coroutine: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """A task that has run up to its first wait, where Python can do that: work that never waits costs no turn."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.create_task(coroutine)


async def _in_task_group(function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
    """The same by public means, at four times the cost."""
    ended: list[tuple[Result, BaseException | None]] = []

    async def run() -> None:
        try:
            ended.append((await function(*args), None))
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            ended.append((cast(Any, None), error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    if not ended:
        raise asyncio.CancelledError  # by `Task.cancel`: the group takes it for an end
    result, failure = ended[0]
    if failure is not None:
        raise failure
    return result


async def _outcome(
    state: Any,
    ended: list[tuple[Result, BaseException | None]],
    function: Callable[..., Coroutine[Any, Any, Result]],
    args: Any,
) -> None:
    _states[asyncio.current_task()] = state
    try:
        ended.append((await function(*args), None))
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        ended.append((cast(Any, None), error))


def _go_on_cancelling(scope: Any) -> None:
    """Have the caller cancelled again where its scope is: the delivery ended when it saw the new task done."""
    while scope is not None:
        if scope.cancel_called:
            if scope._cancel_handle is None:
                scope._deliver_cancellation(scope)
            return
        if scope.shield:
            return
        scope = scope._parent_scope
