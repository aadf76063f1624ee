"""The last account of a serving: what was left undone is counted, and what it all came to is reported.

The runtime closes it, once its children have ended.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from definable.agent.report import ShutdownReport
from definable.concurrency.worker_thread import RunningThread, worker_threads
from definable.errors import EventBusClosed

from .shutdown import WorkTracker
from .triggers import TriggerTable
from .workers import Workers, source_kind

if TYPE_CHECKING:
    from definable.agent.bus.base import EventBus
    from definable.agent.bus.emitter import Emitter

    from .supervisor import Supervisor

logger: logging.Logger = logging.getLogger("definable")

THREAD_TIMEOUT = 1.0
"""Seconds that user code in worker threads gets to end after it was cut off."""


@dataclass(frozen=True, slots=True)
class ShutdownAccounting:
    """Where accepted work may be left, and the tracker that knows of the rest."""

    name: str
    """Of what was served, for the log."""
    tracker: WorkTracker
    triggers: TriggerTable
    emitter: Emitter
    bus: EventBus
    workers: Workers
    supervisors: Sequence[Supervisor]

    async def close(self) -> Sequence[RunningThread]:
        """Count what was left undone, while the bus is open; returns the threads that nobody waits for."""
        self._count_unpublished()
        self.workers.finalize()
        for delivery in self.bus.leftovers():
            self.workers.count_undone(delivery)
        for supervisor in self.supervisors:
            supervisor.mailbox.finalize()
        stuck: Sequence[RunningThread] = ()
        with anyio.CancelScope(shield=True):  # bounded by wait_idle's own timeout
            stuck = await worker_threads().wait_idle(THREAD_TIMEOUT)
        return stuck

    def report(self, stop_began: float | None, *, forced: bool, stuck: Sequence[RunningThread]) -> ShutdownReport:
        """Report, once the bus is closed: what it could not write is lost.

        Args:
            stop_began: Seconds of the event loop's clock; None when it was cut off without a stop.
            forced: Whether the stop was cut short.
            stuck: What `close` returned.
        """
        with suppress(EventBusClosed):  # a bus that knows of nothing once it is closed
            for delivery in self.bus.leftovers():
                self.workers.count_undone(delivery)
        return self._reported(stop_began, forced, stuck)

    def close_unserved(self, *, forced: bool) -> ShutdownReport:
        """The same where a stop came before anything was opened: nothing but events can have been accepted."""
        self._count_unpublished()
        return self._reported(None, forced, ())

    def _count_unpublished(self) -> None:
        for key, _ in self.emitter.leftovers():
            self.tracker.never_started(source_kind(self.triggers.by_key[key]))

    def _reported(self, stop_began: float | None, forced: bool, stuck: Sequence[RunningThread]) -> ShutdownReport:
        now = anyio.current_time()
        report = ShutdownReport(
            duration=now - (now if stop_began is None else stop_began),
            sources=self.tracker.counts(),
            forced=forced,
            stuck_threads=tuple(thread.function for thread in stuck),
        )
        logger.log(logging.INFO if report.clean else logging.WARNING, "%s %s", self.name, report)
        return report
