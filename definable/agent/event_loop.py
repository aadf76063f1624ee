"""A handle on a running event loop for code in other threads.

anyio's own `from_thread.run_sync` waits for the result; here the caller must never block, so the backend's own
thread-safe scheduling is used. Both forms are also safe to call from a signal handler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import anyio
from anyio.lowlevel import current_token


class EventLoopHandle:
    """The event loop that is running in the constructing thread."""

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
