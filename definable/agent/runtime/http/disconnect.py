"""Work for a client that waits: it goes on only as long as the client does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from .request import ClientGone, Request

Result = TypeVar("Result")


async def until_gone(request: Request, function: Callable[[], Awaitable[Result]]) -> Result:
    """Call a function; cancel it when the client goes away. The request's body must have been read.

    Raises:
        ClientGone: The client went away first.
        Exception: What the function raised.
    """
    results: list[Result] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await request.gone()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            results.append(await function())
        except Exception as error:  # raised below: the group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise ClientGone
    return results[0]
