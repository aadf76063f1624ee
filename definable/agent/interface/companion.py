"""A piece of work with something going on beside it: typing is shown while a run goes on, and so is its reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio

Result = TypeVar("Result")


async def with_companion(
    work: Callable[[], Awaitable[Result]],
    companion: Callable[[], Coroutine[Any, Any, None]],
    dismiss: Callable[[], None] | None = None,
) -> Result:
    """Do a piece of work, and something else for as long as it takes.

    Args:
        work: What is done; what it raises comes out as it is.
        companion: What goes on beside it; must not raise.
        dismiss: Tells the companion that the work is over, and it is waited for; None: it is cancelled then.
    """
    failure: Exception | None = None
    result: list[Result] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(companion)
        try:
            result.append(await work())
        except Exception as error:  # raised below: the group would wrap it
            failure = error
        if dismiss is None:
            tasks.cancel_scope.cancel()
        else:
            dismiss()
    if failure is not None:
        raise failure
    return result[0]
