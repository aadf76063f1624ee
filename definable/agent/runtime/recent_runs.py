"""Ended runs that are remembered, newest last: bounded in number and in bytes, the oldest are forgotten."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from .run_record import RunRecord


class RecentRuns:
    """Ended runs by their ids, with their outputs and logs.

    Args:
        max_bytes: What they may hold, together with the logs of runs under way; the newest one is kept in any case.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: int = max_bytes
        self._bytes = 0
        self._records: OrderedDict[str, RunRecord] = OrderedDict()
        self._logged: deque[RunRecord] = deque()
        """Those whose events are kept, not their last one alone."""

    def get(self, run_id: str) -> RunRecord | None:
        """The run of that id."""
        return self._records.get(run_id)

    def newest_first(self) -> Iterator[RunRecord]:
        """All of them."""
        return reversed(self._records.values())

    def add(self, record: RunRecord, size: int, *, max_runs: int, max_logs: int) -> None:
        """Remember a run that has ended.

        Args:
            record: The run.
            size: Bytes of its output.
            max_runs: How many are remembered.
            max_logs: Of how many all events are remembered.
        """
        self.pop(record.run_id)
        record.size = size
        self._bytes += size
        self._records[record.run_id] = record
        if record.is_logged:
            self._logged.append(record)
            if len(self._logged) > max_logs:
                self._logged.popleft().log.shrink()
        while len(self._records) > max_runs:
            self._forget_oldest()
        self.grow(0)

    def pop(self, run_id: str) -> RunRecord | None:
        """Forget a run, which is made again; its log stays, as a part of what is held."""
        record = self._records.pop(run_id, None)
        if record is not None:
            self._bytes -= record.size
        return record

    def grow(self, size: int) -> None:
        """The logs hold so many bytes more, or fewer."""
        self._bytes += size
        while self._bytes > self.max_bytes and len(self._records) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, record = self._records.popitem(last=False)
        self._bytes -= record.size
        if record.is_logged and self._logged and self._logged[0] is record:
            self._logged.popleft()
        record.log.forget()
