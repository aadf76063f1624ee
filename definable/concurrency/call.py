"""Calling what users hand in, sync or async: the one way for tools, handlers, hooks, auth providers and instructions.

`call_user` calls one function: an async one here, a sync one in a `worker_thread`. `contained` does one piece of work
(a request, a delivery, a message). Neither lets what user code leaves open reach its caller: cancel scopes, task
groups, time-outs. A client that is entered in a handler and kept (an MCP session, an async generator that is begun and
not finished) leaves its cancel scopes on the task that called the handler, where they would cancel, or break, whatever
the task does next. So what is open is compared before and after each call; what was left is closed, and the call fails
with `ScopeLeftOpen`.

`asyncio.timeout` leaves nothing on the task that could be found: it holds the task itself, and cancels it when it
expires. On asyncio `contained` therefore gives a piece of work a task of its own, which has ended by then. trio has no
such thing, and a piece of work stays in the task of its caller. `docs/containment.md` lists the mistakes and what
becomes of each; what they raise is for `isolation`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any, Protocol, TypeVar

from sniffio import current_async_library

from definable.concurrency.logs import logger_named
from definable.errors import ScopeLeftOpen

from .event_loop import end_child, is_cancelled
from .isolation import is_cut_off
from .worker_thread import function_name, run_sync

logger: logging.Logger = logger_named(__name__)

Result = TypeVar("Result")

CLOSE_TIMEOUT = 1.0
"""Seconds that the tasks of a task group that was left open have to end."""

ADVICE = (
    "a task group, a time-out or a cancel scope is closed where it was opened (`async with`, and no `yield` of an "
    "async generator within); a client that is to stay open, say of MCP, is opened in Agent(lifespan=...)"
)


def is_async_callable(obj: object) -> bool:
    """Whether calling `obj` returns a coroutine at once, so that it may be called on the event loop.

    True for async functions and methods, for partials of them and for objects with an async `__call__`. A sync function
    that happens to return an awaitable is not: it may block before, so it belongs in a thread.
    """
    if type(obj) is FunctionType and obj.__code__.co_flags & CO_COROUTINE:  # most, at a tenth of what `inspect` costs
        return True
    while isinstance(obj, functools.partial):
        obj = obj.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if inspect.iscoroutinefunction(obj):
        return True
    return inspect.iscoroutinefunction(getattr(type(obj), "__call__", None))  # noqa: B004 - not whether, but which


def takes(function: object, count: int) -> bool:
    """Whether something can be called with so many arguments, as far as its signature tells."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[None] * count)
    except ValueError:  # a builtin without a signature
        return True
    except TypeError:
        return False
    return True


def is_generator_function(obj: object) -> bool:
    """Whether calling `obj` runs none of its code: it has a `yield`."""
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (obj, getattr(type(obj), "__call__", None))  # noqa: B004 - not whether, but which
    )


def call_user(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
    """Call a user's function: an async one here, a sync one in a worker thread.

    An awaitable that a sync function returns is awaited. Whatever the function raises is raised here.

    Raises:
        ScopeLeftOpen: It left a cancel scope, a task group or a time-out open.
    """
    if is_async_callable(function):
        return closing_what_it_leaves(function, function, *args, **kwargs)
    return _call_in_thread(function, *args, **kwargs)


async def _call_in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = await run_sync(function, *args, **kwargs)
    return await closing_what_it_leaves(function, _awaited, result) if inspect.isawaitable(result) else result


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def closing_what_it_leaves(
    whose: str | Callable[..., Any], function: Callable[..., Awaitable[Result]], *args: Any, **kwargs: Any
) -> Result:
    """Call an async function, and close what it leaves open.

    Args:
        whose: What the error names: the user's function, or a piece of work in words.
        function: What is called.
        args: Its arguments.
        kwargs: Its arguments by name.

    Raises:
        ScopeLeftOpen: It left a cancel scope, a task group or a time-out open.
    """
    scopes, process = open_scopes(), os.getpid()
    before = scopes.innermost()
    try:
        result = await function(*args, **kwargs)
    except BaseException as error:
        if os.getpid() != process:
            end_child(error)
        if scopes.innermost() is not before:
            await _close(scopes, before, whose, error)
        raise
    if os.getpid() != process:
        end_child(None)
    if scopes.innermost() is not before:
        await _close(scopes, before, whose)
    return result


async def contained(whose: str, function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
    """Do one piece of work, such that nothing it leaves behind reaches the caller's task.

    Context variables are visible in it as the caller has set them; what it sets stays its own. A cancellation of the
    caller reaches it as if it were called directly.

    Args:
        whose: What the error names.
        function: What is called; it does the work.
        args: Its arguments.

    Raises:
        ScopeLeftOpen: It left a cancel scope, a task group or a time-out open.
    """
    return await open_scopes().in_own_task(closing_what_it_leaves, whose, function, *args)


async def _close(
    scopes: OpenScopes, before: object, whose: str | Callable[..., Any], failure: BaseException | None = None
) -> None:
    """Close what a function left open, and raise that it did, unless the task is cancelled."""
    left = await scopes.close_beyond(before, CLOSE_TIMEOUT)
    name = whose if isinstance(whose, str) else function_name(whose)
    error = ScopeLeftOpen(f"{name} left {left} open, which was closed: {ADVICE}")
    if failure is not None and is_cut_off(failure) and is_cancelled():
        logger.error("%s", error)  # the cancellation goes on
    else:
        raise error from failure


class OpenScopes(Protocol):
    """The cancel scopes that are open in the running task, of one backend."""

    def innermost(self) -> object:
        """The scope that was opened last, or what stands for it; None for none."""
        ...

    async def close_beyond(self, scope: object, timeout: float) -> str:
        """Cancel and close what was opened after a scope; says in words what that was.

        Args:
            scope: What `innermost` gave before.
            timeout: Seconds that the tasks of a task group have to end.
        """
        ...

    def close_generators_safely(self) -> None:
        """Have async generators that user code begins and does not finish closed without harm to what runs it."""
        ...

    async def in_own_task(self, function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
        """Call an async function in a task that ends with it, where one is needed for what it may leave behind."""
        ...


def open_scopes() -> OpenScopes:
    """Those of the running backend."""
    return _open_scopes_of(current_async_library())


@functools.cache
def _open_scopes_of(library: str) -> OpenScopes:
    if library == "trio":
        from . import containment_trio  # of the backend that runs

        return containment_trio
    from . import containment_asyncio  # of the backend that runs

    return containment_asyncio
