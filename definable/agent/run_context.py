"""What a run knows of itself: made by the runner, handed to instructions, tools and hooks."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # An edge for the type alone: triggers stand to the right of runs.
    from .trigger.base import TriggerEvent


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run of an agent, as seen from inside it."""

    run_id: str
    session_id: str
    user_id: str | None = None
    input: Any = None
    """What the run was started with."""
    trigger: TriggerEvent | None = None
    """The event whose handler started the run; None when it was called."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """The caller's, as given to `arun`."""
    session_state: dict[str, Any] = field(default_factory=dict[str, Any])
    """Kept with the session: what a run puts in is there in the session's next run."""


current_run: ContextVar[RunContext | None] = ContextVar("definable_current_run", default=None)
"""The run that the current task works for; log records take their ids from it."""
