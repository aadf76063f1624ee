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

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

import anyio

from definable.concurrency.clock import LoopClock, current_clock, use_clock
from definable.errors import ConfigurationError

from .virtual_backends import ElapsedTime, HoldForThreads, VirtualEventLoop, new_mock_clock

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
        mock_clock = new_mock_clock()
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
