"""`call.OpenScopes` on trio: the cancel scopes that are open in a task, and generators that user code leaves behind.

trio has no public way to see a task's scopes. This leans on `_cancel_status` and `_child_nurseries` of a task, as they
are in trio 0.31 to 0.35. With another trio, whose parts are others, what is left open is not noticed, and
`close_generators_safely` does nothing.

Where an async generator has a task group open around its `yield` and becomes garbage, trio closes it in a task of its
own, which then leaves a nursery whose parent is another task: it takes the innermost nursery from that task's list,
whichever that is; and when the last child ends trio wakes the parent in its stead, which ends the whole run with
`TrioInternalError` where the parent is about to run (https://github.com/python-trio/trio/issues/1443). So the closing
task becomes the parent of each nursery that it leaves.
"""

from __future__ import annotations

import gc
import logging
import sys
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any, TypeVar, cast

import trio

from definable.concurrency.logs import logger_named

from .isolation import error_text

logger: logging.Logger = logger_named(__name__)

Result = TypeVar("Result")

CLOSE_TIMEOUT = 1.0
"""Seconds that the tasks of a nursery have to end of which only the scope was closed."""

POLL_INTERVAL = 0.001
"""Seconds between two looks at the tasks of a nursery that was left open: trio notifies its own end alone."""


def innermost() -> Any:
    return getattr(trio.lowlevel.current_task(), "_cancel_status", None)


async def close_beyond(scope: Any, timeout: float) -> str:
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


AnyGenerator = AsyncGenerator[Any, Any]
Finalizer = Callable[[Any], object]

AWAITS: dict[type[Any], str] = {
    CoroutineType: "cr_await",
    AsyncGeneratorType: "ag_await",
    GeneratorType: "gi_yieldfrom",
}
"""The attribute of each kind that names what it waits for."""

MAX_DEPTH = 100
"""Calls that are looked through for the nursery that a generator leaves."""


def close_generators_safely() -> None:
    """Closes async generators that are garbage without harm to what runs, until the running `trio.run` ends."""
    finalizer: Finalizer | None = sys.get_asyncgen_hooks().finalizer
    if finalizer is None or getattr(finalizer, "func", None) is _finalize_safely:
        return
    try:
        from trio._core import _run as internals  # pyright: ignore[reportPrivateUsage]  # another trio may lack it

        foreign: set[int] = cast(Any, internals).GLOBAL_RUN_CONTEXT.runner.asyncgens.foreign
        leave: CodeType = cast(Any, trio.Nursery)._nested_child_finished.__code__
    except (ImportError, AttributeError):  # another trio: as if nothing was here
        return
    sys.set_asyncgen_hooks(finalizer=partial(_finalize_safely, finalizer, foreign, leave))


def _finalize_safely(finalizer: Finalizer, foreign: set[int], leave: CodeType, generator: AnyGenerator) -> None:
    """Gives trio's own finaliser a stand-in for a generator, which closes it safely.

    Args:
        finalizer: trio's.
        foreign: The ids of those that are another event loop's, which trio runs as a guest of.
        leave: The code of the method that a nursery is left by.
        generator: The generator.
    """
    finalizer(generator if id(generator) in foreign else _Abandoned(generator, leave))


class _Abandoned:
    """An async generator that is garbage, as trio looks at one: named as it is, and closed safely."""

    def __init__(self, generator: AnyGenerator, leave: CodeType) -> None:
        self._generator = generator
        self._leave = leave

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def __repr__(self) -> str:
        return repr(self._generator)

    async def aclose(self) -> None:
        await _close(self._generator, self._leave)


@types.coroutine
def _close(generator: AnyGenerator, leave: CodeType) -> Generator[Any, Any, None]:
    """Close a generator in the running task, which takes over each nursery that the generator leaves.

    The nursery is known by the time that the task waits in it: until then nobody else runs.
    """
    task = trio.lowlevel.current_task()
    closing = generator.aclose().__await__()
    step: Callable[[], Any] = partial(closing.send, None)
    while True:
        try:
            trap = step()
        except StopIteration:
            return
        nursery = _nursery_being_left(generator, leave)
        if nursery is not None and nursery._parent_task is not task:
            _take_over(nursery, task)
        try:
            value = yield trap
        except BaseException as error:
            step = partial(closing.throw, error)
        else:
            step = partial(closing.send, value)


def _take_over(nursery: Any, task: Any) -> None:
    """Make a task the parent of a nursery."""
    siblings: list[Any] = nursery._parent_task._child_nurseries
    if nursery in siblings:
        siblings.remove(nursery)
    nursery._parent_task = task
    task._child_nurseries.append(nursery)


def _nursery_being_left(generator: AnyGenerator, leave: CodeType) -> Any:
    """The nursery that a generator waits in to leave it; None for none."""
    waiting: Any = generator
    for _ in range(MAX_DEPTH):
        kind = cast("type[Any]", type(waiting))
        if kind is CoroutineType and waiting.cr_code is leave and waiting.cr_frame is not None:
            return waiting.cr_frame.f_locals["self"]
        if waiting is None:
            return None
        if kind in AWAITS:
            waiting = getattr(waiting, AWAITS[kind])
        else:  # the awaitable of a step of another generator, which alone knows whose
            waiting = _generator_within(waiting)
    return None


def _generator_within(awaitable: Any) -> Any:
    parts: list[Any] = gc.get_referents(awaitable)
    return next((part for part in parts if type(part).__name__ == "async_generator"), None)
