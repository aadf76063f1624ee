"""Accepted messages on their way to an answer: those of one chat in order, different chats side by side, each once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from definable.agent.bus.dedupe import DedupeWindow

from .message import InterfaceMessage

DEDUPE_TTL = 3600.0
"""Seconds for which a message's name is remembered."""


class Inbox:
    """Takes messages in and has each answered in its turn.

    Args:
        answer: Answers one message; must not raise.
        max_chats: How many chats are answered at once.
        tasks: The task group in which messages are answered.
    """

    def __init__(self, answer: Callable[[InterfaceMessage], Awaitable[None]], max_chats: int, tasks: TaskGroup) -> None:
        self._answer = answer
        self._places = anyio.Semaphore(max_chats)
        self._tasks = tasks
        self._seen = DedupeWindow()
        self._chats: dict[tuple[str, str], deque[InterfaceMessage]] = {}
        """Chats that have somebody at work, each with the messages that wait behind."""

    async def accept(self, message: InterfaceMessage) -> bool:
        """Take a message in, behind those of its chat; returns at once. False when it came in before."""
        if not self._is_new(message):
            return False
        chat = (message.platform, message.platform_chat_id)
        waiting = self._chats.get(chat)
        if waiting is not None:
            waiting.append(message)
            return True
        self._chats[chat] = deque([message])
        self._tasks.start_soon(self._work_off, chat)
        return True

    def waiting(self) -> int:
        """Accepted messages that nobody has begun to answer."""
        return sum(len(messages) for messages in self._chats.values())

    def _is_new(self, message: InterfaceMessage) -> bool:
        name = message.platform_message_id
        key = f"{message.platform}\n{message.platform_chat_id}\n{name}"
        return not name or self._seen.claim(key, DEDUPE_TTL, anyio.current_time())

    async def _work_off(self, chat: tuple[str, str]) -> None:
        waiting = self._chats[chat]
        while waiting:
            async with self._places:  # for one message only: a talkative chat must not keep others out
                await self._answer(waiting.popleft())
        del self._chats[chat]
