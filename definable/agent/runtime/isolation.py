"""Keeps what the user's code raises from taking down what runs it: used by dispatch, runs and the supervisor."""

from __future__ import annotations

from types import TracebackType
from typing import cast

import anyio


class Isolation:
    """A context out of which user code raises plain errors only.

    `sys.exit()` becomes a `RuntimeError`, also out of a task group, and so does the cancellation of another task that
    the code awaits, which asyncio lets through. A cancellation of the code itself goes on, and everything else. (In a
    task that the code itself starts, asyncio ends the event loop at a `SystemExit`, and nothing can keep it from that.)

    It has no state: one will do for all, at once.

    Args:
        what: Whose code it is, for the error.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            return
        stray = isinstance(error, anyio.get_cancelled_exc_class()) and not _is_cancelled()
        if stray or _is_exit(error):
            raise RuntimeError(f"{self._what} raised {error!r}") from error


def _is_exit(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split((Exception, SystemExit))[1] is None
    return isinstance(error, SystemExit)


def _is_cancelled() -> bool:
    return anyio.get_current_task().has_pending_cancellation()
