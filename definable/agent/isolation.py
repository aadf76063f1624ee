"""Keeps what the user's code raises from taking down what runs it: tools, hooks, handlers, runs and interfaces."""

from __future__ import annotations

from types import TracebackType
from typing import cast

import anyio

from .event_loop import is_cancelled


def is_failure(error: BaseException) -> bool:
    """Whether what user code raised is a failure of it alone, in a task that anybody may cancel: the caller's.

    So is `SystemExit`, also out of a task group, and on asyncio the cancellation of another task that the code awaits;
    `KeyboardInterrupt` and a cancellation of the task are not.
    """
    return _is_plain(error) or (isinstance(error, anyio.get_cancelled_exc_class()) and not is_cancelled())


def isolated(error: BaseException, whose: str) -> BaseException:
    """What user code raised in a task of ours, as what runs it may see it: plain errors only.

    `sys.exit()` becomes a `RuntimeError`, also out of a task group, and so does the cancellation of another task that
    the code awaits, which asyncio lets through. Cancel scopes alone cancel our tasks: one that the code has cancelled
    itself is a failure as well. A cancellation by a scope goes on, and everything else; so does every cancellation of
    a task that is a foreign ASGI server's. (In a task that the code itself starts, asyncio ends the event loop at a
    `SystemExit`, and nothing can keep it from that.)

    Args:
        error: What it raised.
        whose: Whose code it is, for the error.

    Returns:
        The same, or another that it is the cause of.
    """
    if isinstance(error, Exception):
        return error
    stray = isinstance(error, anyio.get_cancelled_exc_class()) and not _is_cancelled_from_outside()
    if not (stray or _is_plain(error)):
        return error
    failure = RuntimeError(f"{whose} raised {error!r}")
    failure.__cause__ = error
    return failure


class Isolation:
    """A context out of which user code raises what `isolated` makes of it. It has no state, so one will do for all.

    Args:
        whose: Whose code it is, for the error.
    """

    __slots__ = ("_whose",)

    def __init__(self, whose: str) -> None:
        self._whose = whose

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (failure := isolated(error, self._whose)) is not error:
            raise failure


def _is_plain(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split((Exception, SystemExit))[1] is None
    return isinstance(error, Exception | SystemExit)


def _is_cancelled_from_outside() -> bool:
    task = anyio.get_current_task()
    is_ours = task.parent_id is not None  # else no task group of anyio's has started it
    return task.has_pending_cancellation() or (not is_ours and is_cancelled())
