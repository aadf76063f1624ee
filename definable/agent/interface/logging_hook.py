"""A hook that logs what comes and goes."""

from __future__ import annotations

import logging
from typing import ClassVar

from .hook import InterfaceHook
from .message import InterfaceMessage, InterfaceResponse
from .session import InterfaceSession


class LoggingHook(InterfaceHook):
    """Logs every message, response and failure: who and how much, never what was said.

    Args:
        logger: Where to; `definable.agent.interface` when None.
        level: Of messages and responses; failures are warnings.
    """

    holds_back_replies: ClassVar[bool] = False

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logging.getLogger("definable.agent.interface") if logger is None else logger
        self._level = level

    async def on_message_received(self, message: InterfaceMessage) -> bool | None:
        self._logger.log(
            self._level,
            "%s: message %s of user %s in chat %s, %d characters",
            message.platform,
            message.platform_message_id,
            message.platform_user_id,
            message.platform_chat_id,
            len(message.text or ""),
        )
        return None

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse | None:
        self._logger.log(
            self._level,
            "%s: message %s is answered with %d characters, session %s",
            message.platform,
            message.platform_message_id,
            len(response.content or ""),
            session.session_id,
        )
        return None

    async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
        self._logger.warning(
            "%s: message %s failed: %s: %s",
            message.platform,
            message.platform_message_id,
            type(error).__name__,
            error,
        )
