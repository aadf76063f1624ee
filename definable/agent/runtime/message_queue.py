"""One interface's messages on the event bus: accepted into it, handed out to be answered, settled at their end.

Messages of one chat are answered in order, those of different chats side by side (`ChatDispatcher`).
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from definable.agent.bus.base import DEDUPE_TTL, ClaimsByName, Delivery, EventBus, Parkable
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.message import InterfaceMessage, MessageEnd
from definable.agent.interface.message_json import message_from_json, message_to_json
from definable.agent.work import Work, WorkTracker
from definable.concurrency.clock import current_clock
from definable.concurrency.isolation import error_message, error_text
from definable.concurrency.logs import logger_named
from definable.errors import EventBusError, StorageError

from .chat_dispatcher import Accepted, ChatDispatcher, ChatKey, PendingAnswer, Stopped, chat_of
from .workers import settle_safely

logger: logging.Logger = logger_named(__name__)

RETURN_DELAY = 5.0
"""Seconds after which a bus hands out again what came for an interface that is closed."""

READY_PER_PLACE = 2
"""Chats whose next message is taken out of the bus ahead, for each that is answered at once."""

CLAIM_TIMEOUT = 0.5
"""Seconds in which the bus says whether a command came in before; then it is carried out all the same."""

MAX_STOPS = 10_000
"""Chats of which it is remembered when they were stopped last."""


class MessageQueue:
    """Where the messages of one interface wait.

    Args:
        name: The interface's, among those of its agent; it must be the same after a restart.
        bus: Keeps what was accepted.
        tracker: Counts the messages, under the interface's name.
        answer: Answers one message, and says how it ended. Must not raise.
        is_safe: Told of a message that this process need not finish any more: it has come to its end, or the bus keeps
            it over the end of the process.
        has_ended: Told of a message for which nothing more is done in this process.
        limit: How many messages may wait; beyond it `accept` waits for room.
        config: How many chats are answered at once, and what becomes of messages that follow one another.
    """

    def __init__(
        self,
        name: str,
        bus: EventBus,
        tracker: WorkTracker,
        *,
        answer: Callable[[InterfaceMessage], Awaitable[MessageEnd]],
        is_safe: Callable[[InterfaceMessage], None],
        has_ended: Callable[[InterfaceMessage], None],
        limit: int,
        config: InterfaceConfig,
    ) -> None:
        self.name = name
        self.key: str = f"interface {name}"
        """Names the interface's deliveries."""
        self._bus = bus
        self._tracker = tracker
        self._answer = answer
        self._is_safe = is_safe
        self._has_ended = has_ended
        self._limit = limit
        self._config = config
        self._max_chats = config.max_concurrent_requests
        self._granting_bus = bus if isinstance(bus, ClaimsByName) and bus.durable else None
        self._expected = 0.0
        """How many the bus may hand out that have not come."""
        self._on_bus = 0
        """What was accepted here and has not come out of a bus that may keep it."""
        self._dispatcher: ChatDispatcher | None = None
        self._stops: OrderedDict[ChatKey, tuple[float, str | None]] = OrderedDict()
        """When chats were stopped last, in Unix seconds, and whose messages: those on the bus are not answered."""
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
        data = {"message": message_to_json(message) if is_kept else message, "accepted_at": current_clock().now()}
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
        config = self._config
        self._dispatcher = ChatDispatcher(
            self._handle,
            self._max_chats,
            tasks,
            withdrawn=self._withdraw,
            collect=config.collect,
            busy=config.busy,
            full_length=type(config).max_message_length,
        )
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

    async def _put(self, dispatcher: ChatDispatcher, delivery: Delivery) -> None:
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
            accepted = Accepted(message, delivery, delivery.data.get("accepted_at") or current_clock().now())
            if self._is_stopped(accepted):
                now = anyio.current_time()
                await self._withdraw(PendingAnswer([accepted], now, now, message))
                return
            if isinstance(delivery, Parkable):
                delivery.park()
            dispatcher.put(accepted)

    # --- commands

    async def is_new(self, message: InterfaceMessage) -> bool:
        """Whether a message that is not put on the bus did not come in before."""
        key = self._dedupe_key(message)
        if key is not None:
            try:
                with anyio.move_on_after(CLAIM_TIMEOUT):
                    return await self._bus.claim(key, DEDUPE_TTL)
            except (EventBusError, StorageError) as error:
                logger.warning("%s: nobody knows whether a command came in before: %s", self.name, error_text(error))
        return True

    def stop(self, chat: ChatKey, user: str | None = None) -> Stopped:
        """End what a chat has, of one user or of all: what is being answered, and what waits here or on the bus."""
        self._stops[chat] = current_clock().now(), user
        self._stops.move_to_end(chat)
        if len(self._stops) > MAX_STOPS:
            self._stops.popitem(last=False)
        return Stopped() if self._dispatcher is None else self._dispatcher.stop(chat, user)

    def _is_stopped(self, accepted: Accepted) -> bool:
        at, user = self._stops.get(chat_of(accepted.message), (0.0, None))
        return accepted.at < at and user in (None, accepted.message.platform_user_id)

    def flush(self) -> None:
        """A stop of the service begins: wait for nothing more that could be collected."""
        if self._dispatcher is not None:
            self._dispatcher.flush()

    def stuck_chats(self, seconds: float) -> int:
        """Chats whose answer has been under way for longer than that."""
        return 0 if self._dispatcher is None else self._dispatcher.stuck(seconds)

    # --- the end of a turn

    async def _handle(self, turn: PendingAnswer) -> None:
        self._free_capacity()
        self._grant()
        with ExitStack() as stack:
            works = [stack.enter_context(self._tracker.work(self.name)) for _ in turn.parts]
            leases = [part.delivery.lease for part in turn.parts]
            with ExitStack() as held:
                for lease in leases:
                    if lease is not None:
                        held.enter_context(lease)
                if any(lease is not None for lease in leases):
                    await checkpoint_if_cancelled()  # it may have been lost while it waited
                await self._answer_and_settle(turn, works)
                return
            lost = [lease is not None and lease.cancelled_caught for lease in leases]
            for part, work, is_lost in zip(turn.parts, works, lost, strict=True):
                work.will_retry = True
                if is_lost:
                    logger.warning("%s: a message was cut off: the lease of %s is lost", self.name, part.delivery.id)
                else:
                    await settle_safely(part.delivery, part.delivery.nack())

    async def _answer_and_settle(self, turn: PendingAnswer, works: Sequence[Work]) -> None:
        for part in turn.parts:
            if isinstance(part.delivery, Parkable):
                part.delivery.begin()
        ended = MessageEnd.WITHDRAWN
        try:
            with turn.scope:
                ended = await self._answer(turn.message)
        finally:
            for part in turn.parts:
                self._has_ended(part.message)
        if turn.is_withdrawn:
            ended = MessageEnd.WITHDRAWN
        for part, work in zip(turn.parts, works, strict=True):
            await self._settle(part, work, ended)

    async def _withdraw(self, turn: PendingAnswer) -> None:
        for part in turn.parts:
            with self._tracker.work(self.name) as work:
                self._has_ended(part.message)
                await self._settle(part, work, MessageEnd.WITHDRAWN)

    async def _settle(self, part: Accepted, work: Work, ended: MessageEnd) -> None:
        delivery = part.delivery
        work.failed, work.refused = ended is MessageEnd.FAILED, ended is MessageEnd.REFUSED
        work.withdrawn = ended is MessageEnd.WITHDRAWN
        end = delivery.dead("it was not answered; the log says why") if work.failed else delivery.ack()
        if await settle_safely(delivery, end) and not self._bus.durable:
            self._is_safe(part.message)

    def _dedupe_key(self, message: InterfaceMessage) -> str | None:
        number = message.platform_message_id
        if not number:
            return None
        named = [self.key, message.platform, message.platform_chat_id, number]
        if message.thread_id is not None:
            named.insert(3, message.thread_id)
        if message.is_edit:
            named.append(f"edit {message.metadata.get('edit')}")
        if message.button is not None:
            named.append(f"button {message.metadata.get('press')} {message.button}")
        return "\n".join(named)
