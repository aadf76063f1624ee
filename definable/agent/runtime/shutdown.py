"""A stop: that it has begun (`Draining`), what still holds a thread at its end, and the account of it all.

`Draining` is for code that would go on without end; `AgentRuntime` begins it, and makes the `ShutdownReport`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from definable.agent.work import WorkCount
from definable.concurrency.worker_thread import worker_threads


@dataclass(frozen=True, slots=True)
class FiringCount:
    """What became of the firings of cron jobs, intervals and one-shots."""

    fired: int = 0
    """Were handed to the event bus."""
    late: int = 0
    """Of those: more than a second after their time, within the job's `misfire_grace`."""
    skipped: int = 0
    """Of those: were not handled, since the one before still was (`overlap="skip"`)."""
    missed: int = 0
    """Came too late, or were overtaken by a later one of the same job."""


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """The account of one `serve`."""

    duration: float = 0.0
    """Seconds from the first word of the stop to its end."""
    sources: Mapping[str, WorkCount] = field(default_factory=dict[str, WorkCount])
    """By source: `http`, `event`, `cron`, and one for each interface, under its name."""
    forced: bool = False
    """Whether the stop was cut short: by a second signal, by `stop(force=True)` or by a cancelled scope."""
    stuck_threads: tuple[str, ...] = ()
    """Functions of the user's that still held a worker thread at the end."""
    firings: FiringCount = FiringCount()
    """Those that this process made or missed."""

    @property
    def total(self) -> WorkCount:
        """All sources together."""
        return sum(self.sources.values(), WorkCount())

    @property
    def completed(self) -> int:
        """Over all sources: came to an end of its own."""
        return self.total.completed

    @property
    def failed(self) -> int:
        """Over all sources: of the completed, ended in an error."""
        return self.total.failed

    @property
    def cancelled(self) -> int:
        """Over all sources: was begun and cut off by the stop."""
        return self.total.cancelled

    @property
    def never_started(self) -> int:
        """Over all sources: was accepted and never begun."""
        return self.total.never_started

    @property
    def refused(self) -> int:
        """Over all sources: came from somebody who is not let in."""
        return self.total.refused

    @property
    def withdrawn(self) -> int:
        """Over all sources: was given up by who asked for it."""
        return self.total.withdrawn

    @property
    def skipped(self) -> int:
        """Over all sources: cron firings that were not handled."""
        return self.total.skipped

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off, nothing left undone, and no thread left running."""
        return self.total.clean and not self.stuck_threads

    def __str__(self) -> str:
        sources = "; ".join(f"{source}: {count}" for source, count in self.sources.items())
        stuck = f"; still in a thread: {', '.join(self.stuck_threads)}" if self.stuck_threads else ""
        return f"stopped {'cleanly' if self.clean else 'with work cut off'} in {self.duration:.2f} s ({sources}{stuck})"


THREAD_TIMEOUT = 1.0
"""Seconds that user code in worker threads gets to end after it was cut off."""


class Draining:
    """A stop has begun: true from then on, and to be waited for.

    ```python
    while not runtime.draining:
        with anyio.move_on_after(1):
            await runtime.draining.wait()
    ```
    """

    __slots__ = ("_began", "is_set")

    def __init__(self) -> None:
        self._began = anyio.Event()
        self.is_set: Callable[[], bool] = self._began.is_set
        """Whether a stop has begun; asked with every request."""

    def __bool__(self) -> bool:
        return self._began.is_set()

    def __repr__(self) -> str:
        return f"<Draining: {bool(self)}>"

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()

    async def wait(self) -> None:
        """Returns once a stop has begun, at once if it has."""
        await self._began.wait()

    def begin(self) -> None:
        """Notifies whoever waits; the runtime's own to call."""
        self._began.set()


async def stuck_threads() -> tuple[str, ...]:
    """Functions of user code that still run in worker threads after a grace, though nobody waits for them."""
    names: tuple[str, ...] = ()
    with anyio.CancelScope(shield=True):  # bounded by wait_idle's own timeout
        names = tuple(thread.function for thread in await worker_threads().wait_idle(THREAD_TIMEOUT))
    return names
