"""What the service remembers of one run: `run_registry` makes the records, `/runs` shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from definable.agent.event_loop import Cancellable
from definable.agent.run_output import RunOutput, RunStatus

from .run_log import RunLog


@dataclass(slots=True, eq=False)
class RunRecord:
    """A run that the service made or is making."""

    run_id: str
    source: str
    session_id: str | None
    user_id: str | None
    created_at: float
    """Unix seconds."""
    status: RunStatus = RunStatus.RUNNING
    output: RunOutput | None = None
    """Of a run that completed."""
    failure: Exception | None = None
    """Why it failed, or was cancelled; without a traceback."""
    log: RunLog = field(default_factory=RunLog)
    """Its events, where somebody may ask for them later; at least its end."""
    is_logged: bool = False
    """Whether all of its events are logged."""
    is_kept: bool = False
    """Whether its delivery outlives this process, so that it is made again when it is cut off."""
    scope: Cancellable | None = None
    """Around the run while it is under way."""
    size: int = 0
    """Bytes that are held for it, less its log: of what it was asked while it is queued, of its output at last."""
    namespace: str = ""
    """Of whoever asked for it; empty: the service itself."""
    place: int = 0
    """Its place among the queued, the active or the ended runs: higher than that of those before."""

    @property
    def will_go_on(self) -> bool:
        """Whether it has not ended, and will be made also if this process ends."""
        return self.is_kept and self.status in (RunStatus.QUEUED, RunStatus.RUNNING)
