"""What an interface is handed by whoever serves it; it knows nothing else of the runtime."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

from definable.agent.auth.base import AuthProvider, RefusalLog
from definable.agent.run.output import Listener, RunOutput
from definable.agent.run.runner import RunRequest
from definable.agent.session.service import SessionService

StartRun: TypeAlias = Callable[[RunRequest], Awaitable[RunOutput]]
"""Makes a run of the agent."""

StreamRun: TypeAlias = Callable[[RunRequest, Listener], Awaitable[RunOutput]]
"""Makes a run of the agent and tells what happens in it."""


def nobody() -> None:
    """The guard of an open agent."""


@dataclass(frozen=True, slots=True)
class AgentHandle:
    """The agent behind an interface, as far as the interface needs it."""

    start_run: StartRun
    stream_run: StreamRun | None = None
    """None: what the agent makes of a reply is known at its end alone, so replies come whole."""
    sessions: SessionService | None = None
    """The agent's conversations; None: an interface sees of them what it answered itself."""
    auth: Callable[[], AuthProvider | None] = nobody
    """Who guards the agent, asked at every message."""
    refusals: RefusalLog = field(default_factory=RefusalLog)
    """Where it is noted who is not let in."""
    place: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    """A place for a run among those that may be under way; it is waited for, since nobody hangs up on a chat. A message
    has it before its session's turn and holds it to the end of its run."""
    name: str | None = None
    """What tells the interface from others that keep conversations in the same place; None: its platform does."""
