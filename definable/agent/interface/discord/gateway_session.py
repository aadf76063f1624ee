"""A gateway session: what outlives a connection, so that the next one can go on where it broke. Pure."""

from __future__ import annotations

from typing import Any, cast

MAX_FAILED_RESUMES = 3
"""In a row: then a new session is begun, lest the bot be mute for as long as Discord hesitates."""


class GatewaySession:
    """The session that Discord keeps for the bot, as we know it.

    `sequence` is that of the last event that was dealt with, not of the last that came in: what was received and not
    accepted when a connection or the service ended is replayed on resume.
    """

    def __init__(self) -> None:
        self.session_id: str | None = None
        self.resume_url: str | None = None
        """Where to resume; None: the gateway's usual address."""
        self.sequence: int | None = None
        self.user_id: str | None = None
        """The bot's own, known from the first session on."""
        self._failed_resumes = 0
        """In a row."""

    @property
    def resumable(self) -> bool:
        """Whether there is a session to go on with."""
        return self.session_id is not None and self.sequence is not None

    def begin(self, ready: dict[str, Any], sequence: int | None) -> None:
        """A new session began; `ready` is the data of its READY event."""
        self.session_id = _text(ready.get("session_id"))
        self.resume_url = _text(ready.get("resume_gateway_url"))
        self.sequence = sequence
        self._failed_resumes = 0
        user = ready.get("user")
        self.user_id = _text(cast("dict[str, Any]", user).get("id")) if isinstance(user, dict) else None

    def has_handled(self, sequence: int | None) -> bool:
        """Whether an event was dealt with before: a resume may bring more than it was asked for."""
        return sequence is not None and self.sequence is not None and sequence <= self.sequence

    def handled(self, sequence: int | None) -> None:
        """An event was dealt with: it need not be replayed."""
        if sequence is not None:
            self.sequence = max(sequence, self.sequence or 0)

    def resumed(self) -> None:
        """The session goes on."""
        self._failed_resumes = 0

    def resume_failed(self) -> None:
        """The gateway was there, and did not give the session back, without a word that it is over."""
        self._failed_resumes += 1
        if self._failed_resumes >= MAX_FAILED_RESUMES:
            self.forget()

    def forget(self) -> None:
        """The session is over; the next connection begins a new one."""
        self.session_id = self.resume_url = self.sequence = None
        self._failed_resumes = 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
