"""A conversation as an interface sees it: who speaks where, and what was said last."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from os import urandom
from typing import Any

from definable.agent.run_output import RunOutput
from definable.agent.session.history import bounded
from definable.model.message import Message


@dataclass(slots=True, eq=False)
class InterfaceSession:
    """One user's conversation in one chat.

    The conversation itself lives in the agent's session store, under `session_id`; `messages` is a view of it.
    """

    session_id: str = field(default_factory=lambda: f"session_{urandom(12).hex()}")
    """The agent's session that holds the conversation."""
    platform: str = ""
    platform_user_id: str = ""
    platform_chat_id: str = ""
    messages: tuple[Message, ...] = ()
    """What was said, oldest first, as of the last run; changing it changes nothing that is kept."""
    session_state: dict[str, Any] = field(default_factory=dict[str, Any])
    """The state that the conversation's runs share. What a hook changes before a run is kept, and seen by tools."""
    last_run_output: RunOutput | None = None
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""
    last_activity_at: float = field(default_factory=time.time)
    """Unix seconds."""
    user_id: str | None = None
    """Whose conversation it is, as runs know the user; None before the first message was let in."""

    def touch(self) -> None:
        """Note that something happened now."""
        self.last_activity_at = time.time()

    def truncate_history(self, n: int) -> None:
        """Keep the newest `n` messages of the view; a tool call is never cut from its result."""
        self.messages = bounded(self.messages, n)
