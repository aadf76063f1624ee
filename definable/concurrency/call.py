"""Calling what users hand in: sync or async, the one way for tools, handlers, hooks, auth providers and instructions.

`run_loop`, `hook`, `auth`, `interface` and `runtime.dispatch` call `call_user`; sync code goes to `worker_thread`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any

from .containment import closing_what_it_leaves
from .worker_thread import run_sync


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
