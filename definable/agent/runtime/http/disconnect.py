"""Work for a client that waits: it goes on only as long as the client does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from .request import ClientGone, Request
from .server.asgi import UNTIL_HANGUP, WatchHangup

Result = TypeVar("Result")


async def until_gone(request: Request, function: Callable[[], Awaitable[Result]]) -> Result:
    """Call a function; cancel it when the client goes away. The request's body must have been read.

    Raises:
        ClientGone: The client went away first.
        Exception: What the function raised.
    """
    watch = hangup_watch(request)
    if watch is None:
        return await _until_disconnect(request, function)
    with anyio.CancelScope() as scope, watch(scope.cancel):
        return await function()
    raise ClientGone


def hangup_watch(request: Request) -> WatchHangup | None:
    """What tells of the client's hang-up; None where one has to read on for that."""
    extensions = request.scope.get("extensions")
    return extensions.get(UNTIL_HANGUP) if extensions else None


async def _until_disconnect(request: Request, function: Callable[[], Awaitable[Result]]) -> Result:
    """The same behind any ASGI server: a task reads until it is told of the disconnect."""
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
