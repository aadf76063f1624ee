"""One interface's messages on the event bus: accepted into it, handed out to be answered, settled at their end.

Messages of one chat are answered in order, those of different chats side by side (`ChatDispatcher`).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from definable.agent.bus.base import ClaimsByName, Delivery, EventBus, Parkable
from definable.agent.interface.message import InterfaceMessage, MessageEnd, message_from_json, message_to_json
from definable.agent.work import Work, WorkTracker
from definable.concurrency.isolation import error_message
from definable.concurrency.logs import logger_named

from .workers import settle_safely

logger: logging.Logger = logger_named(__name__)

Item = TypeVar("Item")

RETURN_DELAY = 5.0
"""Seconds after which a bus hands out again what came for an interface that is closed."""

READY_PER_PLACE = 2
"""Chats whose next message is taken out of the bus ahead, for each that is answered at once."""

ChatKey: TypeAlias = tuple[str, str]
"""The platform, and the chat's id there."""


class ChatDispatcher(Generic[Item]):
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


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message as the bus handed it out."""

    message: InterfaceMessage
    delivery: Delivery


class MessageQueue:
    """Where the messages of one interface wait.

    Args:
        name: The interface's, among those of its agent; it must be the same after a restart.
        bus: Keeps what was accepted.
        tracker: Counts the messages, under the interface's name.
        answer: Answers one message, and says how it ended. Must not raise.
        is_safe: Told of a message that this process need not finish any more: it has come to its end, or the bus keeps
            it over the end of the process.
        limit: How many messages may wait; beyond it `accept` waits for room.
        max_chats: How many chats are answered at once.
    """

    def __init__(
        self,
        name: str,
        bus: EventBus,
        tracker: WorkTracker,
        *,
        answer: Callable[[InterfaceMessage], Awaitable[MessageEnd]],
        is_safe: Callable[[InterfaceMessage], None],
        limit: int,
        max_chats: int,
    ) -> None:
        self.name = name
        self.key: str = f"interface {name}"
        """Names the interface's deliveries."""
        self._bus = bus
        self._tracker = tracker
        self._answer = answer
        self._is_safe = is_safe
        self._limit = limit
        self._max_chats = max_chats
        self._granting_bus = bus if isinstance(bus, ClaimsByName) and bus.durable else None
        self._expected = 0.0
        """How many the bus may hand out that have not come."""
        self._on_bus = 0
        """What was accepted here and has not come out of a bus that may keep it."""
        self._dispatcher: ChatDispatcher[Accepted] | None = None
        self._closed = False
        self._early: list[Delivery] = []
        """What came before the interface was opened."""
        self._has_capacity: anyio.Event | None = None
        """Set when a message has left a full queue."""
        self._has_told = False
        """Whether it was said that it is full, and it has not been half empty since."""

    async def accept(self, message: InterfaceMessage) -> bool:
        """Put a message on the bus, once there is room; False when it came in before.

        Raises:
            ConfigurationError: The bus keeps JSON, and the message's metadata is none.
            EventBusError: The bus did not take it.
        """
        while self._is_full():
            self._has_capacity = self._has_capacity or anyio.Event()
            await self._has_capacity.wait()
        is_kept = self._bus.durable
        data = {"message": message_to_json(message) if is_kept else message}
        if not await self._publish(data, self._dedupe_key(message)):
            return False
        if is_kept:
            self._is_safe(message)
        return True

    async def _publish(self, data: Mapping[str, Any], dedupe_key: str | None) -> bool:
        if self._granting_bus is None:
            return await self._bus.publish(self.key, data, dedupe_key=dedupe_key)
        self._on_bus += 1  # first, since a worker may have it before this call returns
        accepted = False
        try:
            accepted = await self._bus.publish(self.key, data, dedupe_key=dedupe_key)
        finally:
            if not accepted:
                self._left_bus()
        return accepted

    def _left_bus(self) -> None:
        self._on_bus = max(self._on_bus - 1, 0)  # of what was there at the start nobody knew
        self._free_capacity()

    def _free_capacity(self) -> None:
        if self._has_capacity is not None:
            self._has_capacity.set()
            self._has_capacity = None

    def _is_full(self) -> bool:
        waiting = self.waiting() + self._on_bus
        is_full = waiting >= self._limit
        if is_full and not self._has_told:
            logger.warning(
                "%s: %d messages wait for their answers, and no more are taken meanwhile", self.name, waiting
            )
        self._has_told = is_full or (self._has_told and waiting > self._limit // 2)
        return is_full

    async def take(self, delivery: Delivery) -> None:
        """Take over a delivery that came out of the bus; the workers bring them in order."""
        if self._closed:
            await settle_safely(delivery, delivery.nack(RETURN_DELAY))
        elif self._dispatcher is None:
            self._early.append(delivery)
        else:
            await self._put(self._dispatcher, delivery)
        self._left_bus()
        self._expected = max(self._expected - 1, 0)
        self._grant()

    async def open(self, tasks: TaskGroup) -> None:
        """Have messages answered from now on, in tasks of this group."""
        self._dispatcher = ChatDispatcher(self._handle, self._max_chats, tasks)
        early, self._early = self._early, []
        for delivery in early:
            await self._put(self._dispatcher, delivery)
        self._grant()

    async def close(self) -> None:
        """Give what nobody will answer back to the bus, now and from now on."""
        self._closed = True
        self._grant()
        early, self._early = self._early, []
        for delivery in early:
            await settle_safely(delivery, delivery.nack(RETURN_DELAY))

    def waiting(self) -> int:
        """Messages that nobody has begun to answer."""
        return len(self._early) + (0 if self._dispatcher is None else self._dispatcher.waiting())

    def finalize(self) -> None:
        """Count what nobody began to answer, unless the bus hands it out again when it is opened next."""
        if not self._bus.durable:
            self._tracker.never_started(self.name, self.waiting())

    def begin(self) -> None:
        """The bus is open: say how many messages can be begun."""
        self._grant()

    def _grant(self) -> None:
        """Have the bus keep what cannot be begun soon: taking it would count as an attempt, and keep it from others."""
        if self._granting_bus is None:
            return
        ready = len(self._early) if self._dispatcher is None else self._dispatcher.ready_chats
        wanted = min(READY_PER_PLACE * self._max_chats - ready, self._limit - self.waiting())
        more = (math.inf if self._closed else wanted) - self._expected
        if more > 0:
            self._expected += more
            self._granting_bus.grant_name(self.key, more)

    async def _put(self, dispatcher: ChatDispatcher[Accepted], delivery: Delivery) -> None:
        kept = delivery.data.get("message")
        try:
            message = kept if isinstance(kept, InterfaceMessage) else message_from_json(kept)
        except ValueError as error:
            with self._tracker.work(self.name) as work:
                work.failed = True
                logger.error(
                    "%s: delivery %s cannot be read and is dead: %s", self.name, delivery.id, error_message(error)
                )
                await settle_safely(delivery, delivery.dead(error_message(error)))
        else:
            if isinstance(delivery, Parkable):
                delivery.park()
            dispatcher.put((message.platform, message.platform_chat_id), Accepted(message, delivery))

    async def _handle(self, accepted: Accepted) -> None:
        self._free_capacity()
        self._grant()
        with self._tracker.work(self.name) as work:
            lease = accepted.delivery.lease
            if lease is None:
                await self._answer_and_settle(work, accepted)
                return
            with lease:
                await checkpoint_if_cancelled()  # it may have been lost in line
                await self._answer_and_settle(work, accepted)
            if lease.cancelled_caught:
                work.will_retry = True
                logger.warning("%s: a message was cut off: the lease of %s is lost", self.name, accepted.delivery.id)

    async def _answer_and_settle(self, work: Work, accepted: Accepted) -> None:
        message, delivery = accepted.message, accepted.delivery
        if isinstance(delivery, Parkable):
            delivery.begin()
        ended = await self._answer(message)
        work.failed, work.refused = ended is MessageEnd.FAILED, ended is MessageEnd.REFUSED
        end = delivery.dead("it was not answered; the log says why") if work.failed else delivery.ack()
        if await settle_safely(delivery, end) and not self._bus.durable:
            self._is_safe(message)

    def _dedupe_key(self, message: InterfaceMessage) -> str | None:
        number = message.platform_message_id
        return "\n".join((self.key, message.platform, message.platform_chat_id, number)) if number else None
