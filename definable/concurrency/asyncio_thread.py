"""Code that runs on asyncio alone, under either backend: in the running event loop, or in one thread beside trio's.

`definable.model.adapters` runs agents of other frameworks in it. `AsyncioHome` says where: on asyncio that is the event
loop that runs, on trio one event loop of asyncio's in a thread that all homes of the trio loop share; it is there from
the first use on and ends with the last home's `aclose()`. `RemoteIteration` iterates there and hands over here:

```
reader (trio or asyncio)                      asyncio
__aenter__   ── call_soon_threadsafe ──────▶  a plain task of asyncio's, in a copy of the reader's context
__anext__    ◀── call_soon ─────────────────  items, at most ITEMS_AHEAD of the reader
__aexit__    ── task.cancel() ─────────────▶  ... and waits until the task has ended
```

It is a plain task since such code expects one cancellation, as asyncio gives it; anyio's scopes cancel again and again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from contextvars import Context
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar, current_token
from sniffio import current_async_library

from .event_loop import EventLoopHandle, own_context
from .isolation import error_text, failure_of, is_plain
from .logs import logger_named

logger: logging.Logger = logger_named(__name__)

Item = TypeVar("Item")

ITEMS_AHEAD = 16
"""Items by which what is iterated may be ahead of its reader; then it waits."""

CLOSE_TIMEOUT = 5.0
"""Seconds that a task which was cancelled, and the thread when it is closed, have to end."""


class AsyncioThread:
    """An event loop of asyncio's in a thread of its own, which runs from the construction on."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.loop.set_task_factory(cast("Any", _task_of_asyncio))
        self.users: set[AsyncioHome] = set()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="definable asyncio", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Cancel what still runs in it, and wait for its end."""
        self.loop.call_soon_threadsafe(self._stop.set)
        with anyio.CancelScope(shield=True):  # bounded by the join
            await to_thread.run_sync(self._thread.join, CLOSE_TIMEOUT)
        if self._thread.is_alive():
            logger.error(
                "the asyncio thread did not end within %g s: what runs in it ignores its cancellation", CLOSE_TIMEOUT
            )

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stop.wait(), context=Context())


def _task_of_asyncio(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """A task that no context tells to be trio's: a collection in trio's thread has generators closed here."""
    if options.get("context") is None:
        options["context"] = own_context()
    return asyncio.Task(coroutine, loop=loop, **options)


_thread: RunVar[AsyncioThread | None] = RunVar("definable_asyncio_thread", None)
"""Of the running trio loop."""


class AsyncioHome:
    """Where the asyncio code of one user runs, say of a model; it may be used in several event loops."""

    def __init__(self) -> None:
        self._lives: WeakKeyDictionary[object, AsyncGenerator[None]] = WeakKeyDictionary()

    async def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of asyncio's that goes with the running one."""
        if current_async_library() == "asyncio":
            return asyncio.get_running_loop()
        thread = _thread.get()
        if thread is None:
            thread = AsyncioThread()
            _thread.set(thread)
        if self not in thread.users:
            thread.users.add(self)
            life = self._lives[current_token().native_token] = self._live(thread)
            await anext(life)
        return thread.loop

    async def aclose(self) -> None:
        """Do without it in the running event loop; the last home closes the thread. It may be used again afterwards."""
        life = self._lives.pop(current_token().native_token, None)
        if life is not None:
            await life.aclose()

    async def _live(self, thread: AsyncioThread) -> AsyncGenerator[None]:
        """Suspended as long as this home uses the thread.

        trio closes the async generators that are left when its event loop ends: a script that never calls `aclose()`
        leaves no thread behind.
        """
        try:
            yield
        finally:
            thread.users.discard(self)
            if not thread.users:
                _thread.set(None)
                await thread.aclose()


class RemoteIteration(Generic[Item]):
    """An async generator that is run in an event loop of asyncio's, read from the running one.

    A context manager that is its own iterator. Leaving it cancels the generator, and waits until that has ended. What
    the generator raises is raised to the reader; an exception that is no `Exception` as a `RuntimeError`.

    Args:
        loop: Where it runs; the running loop itself will do.
        make: Makes the generator; called there.
        whose: Whose code it is, for errors.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], AsyncGenerator[Item]], whose: str) -> None:
        self._loop = loop
        self._make = make
        self._whose = whose
        self._reader = EventLoopHandle()
        self._task: asyncio.Task[None] | None = None
        self._capacity = asyncio.Semaphore(ITEMS_AHEAD)
        self._items: deque[Item] = deque()
        self._changed = anyio.Event()
        self._ended = False
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        context = own_context()
        self._loop.call_soon_threadsafe(self._start, context, context=context)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended:
            return
        self._items.clear()
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):  # nothing of it may outlive the reader
            self._there(self._cancel)
            while not self._ended:
                await self._changed.wait()
        failure, self._failure = self._failure, None
        if not self._ended:
            logger.error("%s ignores its cancellation: it runs on", self._whose)
        elif failure is not None and not isinstance(failure, asyncio.CancelledError):
            logger.warning("%s failed while it was cut off: %s", self._whose, error_text(failure))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._ended:
                raise self._end()
            self._changed = anyio.Event()
            await self._changed.wait()
        item = self._items.popleft()
        self._there(self._capacity.release)
        return item

    def _end(self) -> BaseException:
        """What the reader is told at the end."""
        failure, self._failure = self._failure, None
        if failure is None:
            return StopAsyncIteration()
        return failure if is_plain(failure) else failure_of(failure, self._whose)

    # --- in asyncio

    def _start(self, context: Context) -> None:
        self._task = self._loop.create_task(self._run(), name=self._whose, context=context)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        # No variable of this frame may keep the exception, whose traceback keeps the frame: what its frames hold, such
        # as generators that the code has left open, would live until the garbage collector comes.
        try:
            async with aclosing(self._make()) as items:
                async for item in items:
                    self._reader.call_soon(self._take, item)
                    await self._capacity.acquire()
        except BaseException as error:  # whatever it is, it is the reader's
            self._reader.call_soon(self._finish, error)
        else:
            self._reader.call_soon(self._finish, None)

    def _there(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed, and has cancelled its tasks
            return

    # --- in the reader's event loop

    def _take(self, item: Item) -> None:
        self._items.append(item)
        self._changed.set()

    def _finish(self, failure: BaseException | None) -> None:
        self._ended, self._failure = True, failure
        self._changed.set()
