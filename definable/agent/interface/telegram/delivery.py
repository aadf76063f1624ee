"""One request that sends something: at the bot's pace, and again where that cannot send it twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import anyio

from definable.agent.interface.errors import InterfaceRateLimitError

from .client import BotAPI, Upload
from .failure import TelegramRefusal, TelegramUnreached
from .pace import SendPace

MAX_TRIES = 5

MAX_RETRY_AFTER = 120.0
"""Seconds; for longer nobody waits."""

MAX_MOVED_CHATS = 10_000


class Delivery:
    """Sends to chats, wherever they have moved.

    sendMessage has no idempotency key: a request is made again when it never reached Telegram or was refused with 429,
    never after an answer that did not come.
    """

    def __init__(self) -> None:
        self._pace = SendPace()
        self._moved: OrderedDict[str, str] = OrderedDict()
        """Groups that have become supergroups, with their new ids."""

    async def deliver(
        self,
        api: BotAPI,
        method: str,
        chat_id: str,
        parameters: Mapping[str, Any],
        uploads: Mapping[str, Upload] | None = None,
    ) -> Any:
        """Call a method that sends to a chat.

        Raises:
            InterfaceError: It was not sent, or nobody knows whether it was.
        """
        tries = 0
        while True:
            chat_id = self._moved.get(chat_id, chat_id)
            tries += 1
            try:
                return await self.deliver_once(api, method, chat_id, parameters, uploads)
            except TelegramRefusal as refusal:
                if refusal.moved_to is None or tries >= MAX_TRIES:
                    raise
                self._move(chat_id, str(refusal.moved_to))
            except (TelegramUnreached, InterfaceRateLimitError) as error:
                seconds = _wait(error, tries)
                if seconds is None:
                    raise
                await anyio.sleep(seconds)

    async def deliver_once(
        self,
        api: BotAPI,
        method: str,
        chat_id: str,
        parameters: Mapping[str, Any],
        uploads: Mapping[str, Upload] | None = None,
    ) -> Any:
        """As `deliver`, where a later request takes the place of one that fails.

        Raises:
            InterfaceError: It was not sent, or nobody knows whether it was.
        """
        await self._wait_for_turn(chat_id)
        return await api.call(method, {"chat_id": chat_id, **parameters}, uploads=uploads)

    async def _wait_for_turn(self, chat_id: str) -> None:
        while True:
            seconds = self._pace.wait(chat_id, anyio.current_time())
            if seconds <= 0:
                break
            await anyio.sleep(seconds)
        await anyio.sleep(self._pace.take(chat_id, anyio.current_time()))

    def _move(self, chat_id: str, moved_to: str) -> None:
        self._moved[chat_id] = moved_to
        if len(self._moved) > MAX_MOVED_CHATS:
            self._moved.popitem(last=False)


def _wait(error: TelegramUnreached | InterfaceRateLimitError, tries: int) -> float | None:
    """Seconds before the next try; None when there is none."""
    if tries >= MAX_TRIES:
        return None
    asked = error.retry_after if isinstance(error, InterfaceRateLimitError) else None
    if asked is None:
        return 2.0 ** (tries - 1)
    return asked if asked <= MAX_RETRY_AFTER else None
