"""The runs that the service makes: active ones, which can be cancelled by id, and the most recent ended ones.

Dispatch, `POST /run` and the interfaces start their runs here; `/runs` lists them.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from definable.agent.bus.base import EventBus, RemembersRuns
from definable.agent.run.context import RunRequest
from definable.agent.run.output import Listener, RunEnded, RunOutput, RunStatus, output_size
from definable.agent.run.runner import Runner
from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.clock import current_clock
from definable.concurrency.event_loop import Cancellable, cancel_scopes
from definable.concurrency.isolation import contained_error, error_message
from definable.concurrency.logs import logger_named
from definable.errors import RunCancelled, RunError, StorageError

from .run_log import RecentRuns, RunLog, RunRecord, TooManyRuns
from .settings import DEFAULT_MAX_MEMORY

logger: logging.Logger = logger_named("definable")


QUEUED, RUNNING = RunStatus.QUEUED, RunStatus.RUNNING
COMPLETED, FAILED, CANCELLED = RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED
"""By names of ours: Python 3.11 takes a tenth of a microsecond to find a member of an enumeration."""

MAX_RECENT_RUNS = 1_000
"""Ended runs that are remembered."""

ATTEMPT_IDS = 1_000_000_000
"""Ids of the events of one attempt at a promised run; those of the next, by whatever process, are beyond."""

MAX_RECENT_LOGS = 100
"""Ended runs whose events are remembered, beyond the last one."""


Place: TypeAlias = tuple[int, int]
"""Where a run stands in the list: 0 for queued ones, 1 for active, 2 for ended ones, and its place among them."""

FIRST: Place = (0, sys.maxsize)
"""Before all."""


class RunRegistry:
    """Starts runs and keeps account of them.

    Args:
        runner: Makes the runs.
        max_concurrent: How many may be under way at once.
        others_help: Whether queued runs may be made by another process, which tells nobody: then the oldest are
            forgotten, where else a new one is refused.
        durable: Whether the deliveries of promised runs outlive this process: a run that is cut off is made again.
        max_queued_bytes: What queued runs may hold.
        max_recent_bytes: What the outputs of ended runs and the logs of all may hold.
    """

    def __init__(
        self,
        runner: Runner,
        max_concurrent: int,
        *,
        others_help: bool = False,
        durable: bool = False,
        max_queued_bytes: int = DEFAULT_MAX_MEMORY,
        max_recent_bytes: int = DEFAULT_MAX_MEMORY,
    ) -> None:
        self._runner = runner
        self._others_help = others_help
        self._durable = durable
        self._has_let_go = False
        self._max_concurrent = max_concurrent
        self._places = anyio.Semaphore(max_concurrent, fast_acquire=True)
        self._queued_memory = ByteLimit(max_queued_bytes)
        self._queued: dict[str, RunRecord] = {}
        self._active: dict[str, RunRecord] = {}
        self._recent = RecentRuns(max_recent_bytes)
        self._last_place = 0
        self._new_scope: Callable[[], Cancellable] | None = None

    def queue(self, request: RunRequest, source: str, size: int = 0) -> RunRecord:
        """Note down a run that was accepted for later; its events will be logged.

        Args:
            request: What it is started with.
            source: What it comes from.
            size: Bytes that are held for it until it begins.

        Raises:
            TooManyRuns: As many are queued as may be under way, or hold as much as they may.
        """
        if len(self._queued) >= self._max_concurrent and self._others_help:
            self.forget(next(iter(self._queued.values())))
        if len(self._queued) >= self._max_concurrent:
            raise TooManyRuns(f"{self._max_concurrent} runs wait already (max_concurrent_runs)")
        if not self._queued_memory.take(size):
            raise TooManyRuns(f"runs that wait hold {self._queued_memory.held} bytes already (max_memory_queued)")
        return self._queue(self._record(request, source, QUEUED), size)

    async def recall(self, bus: EventBus, names: Sequence[str]) -> None:
        """List runs again that were promised before this process began and still wait in the bus, under these names.

        As many as fill half of the places, so that new ones can be queued too.
        """
        if not isinstance(bus, RemembersRuns):
            return
        try:
            runs = await bus.waiting_runs(names, self._max_concurrent // 2)
        except StorageError as error:
            logger.warning("runs accepted before this start are not listed until they begin: %s", error)
            return
        for run in runs:
            if self.find(run.run_id) is None:
                self._queue(RunRecord(run.run_id, run.source, None, run.user_id, run.accepted_at, QUEUED), 0)

    def _queue(self, record: RunRecord, size: int) -> RunRecord:
        record.is_logged, record.size, record.is_kept = True, size, self._durable
        record.log = RunLog(on_growth=self._recent.grow)
        self._queued[record.run_id] = self._placed(record)
        return record

    def release_memory(self, record: RunRecord) -> None:
        """What was held for a queued run is held elsewhere, on disk or by a broker."""
        if self._queued.get(record.run_id) is record:
            self._queued_memory.release(record.size)
            record.size = 0

    def forget(self, record: RunRecord) -> None:
        """Forget a queued run: it was not accepted after all, or ended without a run."""
        self._unqueue(record.run_id)
        record.log.end()

    def replace(self, record: RunRecord) -> None:
        """Forget a queued run whose delivery another one has replaced, unless it has begun."""
        if self._queued.get(record.run_id) is record and record.status is QUEUED:
            self.forget(record)

    def _unqueue(self, run_id: str) -> RunRecord | None:
        record = self._queued.pop(run_id, None)
        if record is not None and record.size:
            self._queued_memory.release(record.size)
            record.size = 0
        return record

    def let_go(self) -> None:
        """Keep nobody who follows a queued run that another process will make: a stop would wait for its end."""
        self._has_let_go = True
        for record in self._queued.values():
            if record.is_kept or self._others_help:
                record.log.end()

    def lose(self, run_id: str) -> None:
        """Another process makes the run by now: who follows it here learns no more, and may ask there."""
        record = self._queued.get(run_id)
        if record is not None:
            record.log.end()

    def end_queued(self, run_id: str, failure: Exception | None = None) -> None:
        """A promised run will not be made, if it is queued still: its handler failed, or asked for none."""
        record = self._unqueue(run_id)
        if record is None:
            return
        if record.status is QUEUED:
            record.failure = None if failure is None else without_traceback(failure)
            record.status = COMPLETED if failure is None else FAILED
        self._keep(record)

    async def run(
        self,
        request: RunRequest,
        source: str,
        listener: Listener | None = None,
        *,
        runner: Runner | None = None,
        wait: bool = False,
        has_place: bool = False,
        attempt: int | None = None,
    ) -> RunOutput:
        """Make a run.

        Args:
            request: What it is started with.
            source: What it comes from.
            listener: Told what happens as it happens.
            runner: Makes this run in place of the registry's own.
            wait: Whether to wait for a place when `max_concurrent` runs are under way.
            has_place: Whether the caller holds a `place` for it.
            attempt: Of a run that was promised: which one this is; others may have been made by other processes.

        Raises:
            TooManyRuns: `max_concurrent` runs are under way, and `wait` is False.
            RunCancelled: The run was cancelled by its id.
            RunError: The run failed.
        """
        if not has_place and not self._takes_place():
            await self._wait_for_place(wait)
        record = self._unqueue(request.run_id) or self._record(request, source, RUNNING)
        try:
            self._begin(record, request, attempt)
            with self._scope_of(record):
                try:
                    output = await (runner or self._runner).run(request, self._listener_of(record, listener))
                except BaseException as error:
                    raise contained_error(error, "a run")  # noqa: B904 - it is the same, or has its cause
                record.output, record.session_id, record.status = output, output.session_id, COMPLETED
                return output
            raise cancellation(record)
        except Exception as error:
            record.failure = without_traceback(error)
            record.status = CANCELLED if isinstance(error, RunCancelled) else FAILED
            raise
        finally:
            self._end(record)
            if not has_place:
                self._places.release()

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None, None]:
        """A place among `max_concurrent` runs, waited for.

        Who holds a session's turn must have its place before: the other way round it would wait for runs that wait for
        the turn.
        """
        await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    def _takes_place(self) -> bool:
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            return False
        return True

    async def _wait_for_place(self, wait: bool) -> None:
        if not wait:
            raise TooManyRuns(f"{self._max_concurrent} runs are under way already (max_concurrent_runs)")
        await self._places.acquire()

    def cancel(self, run_id: str) -> bool:
        """Cancel a queued or active run; False when there is none of that id."""
        active, queued = self._active.get(run_id), self._queued.get(run_id)
        if active is not None and active.scope is not None:
            active.scope.cancel()
        elif queued is not None and queued.status is QUEUED:
            queued.status, queued.failure = CANCELLED, cancellation(queued)
            queued.log.end()
        else:
            return False
        return True

    def find(self, run_id: str) -> RunRecord | None:
        """A queued, active or recent run."""
        return self._active.get(run_id) or self._queued.get(run_id) or self._recent.get(run_id)

    def records(self) -> Sequence[RunRecord]:
        """Queued runs, then active, then recent ones, each newest first."""
        return tuple(record for _, record in self.listed())

    def listed(self, after: Place = FIRST) -> Iterator[tuple[Place, RunRecord]]:
        """The records as `records` has them, each with its place.

        A run changes its place when it begins and when it ends, only ever towards the end of the list: who goes through
        the list in pieces may meet a run twice, and misses none.

        Args:
            after: Begin after this place.
        """
        groups = (reversed(self._queued.values()), reversed(self._active.values()), self._recent.newest_first())
        for number, group in enumerate(groups):
            for record in group if number >= after[0] else ():
                if number > after[0] or record.place < after[1]:
                    yield (number, record.place), record

    @property
    def active_count(self) -> int:
        """How many runs are under way."""
        return len(self._active)

    def _record(self, request: RunRequest, source: str, status: RunStatus) -> RunRecord:
        return RunRecord(
            request.run_id,
            source,
            request.session_id,
            request.user_id,
            current_clock().now(),
            status,
            namespace=request.namespace,
        )

    def _begin(self, record: RunRecord, request: RunRequest, attempt: int | None) -> None:
        if record.status is CANCELLED:  # while it waited for its turn
            raise cancellation(record)
        record.status = RUNNING
        record.user_id, record.session_id, record.namespace = request.user_id, request.session_id, request.namespace
        before = self._recent.pop(record.run_id)  # a retry takes the place of the attempt before it
        if before is not None and before.is_logged:  # who follows has its events, and was told of its failure
            before.log.forget()
            self._log_on(record, before.log.last_id + (before.output is None))
        elif attempt is not None and (not record.is_logged or record.log.ended or not record.log.last_id):
            self._log_on(record, max(record.log.last_id, (attempt - 1) * ATTEMPT_IDS))
        self._active[record.run_id] = self._placed(record)

    def _log_on(self, record: RunRecord, last_id: int) -> None:
        """Log the run's events behind those of attempts before; who follows it already goes on."""
        record.is_logged, record.is_kept = True, self._durable
        if record.log.ended or record.log.last_id:
            record.log.forget()
            record.log = RunLog(last_id, self._recent.grow)
        else:
            record.log.begin(last_id, self._recent.grow)

    def _scope_of(self, record: RunRecord) -> Cancellable:
        if self._new_scope is None:
            self._new_scope = cancel_scopes()
        record.scope = scope = self._new_scope()
        return scope

    def _listener_of(self, record: RunRecord, listener: Listener | None) -> Listener | None:
        if listener is not None:
            return record.log.counted(listener)
        return record.log.tell if record.is_logged else None

    def _end(self, record: RunRecord) -> None:
        record.scope = None
        if self._active.get(record.run_id) is record:
            del self._active[record.run_id]
        if record.status is RUNNING and record.is_kept:  # cut off from outside: the bus hands it out again
            self._requeue(record)
            return
        if record.status is RUNNING:  # cut off from outside
            record.status, record.failure = CANCELLED, cancellation(record)
        self._keep(record, None if record.output is None or record.is_logged else RunEnded(record.output))

    def _requeue(self, record: RunRecord) -> None:
        record.status = QUEUED
        self._queued[record.run_id] = self._placed(record)
        if self._has_let_go:
            record.log.end()

    def _keep(self, record: RunRecord, last: RunEnded | None = None) -> None:
        record.log.end(last)
        size = 0 if record.output is None else output_size(record.output)
        self._recent.add(self._placed(record), size, max_runs=MAX_RECENT_RUNS, max_logs=MAX_RECENT_LOGS)

    def _placed(self, record: RunRecord) -> RunRecord:
        self._last_place = record.place = self._last_place + 1
        return record


def cancellation(record: RunRecord) -> RunCancelled:
    """Why a run that somebody cancelled has no output."""
    return RunCancelled(f"the run {record.run_id} was cancelled")


def without_traceback(error: Exception) -> Exception:
    """The same error, less the frames that it came through and what its run said: a record must not keep that alive."""
    try:
        kept = copy.copy(error)
        if isinstance(kept, RunError):
            kept.messages, kept.tool_calls = (), ()
        return kept
    except Exception:  # its own `__init__` wants more than the arguments that it keeps
        return RunError(error_message(error))
