"""The messages that wait in this process: in order within a chat, chats side by side.

Messages of one user that follow one another become one turn (`collect`); what a new message does to those before it is
`busy`; `stop` ends what a chat has. `MessageQueue` puts in what the bus hands out, and has turns answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import anyio
from anyio.abc import TaskGroup

from definable.agent.bus.base import Delivery
from definable.agent.interface.message import InterfaceMessage, collected, is_collectable
from definable.concurrency.clock import current_clock

ChatKey: TypeAlias = tuple[str, str, str | None]
"""The platform, the chat's id there, and the thread within it."""

MAX_COLLECTED = 50
"""Messages that become one; an album has at most 10."""

MAX_WINDOWS = 10
"""A user who goes on writing is answered after so many times `collect`."""

CLOCK_STEP = 1.0
"""Seconds: what platforms round the time of a message to."""


def chat_of(message: InterfaceMessage) -> ChatKey:
    """The chat whose messages are answered in order."""
    return message.platform, message.platform_chat_id, message.thread_id


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message as the bus handed it out."""

    message: InterfaceMessage
    delivery: Delivery
    at: float = field(default_factory=lambda: current_clock().now())
    """When it was accepted, in Unix seconds."""
    is_silent: bool = False
    """Whether a correction says what it said."""


@dataclass(slots=True, eq=False)
class PendingAnswer:
    """What is answered at once: a message, or several that were collected."""

    parts: list[Accepted]
    due: float
    """When it may begin, in seconds of the event loop's clock."""
    latest: float
    """When it begins, whatever follows."""
    message: InterfaceMessage
    """What its parts say together."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Around its answer."""
    is_withdrawn: bool = False
    """Whether it was stopped, or another message took its place."""
    began: float | None = None

    @property
    def user(self) -> str:
        return self.message.platform_user_id

    def withdraw(self) -> None:
        """End it, whether it has begun or not."""
        self.is_withdrawn = True
        self.scope.cancel()


class Stopped(NamedTuple):
    """What a stop has ended, in messages."""

    running: int = 0
    waiting: int = 0


@dataclass(slots=True, eq=False)
class _Chat:
    waiting: deque[PendingAnswer] = field(default_factory=deque[PendingAnswer])
    running: PendingAnswer | None = None
    is_ready: bool = False
    """Whether its next turn waits for nothing but a place."""
    changed: anyio.Event = field(default_factory=anyio.Event)


class ChatDispatcher:
    """Takes messages in and has each answered in its turn.

    Args:
        answer: Answers one turn; must not raise.
        max_chats: How many chats are answered at once.
        tasks: The task group in which turns are answered.
        withdrawn: Settles a turn that is not answered; must not raise. None: nothing is withdrawn.
        collect: Seconds in which messages of one user become one turn; 0 for never.
        busy: What a new message of a user does to the user's turns before it; see `InterfaceConfig.busy`.
        full_length: UTF-16 code units at which a platform cuts what its users write.
    """

    def __init__(
        self,
        answer: Callable[[PendingAnswer], Awaitable[None]],
        max_chats: int,
        tasks: TaskGroup,
        *,
        withdrawn: Callable[[PendingAnswer], Coroutine[Any, Any, None]] | None = None,
        collect: float = 0.0,
        busy: Literal["queue", "latest", "interrupt"] = "queue",
        full_length: int = 4096,
    ) -> None:
        self._answer = answer
        self._places = anyio.Semaphore(max_chats)
        self._tasks = tasks
        self._withdrawn = withdrawn
        self._collect = collect
        self._busy = busy
        self._is_flushing = False
        self._full_length = full_length
        self._chats: dict[ChatKey, _Chat] = {}
        """Chats that have somebody at work."""
        self.ready_chats: int = 0
        """Chats whose next turn waits for nothing but a place."""

    def put(self, accepted: Accepted) -> None:
        """Take a message in, behind those of its chat."""
        key = chat_of(accepted.message)
        chat = self._chats.get(key)
        if chat is None:
            chat = self._chats[key] = _Chat()
            self._tasks.start_soon(self._work_off, key, chat)
        if self._corrects(chat, accepted) or self._joins(chat, accepted):
            return
        self._make_way(chat, accepted.message)
        if chat.waiting:  # what comes behind it ends the wait for more of its kind
            chat.waiting[-1].due = -1.0
        now = anyio.current_time()
        window = self._collect if is_collectable(accepted.message) and not self._is_flushing else 0.0
        wait = min(max(window - (current_clock().now() - accepted.at), 0.0), window)
        chat.waiting.append(PendingAnswer([accepted], now + wait, now + wait * MAX_WINDOWS, accepted.message))
        if wait <= 0 and chat.running is None and len(chat.waiting) == 1:
            self._mark_ready(chat)
        chat.changed.set()

    def stop(self, key: ChatKey, user: str | None = None) -> Stopped:
        """End what a chat has, of one user or of all; the answers are cancelled."""
        chat = self._chats.get(key)
        if chat is None:
            return Stopped()
        running = chat.running
        if running is not None and (running.is_withdrawn or user not in (None, running.user)):
            running = None
        waiting = self._withdraw_waiting(chat, user)
        if running is not None:
            running.withdraw()
        return Stopped(0 if running is None else len(running.parts), waiting)

    def flush(self) -> None:
        """Wait for nothing more to be collected, now and from now on."""
        self._is_flushing = True
        for chat in self._chats.values():
            for turn in chat.waiting:
                turn.due = -1.0
            chat.changed.set()

    def waiting(self) -> int:
        """Messages that nobody has begun to answer."""
        return sum(len(turn.parts) for chat in self._chats.values() for turn in chat.waiting)

    def stuck(self, seconds: float) -> int:
        """Chats whose answer has been under way for longer than that."""
        since = anyio.current_time() - seconds
        return sum(
            turn is not None and turn.began is not None and turn.began < since
            for turn in [chat.running for chat in self._chats.values()]
        )

    # --- before a turn begins

    def _corrects(self, chat: _Chat, accepted: Accepted) -> bool:
        """Whether a message corrects one that waits, whose place it takes."""
        correction = accepted.message
        if not correction.is_edit:
            return False
        for turn in chat.waiting:
            for index, part in enumerate(turn.parts):
                if part.message.platform_message_id == correction.platform_message_id:
                    turn.parts[index] = replace(part, is_silent=True)
                    correction = replace(correction, is_edit=part.message.is_edit)
                    turn.parts.insert(index + 1, replace(accepted, message=correction))
                    turn.message = self._said(turn)
                    return True
        return False

    def _joins(self, chat: _Chat, accepted: Accepted) -> bool:
        """Whether a message becomes a part of the turn that waits last."""
        message, turn = accepted.message, chat.waiting[-1] if chat.waiting else None
        if turn is None or not (is_collectable(message) and is_collectable(turn.message)):
            return False
        last = turn.parts[-1]
        apart = abs(message.created_at - last.message.created_at) - CLOCK_STEP
        is_close = max(accepted.at - last.at, apart) <= self._collect and self._collect > 0
        if not (is_close and turn.user == message.platform_user_id and len(turn.parts) < MAX_COLLECTED):
            return False
        turn.parts.append(accepted)
        turn.message = self._said(turn)
        if turn.due > 0:
            turn.due = min(anyio.current_time() + self._collect, turn.latest)
        return True

    def _said(self, turn: PendingAnswer) -> InterfaceMessage:
        return collected([part.message for part in turn.parts if not part.is_silent], self._full_length)

    def _make_way(self, chat: _Chat, message: InterfaceMessage) -> None:
        if self._busy == "queue" or not message.is_addressed:
            return
        self._withdraw_waiting(chat, message.platform_user_id)
        running = chat.running
        if self._busy == "interrupt" and running is not None and running.user == message.platform_user_id:
            running.withdraw()

    def _withdraw_waiting(self, chat: _Chat, user: str | None) -> int:
        if self._withdrawn is None:
            return 0
        count, kept = 0, deque[PendingAnswer]()
        for turn in chat.waiting:
            if user in (None, turn.user):
                turn.withdraw()
                count += sum(not part.is_silent for part in turn.parts)
                self._tasks.start_soon(self._withdrawn, turn)
            else:
                kept.append(turn)
        chat.waiting = kept
        chat.changed.set()
        return count

    # --- the turns of a chat

    def _mark_ready(self, chat: _Chat, is_ready: bool = True) -> None:
        self.ready_chats += is_ready - chat.is_ready
        chat.is_ready = is_ready

    async def _work_off(self, key: ChatKey, chat: _Chat) -> None:
        while chat.waiting:
            if not await self._is_due(chat, chat.waiting[0]):
                continue
            self._mark_ready(chat)
            async with self._places:  # for one turn only: a talkative chat must not keep others out
                self._mark_ready(chat, False)
                if chat.waiting:  # not stopped meanwhile
                    chat.running = turn = chat.waiting.popleft()
                    turn.began = anyio.current_time()
                    await self._answer(turn)
                    chat.running = None
        self._mark_ready(chat, False)
        del self._chats[key]

    async def _is_due(self, chat: _Chat, turn: PendingAnswer) -> bool:
        """Wait until a turn may begin; False where it is no longer the next."""
        while chat.waiting and chat.waiting[0] is turn:
            if turn.due <= anyio.current_time():
                return True
            chat.changed = anyio.Event()
            with anyio.CancelScope(deadline=turn.due):
                await chat.changed.wait()
        return False
