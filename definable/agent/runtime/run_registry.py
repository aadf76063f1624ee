"""The runs that the service makes: active ones, which can be cancelled by id, and the most recent ended ones.

Dispatch, `POST /run` and the interfaces start their runs here; `/runs` lists them.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from definable.agent.event_loop import Cancellable, cancel_scopes
from definable.agent.isolation import Isolation
from definable.agent.run_event import Listener, RunEnded
from definable.agent.run_output import RunOutput, RunStatus
from definable.agent.runner import Runner, RunRequest
from definable.errors import RunCancelled, RunError, ServeError

from .clock import current_clock
from .run_log import RunLog

RUN = Isolation("a run")

QUEUED, RUNNING = RunStatus.QUEUED, RunStatus.RUNNING
COMPLETED, FAILED, CANCELLED = RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED
"""By names of ours: Python 3.11 takes a tenth of a microsecond to find a member of an enumeration."""

MAX_RECENT_RUNS = 1_000
"""Ended runs that are remembered."""

MAX_RECENT_LOGS = 100
"""Ended runs whose events are remembered, beyond the last one."""


class TooManyRuns(ServeError):
    """`max_concurrent_runs` are under way; try again later."""


@dataclass(slots=True, eq=False)
class RunRecord:
    """A run that the service made or is making."""

    run_id: str
    source: str
    session_id: str | None
    user_id: str | None
    created_at: float
    """Unix seconds."""
    status: RunStatus = RUNNING
    output: RunOutput | None = None
    """Of a run that completed."""
    failure: Exception | None = None
    """Why it failed, or was cancelled; without a traceback."""
    log: RunLog = field(default_factory=RunLog)
    """Its events, where somebody may ask for them later; at least its end."""
    is_logged: bool = False
    """Whether all of its events are logged."""
    scope: Cancellable | None = None
    """Around the run while it is under way."""


class RunRegistry:
    """Starts runs and keeps account of them.

    Args:
        runner: Makes the runs.
        max_concurrent: How many may be under way at once.
        others_help: Whether queued runs may be made by another process, which tells nobody: then the oldest are
            forgotten, where else a new one is refused.
    """

    def __init__(self, runner: Runner, max_concurrent: int, *, others_help: bool = False) -> None:
        self._runner = runner
        self._others_help = others_help
        self._max_concurrent = max_concurrent
        self._places = anyio.Semaphore(max_concurrent, fast_acquire=True)
        self._queued: dict[str, RunRecord] = {}
        self._active: dict[str, RunRecord] = {}
        self._recent: OrderedDict[str, RunRecord] = OrderedDict()
        self._recent_logs: deque[RunLog] = deque()
        self._new_scope: Callable[[], Cancellable] | None = None

    def queue(self, request: RunRequest, source: str) -> RunRecord:
        """Note down a run that was accepted for later; its events will be logged.

        Raises:
            TooManyRuns: As many are queued as may be under way.
        """
        if len(self._queued) >= self._max_concurrent and self._others_help:
            self.forget(next(iter(self._queued.values())))
        if len(self._queued) >= self._max_concurrent:
            raise TooManyRuns(f"{self._max_concurrent} runs wait already (max_concurrent_runs)")
        record = self._queued[request.run_id] = self._record(request, source, QUEUED)
        record.is_logged = True
        return record

    def forget(self, record: RunRecord) -> None:
        """Forget a queued run: it was not accepted after all, or ended without a run."""
        self._queued.pop(record.run_id, None)
        record.log.end()

    def let_go(self) -> None:
        """Keep nobody who follows a queued run that another process may make: a stop would wait for its end."""
        for record in self._queued.values() if self._others_help else ():
            record.log.end()

    def end_queued(self, run_id: str, failure: Exception | None = None) -> None:
        """A promised run will not be made, if it is queued still: its handler failed, or asked for none."""
        record = self._queued.pop(run_id, None)
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
    ) -> RunOutput:
        """Make a run.

        Args:
            request: What it is started with.
            source: What it comes from.
            listener: Told what happens as it happens.
            runner: Makes this run in place of the registry's own.
            wait: Whether to wait for a place when `max_concurrent` runs are under way.

        Raises:
            TooManyRuns: `max_concurrent` runs are under way, and `wait` is False.
            RunCancelled: The run was cancelled by its id.
            RunError: The run failed.
        """
        if not self._takes_place():
            await self._wait_for_place(wait)
        record = self._queued.pop(request.run_id, None) or self._record(request, source, RUNNING)
        try:
            self._begin(record, request)
            with self._scope_of(record), RUN:
                output = await (runner or self._runner).run(request, self._listener_of(record, listener))
                record.output, record.session_id, record.status = output, output.session_id, COMPLETED
                return output
            raise cancellation(record)
        except Exception as error:
            record.failure = without_traceback(error)
            record.status = CANCELLED if isinstance(error, RunCancelled) else FAILED
            raise
        finally:
            self._end(record)
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
        return (*reversed(self._queued.values()), *reversed(self._active.values()), *reversed(self._recent.values()))

    @property
    def active_count(self) -> int:
        """How many runs are under way."""
        return len(self._active)

    def _record(self, request: RunRequest, source: str, status: RunStatus) -> RunRecord:
        return RunRecord(request.run_id, source, request.session_id, request.user_id, current_clock().now(), status)

    def _begin(self, record: RunRecord, request: RunRequest) -> None:
        if record.status is CANCELLED:  # while it waited for its turn
            raise cancellation(record)
        record.status = RUNNING
        record.user_id, record.session_id = request.user_id, request.session_id
        before = self._recent.pop(record.run_id, None)  # a retry takes the place of the attempt before it
        if before is not None and before.is_logged:  # who follows has its events, and was told of its failure
            record.is_logged, record.log = True, RunLog(before.log.last_id + (before.output is None))
        self._active[record.run_id] = record

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
        if record.status is RUNNING:  # cut off from outside
            record.status, record.failure = CANCELLED, cancellation(record)
        self._keep(record, None if record.output is None or record.is_logged else RunEnded(record.output))

    def _keep(self, record: RunRecord, last: RunEnded | None = None) -> None:
        record.log.end(last)
        self._recent[record.run_id] = record
        if len(self._recent) > MAX_RECENT_RUNS:
            self._recent.popitem(last=False)
        if record.is_logged:
            self._recent_logs.append(record.log)
            if len(self._recent_logs) > MAX_RECENT_LOGS:
                self._recent_logs.popleft().shrink()


def cancellation(record: RunRecord) -> RunCancelled:
    """Why a run that somebody cancelled has no output."""
    return RunCancelled(f"the run {record.run_id} was cancelled")


def without_traceback(error: Exception) -> Exception:
    """The same error, less the frames that it came through: a record must not keep alive all that was in them."""
    try:
        return copy.copy(error)
    except Exception:  # its own `__init__` wants more than the arguments that it keeps
        return RunError(str(error))
