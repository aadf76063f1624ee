"""The account of accepted work: what was begun, how it ended, and when none is left.

Every source begins its work here (HTTP requests, workers, interface messages); a drain waits for it to be idle, and
the `ShutdownReport` is read off it.

Whether a stop has begun, for code that would go on without end: `AgentRuntime.draining`.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from types import TracebackType
from typing import Any

import anyio

from definable.agent.bus.accepted_work import AcceptedWork
from definable.agent.report import WorkCount
from definable.concurrency.isolation import is_cut_off


class Draining:
    """A stop has begun: true from then on, and to be waited for.

    ```python
    while not runtime.draining:
        with anyio.move_on_after(1):
            await runtime.draining.wait()
    ```
    """

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began = anyio.Event()

    def __bool__(self) -> bool:
        return self._began.is_set()

    def __repr__(self) -> str:
        return f"<Draining: {bool(self)}>"

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()

    def is_set(self) -> bool:
        """Whether a stop has begun."""
        return self._began.is_set()

    async def wait(self) -> None:
        """Returns once a stop has begun, at once if it has."""
        await self._began.wait()

    def begin(self) -> None:
        """Notifies whoever waits; the runtime's own to call."""
        self._began.set()


class Counters:
    __slots__ = ("active", "cancelled", "completed", "failed", "never_started", "refused")

    def __init__(self) -> None:
        self.active: int = 0
        self.completed: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self.never_started: int = 0
        self.refused: int = 0


class WorkTracker:
    """Counts work by source.

    Args:
        sources: The sources that are always in the report; others join with their first work.
    """

    def __init__(self, sources: Collection[str] = ("http", "event", "cron")) -> None:
        self._accounts = {source: Counters() for source in sources}
        self.awaited: anyio.Event | None = None
        """What `idle` waits for; None when nobody waits."""

    def work(self, source: str, *, occupies_worker: bool = False) -> Work:
        """A context around one piece of accepted work. A cancellation that passes through it counts as cut off.

        Args:
            source: Whose account it is counted in.
            occupies_worker: Whether one of the bus's workers is busy with it until its end.
        """
        account = self._accounts.get(source)
        return Work(self, self.account(source) if account is None else account, occupies_worker)

    def account(self, source: str) -> Counters:
        """The counters of a source."""
        account = self._accounts.get(source)
        if account is None:
            account = self._accounts[source] = Counters()
        return account

    def never_started(self, source: str, count: int = 1) -> None:
        """Work that was accepted and will not be begun."""
        self.account(source).never_started += count

    def cancelled(self, source: str, count: int = 1) -> None:
        """Work that was begun before and will not be finished."""
        self.account(source).cancelled += count

    def active(self) -> int:
        """How many pieces of work are under way."""
        return sum(account.active for account in self._accounts.values())

    async def idle(self) -> None:
        """Return once no work is under way."""
        while self.active():
            if self.awaited is None:
                self.awaited = anyio.Event()
            await self.awaited.wait()

    def ended(self) -> None:
        """Called by a piece of work at its end, where somebody waits."""
        if self.awaited is not None and not self.active():
            self.awaited.set()
            self.awaited = None

    def counts(self) -> Mapping[str, WorkCount]:
        """The account so far; what is under way is in none of the numbers."""
        return {
            source: WorkCount(
                account.completed, account.failed, account.cancelled, account.never_started, account.refused
            )
            for source, account in self._accounts.items()
        }


class Work(AcceptedWork):
    """One piece of accepted work, counted as long as it is under way and by the end that it comes to."""

    __slots__ = ("_counters", "_tracker", "failed", "refused", "will_retry")

    def __init__(self, tracker: WorkTracker, account: Counters, occupies_worker: bool) -> None:
        super().__init__(tracker, occupies_worker=occupies_worker)
        self._tracker = tracker
        self._counters = account
        self.failed: bool = False
        """Set it when the work ends in an error that is dealt with inside."""
        self.will_retry: bool = False
        """Set it when the work is not at its end: it will be begun again, and counted then."""
        self.refused: bool = False
        """Set it when the work came from somebody who is not let in: it was not done."""

    def __enter__(self) -> Work:
        self._counters.active += 1
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        account = self._counters
        account.active -= 1
        if error is not None and is_cut_off(error):
            account.cancelled += 1
        elif self.refused:
            account.refused += 1
        elif not self.will_retry:
            account.completed += 1
            if error is not None or self.failed:
                account.failed += 1
        if self._tracker.awaited is not None:
            self._tracker.ended()
