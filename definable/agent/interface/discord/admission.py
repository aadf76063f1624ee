"""Which messages are for the agent: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from definable.agent.interface.message import InterfaceMessage

from .config import DiscordConfig
from .message_event import author_of, is_bot, is_written, read_message


class Admission:
    """Reads the messages that are for the agent, and passes over the others.

    Args:
        config: Says which.
        platform: The interface's name.
    """

    def __init__(self, config: DiscordConfig, platform: str) -> None:
        self._config = config
        self._platform = platform

    def admit(self, data: Mapping[str, Any], user_id: str | None) -> InterfaceMessage | None:
        """The message of a MESSAGE_CREATE event; None when it is not for the agent.

        Args:
            data: The event's.
            user_id: The bot's own.

        Raises:
            NotAMessage: The event lacks what every message has.
        """
        if not (is_written(data) and self._may_speak(data, user_id) and self._is_heard_here(data)):
            return None
        content = data.get("content")
        text = self._addressed(content if isinstance(content, str) else "")
        if text is None or not (text or data.get("attachments")):
            return None
        return read_message(data, self._platform, text)

    def _may_speak(self, data: Mapping[str, Any], user_id: str | None) -> bool:
        if user_id is not None and author_of(data).get("id") == user_id:
            return False  # or the bot would talk to itself for ever
        return self._config.respond_to_bots or not is_bot(data)

    def _is_heard_here(self, data: Mapping[str, Any]) -> bool:
        guilds, channels = self._config.allowed_guild_ids, self._config.allowed_channel_ids
        guild, channel = str(data.get("guild_id")), str(data.get("channel_id"))
        return (guilds is None or guild in guilds) and (channels is None or channel in channels)

    def _addressed(self, content: str) -> str | None:
        """What is said to the bot; None when it is not spoken to."""
        prefix = self._config.command_prefix
        if prefix is None:
            return content if content.strip() else ""
        text = content.lstrip()
        return text.removeprefix(prefix).strip() if text.startswith(prefix) else None
