"""Async generators that user code has begun and not finished, on trio: closing one must not break what runs it.

trio closes such a generator in a task of its own once it is garbage. Where the generator has a task group open around
its `yield`, that task then leaves a nursery whose parent is another task: it takes the innermost nursery from that
task's list, whichever that is; and when the last child ends trio wakes the parent in its stead, which ends the whole
run with `TrioInternalError` where the parent is about to run (https://github.com/python-trio/trio/issues/1443).

So the closing task becomes the parent of each nursery that it leaves. `AgentRuntime` installs this once in a run of
trio's. It leans on trio's internals, as they are in trio 0.31 to 0.35; where they are others, nothing is installed.
asyncio needs nothing of it: there a task group is left in any task, with an error.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any, cast

import trio

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


def install() -> None:
    """Have async generators that are garbage closed safely, until the running `trio.run` ends."""
    finalizer: Finalizer | None = sys.get_asyncgen_hooks().finalizer
    if finalizer is None or isinstance(finalizer, _SafeFinalizer):
        return
    try:
        from trio._core import _run as internals  # pyright: ignore[reportPrivateUsage]  # another trio may lack it

        foreign: set[int] = cast(Any, internals).GLOBAL_RUN_CONTEXT.runner.asyncgens.foreign
        leave: CodeType = cast(Any, trio.Nursery)._nested_child_finished.__code__
    except (ImportError, AttributeError):  # another trio: as if nothing was here
        return
    sys.set_asyncgen_hooks(finalizer=_SafeFinalizer(finalizer, foreign, leave))


class _SafeFinalizer:
    """Gives trio's own finaliser a stand-in for a generator, which closes it safely.

    Args:
        finalizer: trio's.
        foreign: The ids of those that are another event loop's, which trio runs as a guest of.
        leave: The code of the method that a nursery is left by.
    """

    def __init__(self, finalizer: Finalizer, foreign: set[int], leave: CodeType) -> None:
        self._finalizer = finalizer
        self._foreign = foreign
        self._leave = leave

    def __call__(self, generator: AnyGenerator) -> None:
        is_ours = id(generator) not in self._foreign
        self._finalizer(_Abandoned(generator, self._leave) if is_ours else generator)


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
