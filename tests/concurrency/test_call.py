"""Calling what users hand in, sync or async."""

import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.lowlevel
import pytest

from definable.concurrency.call import call_user, is_async_callable


async def async_function(x: int = 1) -> int:
    await anyio.lowlevel.checkpoint()
    return x * 2


def sync_function(x: int = 1) -> int:
    return x * 3


class AsyncObject:
    async def __call__(self, x: int = 1) -> int:
        return x * 4

    async def method(self, x: int = 1) -> int:
        return x * 5


class SyncObject:
    def __call__(self, x: int = 1) -> int:
        return x * 6

    def method(self, x: int = 1) -> int:
        return x * 7


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def awaiting(function: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> int:
        return await function(*args)

    return wrapper


ASYNC = [
    async_function,
    functools.partial(functools.partial(async_function)),
    AsyncObject(),
    functools.partial(AsyncObject()),
    AsyncObject().method,
    functools.partial(AsyncObject().method),
    awaiting(async_function),
]
SYNC = [sync_function, functools.partial(sync_function), SyncObject(), SyncObject().method, passing_on(async_function)]


@pytest.mark.parametrize("function", ASYNC)
def test_async_callables_are_known(function: object) -> None:
    assert is_async_callable(function)


@pytest.mark.parametrize("thing", [*SYNC, len, int, AsyncObject, None, "text"])
def test_others_are_not_async(thing: object) -> None:
    assert not is_async_callable(thing)


@pytest.mark.anyio
@pytest.mark.parametrize(("function", "factor"), [*zip(ASYNC, [2, 2, 4, 4, 5, 5, 2], strict=True)])
async def test_async_callables_are_awaited(function: Callable[..., Any], factor: int) -> None:
    assert await call_user(function, 10) == 10 * factor


@pytest.mark.anyio
@pytest.mark.parametrize(("function", "factor"), [*zip(SYNC, [3, 3, 6, 7, 2], strict=True)])
async def test_sync_callables_are_called_and_an_awaitable_result_awaited(
    function: Callable[..., Any], factor: int
) -> None:
    assert await call_user(function, 10) == 10 * factor


@pytest.mark.anyio
async def test_async_code_stays_in_the_event_loops_thread_and_sync_code_leaves_it() -> None:
    async def here() -> int:
        return threading.get_ident()

    assert await call_user(here) == threading.get_ident()
    assert await call_user(threading.get_ident) != threading.get_ident()


@pytest.mark.anyio
@pytest.mark.parametrize("function", [async_function, sync_function])
async def test_keyword_arguments_are_passed(function: Callable[..., Any]) -> None:
    assert await call_user(function, x=10) in (20, 30)


@pytest.mark.anyio
async def test_an_async_call_method_on_the_instance_alone_is_ignored_as_python_does() -> None:
    thing = SyncObject()
    thing.__dict__["__call__"] = async_function
    assert await call_user(thing, 10) == 60
