"""Messages on their way to an answer: those of one chat in order, different chats side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup

Item = TypeVar("Item")

ChatKey: TypeAlias = tuple[str, str]
"""The platform, and the chat's id there."""


class Inbox(Generic[Item]):
    """Takes messages in and has each answered in its turn.

    Args:
        answer: Answers one message; must not raise.
        max_chats: How many chats are answered at once.
        tasks: The task group in which messages are answered.
    """

    def __init__(self, answer: Callable[[Item], Awaitable[None]], max_chats: int, tasks: TaskGroup) -> None:
        self._answer = answer
        self._places = anyio.Semaphore(max_chats)
        self._tasks = tasks
        self._chats: dict[ChatKey, deque[Item]] = {}
        """Chats that have somebody at work, each with the messages that wait behind."""
        self.ready_chats: int = 0
        """Chats whose next message waits for nothing but a place."""

    def put(self, chat: ChatKey, item: Item) -> None:
        """Take a message in, behind those of its chat."""
        waiting = self._chats.get(chat)
        if waiting is not None:
            waiting.append(item)
            return
        self._chats[chat] = deque([item])
        self.ready_chats += 1
        self._tasks.start_soon(self._work_off, chat)

    def waiting(self) -> int:
        """Messages that nobody has begun to answer."""
        return sum(len(messages) for messages in self._chats.values())

    async def _work_off(self, chat: ChatKey) -> None:
        waiting = self._chats[chat]
        while waiting:
            async with self._places:  # for one message only: a talkative chat must not keep others out
                self.ready_chats -= 1
                await self._answer(waiting.popleft())
            if waiting:
                self.ready_chats += 1
        del self._chats[chat]
