"""The running event loop: into it from sync code and other threads, and what it says of a task.

`run_blocking` is the way in for `Agent.run` and `Agent.serve`; an `EventLoopHandle` schedules calls from other threads
and signal handlers. `plain_errors` gives users an error as what it is, without an `ExceptionGroup` around it.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, copy_context
from importlib.util import find_spec
from typing import Any, Literal, NoReturn, Protocol, TypeVar, cast

import anyio
import sniffio
from anyio.lowlevel import current_token

Result = TypeVar("Result")


def run_blocking(
    function: Callable[[], Awaitable[Result]],
    *,
    instead: str,
    backend: Literal["asyncio", "trio"] = "asyncio",
    backend_options: dict[str, Any] | None = None,
) -> Result:
    """Run an async function in an event loop of its own; on asyncio one of uvloop's, where that is installed.

    Args:
        function: What to run.
        instead: What to write where an event loop runs already; for the error.
        backend: Which event loop.
        backend_options: anyio's, for that backend.

    Raises:
        RuntimeError: An event loop runs in this thread already.
    """
    library = running_library()
    if library is not None:
        raise RuntimeError(f"{library} runs in this thread already: write `{instead}` here")
    if backend == "asyncio":
        backend_options = {"use_uvloop": find_spec("uvloop") is not None} | (backend_options or {})
    return own_context().run(anyio.run, function, backend=backend, backend_options=backend_options)


def running_library() -> str | None:
    """The async library that runs in this thread; None when there is none."""
    try:
        return own_context().run(sniffio.current_async_library)
    except sniffio.AsyncLibraryNotFoundError:
        return None


def own_context() -> Context:
    """This context, less the name of the library that anyio notes in it: a thread may have been given that along."""
    context = copy_context()
    context.run(sniffio.current_async_library_cvar.set, None)
    return context


class EventLoopHandle:
    """The event loop that is running in the constructing thread.

    anyio's own `from_thread.run_sync` waits for the result; here the caller must never block, so the backend's own
    thread-safe scheduling is used. It may be called from a signal handler too.
    """

    __slots__ = ("_schedule", "thread_id")

    def __init__(self) -> None:
        native: Any = current_token().native_token
        # asyncio's loop has call_soon_threadsafe, trio's token has run_sync_soon; anyio offers no common name.
        self._schedule: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        self.thread_id: int = threading.get_ident()
        """Of the thread that the loop runs in."""

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is in the loop's own thread."""
        return threading.get_ident() == self.thread_id

    def call_soon(self, function: Callable[..., object], *args: object) -> bool:
        """Have the loop call `function` soon, from whatever thread or signal handler; never blocks.

        Returns:
            False when the loop has ended: nothing will be called.
        """
        try:
            self._schedule(function, *args)
        except RuntimeError:  # asyncio: the loop is closed; trio: RunFinishedError
            return False
        return True


class Cancellable(AbstractContextManager[object], Protocol):
    """A cancel scope, as little of it as all of them have."""

    def cancel(self) -> None:
        """Cancel what is within."""
        ...


def cancel_scopes() -> Callable[[], Cancellable]:
    """What makes the running backend's own cancel scopes: `anyio.CancelScope` costs half as much again, on both."""
    if current_backend() == "trio":
        import trio  # it runs, so it is loaded

        return trio.CancelScope
    return type(anyio.CancelScope())


def is_cancelled() -> bool:
    """Whether a cancellation that was raised here is one of the current task.

    On asyncio it may be that of another task, or of a future, which the code awaits: it is raised there too.
    """
    if anyio.get_current_task().has_pending_cancellation():
        return True
    if current_backend() == "trio":  # it raises one of a scope that the code has left open, and that is closed by now
        return False
    import asyncio  # it runs, so it is loaded

    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def current_backend() -> Literal["asyncio", "trio"]:
    """Of the event loop that is running in this thread."""
    return "asyncio" if hasattr(current_token().native_token, "call_soon_threadsafe") else "trio"


def loop_clock() -> Callable[[], float]:
    """The running event loop's clock, in seconds: `anyio.current_time` looks for the loop at each call."""
    native: Any = current_token().native_token
    if current_backend() == "asyncio":
        return native.time
    import trio  # it runs, so it is loaded

    return trio.lowlevel.current_clock().current_time


def start_task(function: Callable[[], Coroutine[Any, Any, None]], name: str, ended: Callable[[], None]) -> None:
    """Start a task whose parent is the event loop, in the context of the caller: it ends with the event loop at last.

    For what an object of the user's owns, whose life no block of code encloses. The caller sees to its end, and the
    function raises nothing: nobody is there to take it. asyncio may cancel a task before its first step: `ended` is
    called at the end of that as well.
    """
    if current_backend() == "trio":
        import trio  # it runs, so it is loaded

        trio.lowlevel.spawn_system_task(function, name=name, context=copy_context())
        return
    import asyncio  # it runs, so it is loaded

    task = asyncio.get_running_loop().create_task(function(), name=name)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    task.add_done_callback(lambda _: ended())


_tasks: set[Any] = set()
"""Of `start_task` on asyncio, whose event loop refers to its tasks weakly."""


@contextmanager
def plain_errors() -> Generator[None, None, None]:
    """Unwrap a group of one exception that leaves the context; a group of several stays what it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = sole_cause(group)
        if error is None:
            raise
        raise error from error.__cause__


def sole_cause(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one exception within nested groups; None when there are several."""
    if len(group.exceptions) != 1:
        return None
    error = group.exceptions[0]
    return (
        sole_cause(cast("BaseExceptionGroup[BaseException]", error)) if isinstance(error, BaseExceptionGroup) else error
    )


def end_child(error: BaseException | None) -> NoReturn:
    """End a process that was forked within a call of user code, as the interpreter would.

    It has a copy of the event loop, with all that it serves: `sys.exit` in it would be caught where user code is
    contained, and a return would go on where the parent does.

    Args:
        error: What ended the call; None: it returned.
    """
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or there is none
            continue
    os._exit(status & 0xFF)
