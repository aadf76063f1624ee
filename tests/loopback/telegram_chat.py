"""One chat of the loopback Bot API: its messages, whose they are, and how fast a bot may write to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .telegram_rules import BadRequest

MIN_GAP = 0.9
"""Seconds from one message or edit to the next: Telegram wants one, less what data on its way gains on the clock."""


@dataclass
class ChatMessage:
    """A message as the chat shows it."""

    text: str | None
    entities: Any
    is_own: bool
    """Whether the bot wrote it."""
    markup: Any = None
    """Its buttons."""


@dataclass
class Chat:
    """A chat; see the module."""

    messages: dict[int, ChatMessage] = field(default_factory=dict)
    last_id: int = 0
    written_at: float = float("-inf")

    def add(self, parameters: Mapping[str, Any], *, is_own: bool) -> int:
        """A new message; returns its id."""
        self.last_id += 1
        text = parameters.get("text", parameters.get("caption"))
        self.messages[self.last_id] = ChatMessage(
            text, parameters.get("entities"), is_own, parameters.get("reply_markup")
        )
        return self.last_id

    def edit(self, number: int, parameters: Mapping[str, Any]) -> None:
        message = self._own(number, "edit", "message can't be edited")
        text, entities = parameters["text"], parameters.get("entities")
        if (message.text, message.entities) == (text, entities):
            raise BadRequest(
                "message is not modified: specified new message content and reply markup are exactly the same as a "
                "current content and reply markup of the message"
            )
        message.text, message.entities, message.markup = text, entities, parameters.get("reply_markup")

    def edit_markup(self, number: int, parameters: Mapping[str, Any]) -> None:
        self._own(number, "edit", "message can't be edited").markup = parameters.get("reply_markup")

    def delete(self, number: int) -> None:
        self._own(number, "delete", "message can't be deleted")
        del self.messages[number]

    def shown(self) -> list[str | None]:
        """What the bot's messages say now."""
        return [message.text for message in self.messages.values() if message.is_own]

    def is_too_soon(self, now: float) -> bool:
        """Whether something is written too soon after what was written before it."""
        return now - self.written_at < MIN_GAP

    def _own(self, number: int, verb: str, refusal: str) -> ChatMessage:
        message = self.messages.get(number)
        if message is None:
            raise BadRequest(f"message to {verb} not found")
        if not message.is_own:
            raise BadRequest(refusal)
        return message
