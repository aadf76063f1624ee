"""What a run is started with, and what it knows of itself: handed to instructions, tools and hooks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple

from definable.frozen import frozen
from definable.original_library import CONTEXT_ATTRIBUTES, unknown_attribute

if TYPE_CHECKING:
    # Edges for the types alone: they stand to the right of runs.
    from definable.agent.auth.base import AuthContext
    from definable.agent.session.service import SessionTurn
    from definable.agent.trigger.base import TriggerEvent
    from definable.model.message import Message


@frozen
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
    """The caller's, as given to `arun`, or by a client in the JSON of `POST /run`."""
    session_state: dict[str, Any] = field(default_factory=dict[str, Any])
    """Kept with the session: what a run puts in is there in the session's next run."""
    auth: AuthContext | None = None
    """Who asked for the run, as the auth provider says, with the claims of a token in its `metadata`; None where nobody
    was asked. The `metadata` above is what the caller wrote, and proves nothing."""

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute("RunContext", name, CONTEXT_ATTRIBUTES)


@frozen
class RunRequest:
    """What a run is started with."""

    input: str | Message
    session_id: str | None = None
    """None begins a session of its own."""
    user_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    trigger: TriggerEvent | None = None
    headers: Mapping[str, str] | None = None
    """Of the HTTP request that asks for it, looked up case-insensitively: they may name a trace."""
    run_id: str = field(default_factory=lambda: f"run_{random_id(12)}")
    auth: AuthContext | None = None
    """Who asks for it; None where nobody was asked."""
    namespace: str = ""
    """Tells its caller's runs and sessions from others' (`AuthContext.namespace`): a session that it begins without an
    id gets one that begins with it. Empty: the service's own."""
    turn: SessionTurn | None = None
    """The turn in the session that its caller holds already, loaded; None: the run takes its own."""
    max_history: int | None = None
    """How many messages of the session are kept at most, where that is fewer than the agent keeps."""
    keep: bool = False
    """Whether a session that it begins without an id is stored: else nobody goes on with it, and it would only grow the
    store."""


current_run: ContextVar[RunContext | None] = ContextVar("definable_current_run", default=None)
"""The run that the current task works for; log records take their ids from it."""

current_trigger: ContextVar[TriggerEvent | None] = ContextVar("definable_current_trigger", default=None)
"""The event that the current task handles, from before its run to after it."""


class RunIds(NamedTuple):
    """What tells a run from others in logs; "" for what there is none of."""

    run_id: str = ""
    session_id: str = ""
    trigger_id: str = ""


def current_ids() -> RunIds | None:
    """The ids of what the current task works for; None when it works for no run and no event."""
    run, trigger = current_run.get(), current_trigger.get()
    if run is None:
        return None if trigger is None else RunIds(trigger_id=trigger.id)
    trigger = run.trigger or trigger
    return RunIds(run.run_id, run.session_id, "" if trigger is None else trigger.id)


def mark(error: BaseException) -> None:
    """Have an exception remember whose it is: it may be logged after the run has ended. The innermost run counts."""
    ids = current_ids()
    if ids is not None and hasattr(error, "__dict__"):
        error.__dict__.setdefault("definable_ids", ids)


def ids_of(error: BaseException) -> RunIds | None:
    """The ids that `mark` left; None without."""
    return getattr(error, "definable_ids", None)


ID_SIZE = 16
"""Random bytes that an id may have."""

BATCH = 256
"""Ids' worth of bytes that are asked of the system at once."""

_pool: list[str] = []
"""What is left of it, in hexadecimal."""


def random_id(size: int = ID_SIZE) -> str:
    """An id that nobody can guess: `size` random bytes, at most 16, in hexadecimal; callable from any thread.

    The system is asked for many at a time: one at a time a request's share of `os.urandom` was 6 of its 70
    microseconds.
    """
    try:
        digits = _pool.pop()
    except IndexError:
        block, width = os.urandom(ID_SIZE * BATCH).hex(), 2 * ID_SIZE
        digits = block[:width]
        _pool.extend(block[start : start + width] for start in range(width, len(block), width))
    return digits[: 2 * size]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)  # or two processes would give out the same ids
