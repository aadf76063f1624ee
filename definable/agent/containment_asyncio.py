"""The cancel scopes that are open in a task, and tasks for pieces of work, on asyncio.

anyio has no public way to see a task's scopes, nor one to have a task take its caller's place in them: a task group for
each piece of work would cost 20 us, this costs 5. It leans on anyio's `_task_states` and on the links between a
`CancelScope` and its tasks, as they are in anyio 4.16; `tests/agent/test_containment.py` fails where they change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import anyio
from anyio._backends import _asyncio as backend

Result = TypeVar("Result")

_states: Any = cast(Any, backend)._task_states
_TaskState: Any = backend.TaskState


def innermost() -> Any:
    """The cancel scope that the running task has opened last; None for none."""
    state = _states.get(asyncio.current_task())
    return None if state is None else state.cancel_scope


async def close_beyond(scope: Any, timeout: float) -> str:
    """Cancel and close what was opened after a scope; says in words what that was."""
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


async def in_own_task(function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
    """Call an async function in a task that ends with it, and that takes the caller's place in its cancel scope.

    What cancels the caller's scope cancels the new task in its stead; a cancellation by `Task.cancel` goes through the
    wait for it. `SystemExit` and `KeyboardInterrupt` would end the event loop out of a task: they are carried over.
    """
    host = asyncio.current_task()
    caller = _states.get(host)
    scope = None if caller is None else caller.cancel_scope
    state = _TaskState(None if caller is None else caller.parent_id, scope)
    task = asyncio.create_task(_outcome(state, function, args))
    if scope is not None and not task.done():  # an eager task may be
        scope._tasks.discard(host)
        if state.cancel_scope is scope:
            scope._tasks.add(task)
    try:
        result, error = await task
    finally:
        if scope is not None:
            scope._tasks.discard(task)
            scope._tasks.add(host)
            _go_on_cancelling(scope)
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback has this frame: a cycle
    return result


async def _outcome(
    state: Any, function: Callable[..., Coroutine[Any, Any, Result]], args: Any
) -> tuple[Result, BaseException | None]:
    _states[asyncio.current_task()] = state
    try:
        return await function(*args), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error  # pyright: ignore[reportReturnType] - nobody looks at the result then


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
