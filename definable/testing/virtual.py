"""Virtual time for both backends: whatever waits is not waited for, and a year of cron takes a second.

For tests of programs built on `definable`, and for its own. When every task waits, the clock jumps to the next
deadline; the wall clock (`definable.concurrency.clock`) goes with it from the start that the test names.

```python
async def a_year() -> list[float]:
    ...                                           # sleeps, timeouts and cron jobs as in production


firings = run(a_year, backend="trio", start="2026-01-01T00:00:00+01:00")
```

With anyio's pytest plugin, every async test of a module:

```python
@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request):
    with virtual_time(request.param, start="2026-03-29T00:00:00+00:00") as backend:
        yield backend
```

What holds the clock and what does not:

- A worker thread (`anyio.to_thread`, on asyncio also an executor) takes no virtual time: the clock stands until it is
  done. So a thread that waits for virtual time itself (`from_thread.run(anyio.sleep, 1)`) waits for ever.
- Data that is ready to be read comes before a jump. What is still on its way from another process or thread does not
  hold the clock: a timeout over such I/O may expire at once.
- `time.time()`, `time.monotonic()` and `datetime.now()` stay real; `current_clock().now()` is virtual.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

import anyio
import trio
import trio.testing

from definable.concurrency.clock import LoopClock, current_clock, use_clock
from definable.errors import ConfigurationError

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

Start: TypeAlias = datetime | str | float
"""A datetime with an offset from UTC, the same in ISO 8601, or Unix seconds."""

Backend: TypeAlias = tuple[str, dict[str, Any]]
"""Name and options, as anyio's `anyio_backend` fixture returns them, and as `anyio.run` takes them."""

VIRTUAL_BACKENDS = ("asyncio", "trio")
"""Parameters for an `anyio_backend` fixture that enters `virtual_time`."""

DEFAULT_START = "2026-01-01T00:00:00+00:00"


class VirtualClock(LoopClock):
    """The wall clock in virtual time; a test may step it."""

    def __init__(self, start: float, loop_time: Callable[[], float]) -> None:
        super().__init__(start, loop_time)
        self._stepped = anyio.Event()

    def step(self, seconds: float) -> None:
        """Steps the wall clock, forward or back, as NTP does; the event loop's clock goes on unmoved.

        Whoever sleeps by the wall clock notices at once, not within the minute that it takes on a real one.
        """
        self._offset += seconds
        self._stepped.set()
        self._stepped = anyio.Event()

    async def sleep_until(self, when: float) -> None:
        with anyio.move_on_after(max(when - self.now(), 0.0)):
            await self._stepped.wait()


def run(
    func: Callable[[*Args], Awaitable[Result]],
    *args: *Args,
    backend: str = "asyncio",
    start: Start = DEFAULT_START,
) -> Result:
    """Runs `func(*args)` in virtual time, as `anyio.run` does in real time.

    Args:
        func: An async function.
        args: Its positional arguments.
        backend: `"asyncio"` or `"trio"`.
        start: What the wall clock says at the beginning.

    Raises:
        ConfigurationError: Another backend, or a start without an offset from UTC.
    """
    with virtual_time(backend, start=start) as (name, options):
        return anyio.run(func, *args, backend=name, backend_options=options)


@contextmanager
def virtual_time(backend: str = "asyncio", *, start: Start = DEFAULT_START) -> Generator[Backend]:
    """Installs a virtual wall clock for what is run within, and gives the backend to run it on, for one run.

    Args:
        backend: `"asyncio"` or `"trio"`.
        start: What the wall clock says at the beginning.

    Raises:
        ConfigurationError: Another backend, or a start without an offset from UTC.
    """
    if backend == "asyncio":
        elapsed = ElapsedTime()
        options: dict[str, Any] = {"loop_factory": lambda: VirtualEventLoop(elapsed)}
        loop_time: Callable[[], float] = elapsed
    elif backend == "trio":
        mock_clock = trio.testing.MockClock(autojump_threshold=0.0)  # jumps as soon as all tasks wait
        options = {"clock": mock_clock, "instruments": [HoldForThreads(mock_clock)]}
        loop_time = mock_clock.current_time
    else:
        raise ConfigurationError(f"backend={backend!r}: 'asyncio' or 'trio'")
    with use_clock(VirtualClock(_unix_seconds(start), loop_time)):
        yield backend, options


def virtual_clock() -> VirtualClock:
    """The virtual wall clock of this context, to step it.

    Raises:
        RuntimeError: The context has none.
    """
    clock = current_clock()
    if not isinstance(clock, VirtualClock):
        raise RuntimeError("there is no virtual clock here: enter virtual_time(...), or start with run(...)")
    return clock


def _unix_seconds(start: Start) -> float:
    if isinstance(start, (int, float)):
        return float(start)
    moment = datetime.fromisoformat(start) if isinstance(start, str) else start
    if moment.tzinfo is None:
        raise ConfigurationError(f"start={start!r} has no offset from UTC: write it as '2026-03-29T00:00:00+00:00'")
    return moment.timestamp()


# --- trio: its mock clock, held while worker threads are busy


class HoldForThreads(trio.abc.Instrument):
    """Keeps `clock` from jumping while `trio.to_thread` has work in flight: a thread takes no virtual time.

    The clock by itself takes a task that waits for a thread for one that waits for a deadline, and jumps.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        threshold = math.inf if trio.testing.active_thread_count() else 0.0
        if threshold != self._clock.autojump_threshold:
            self._clock.autojump_threshold = threshold


# --- asyncio: where its event loop would sleep, its clock jumps


class ElapsedTime:
    """The virtual clock: seconds since the beginning, readable from any thread."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


class JumpingSelector(selectors.DefaultSelector):
    """Reports what is ready; where nothing is, moves the clock on by the timeout instead of sleeping it.

    Args:
        jump: Moves the clock on by so many seconds.
        is_held: Says whether work outside the loop must come first.
    """

    def __init__(self, jump: Callable[[float], None], is_held: Callable[[], bool]) -> None:
        super().__init__()
        self._jump = jump
        self._is_held = is_held

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self._is_held():
            return super().select(None)
        self._jump(timeout)
        return []


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An event loop that reads `elapsed`, and moves it."""

    def __init__(self, elapsed: ElapsedTime) -> None:
        self._elapsed = elapsed
        self._executing = 0
        super().__init__(JumpingSelector(self._jump, self._is_held))

    def time(self) -> float:
        return self._elapsed.seconds

    def _jump(self, seconds: float) -> None:
        self._elapsed.seconds += seconds
        # asyncio runs a timer that is due before now plus this. After a month the default, a nanosecond, is less than
        # the clock's last digit, and no timer would ever be due.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._elapsed.seconds))

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._executing += 1
        future.add_done_callback(self._executed)
        return future

    def _executed(self, future: asyncio.Future[Any]) -> None:
        self._executing -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        # From Python 3.12 on it waits for its threads with a timeout, which a jump would use up.
        self._executing += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._executing -= 1

    def _is_held(self) -> bool:
        return self._executing > 0 or any(self._is_busy_worker(thread) for thread in threading.enumerate())

    def _is_busy_worker(self, thread: threading.Thread) -> bool:
        # anyio does not say how many of its worker threads are busy: a limiter knows of its own ones only. One that is
        # done is put on the idle list by a callback in the loop, so none is overlooked between the two.
        if getattr(thread, "loop", None) is not self or getattr(thread, "stopping", True):
            return False
        return thread not in getattr(thread, "idle_workers", ())
