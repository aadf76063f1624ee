"""From the event bus to dispatch: a fixed number of workers, limits per trigger, retries, dead letters."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any, Protocol

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from definable.agent.bus.base import ClaimsByName, Delivery, EventBus, Parkable, SharesLimits
from definable.agent.bus.emitter import LATER_KEY, Emitter
from definable.agent.trigger.base import BaseTrigger, TriggerEvent
from definable.agent.trigger.cron import TimeTrigger
from definable.agent.trigger.request import Headers
from definable.agent.trigger.webhook import Webhook
from definable.agent.work import Work, WorkTracker
from definable.concurrency.byte_limit import ByteLimit
from definable.concurrency.call import contained
from definable.concurrency.clock import current_clock
from definable.concurrency.isolation import error_message, error_text
from definable.concurrency.logs import logger_named
from definable.errors import RunCancelled

from .concurrency_limit import Admission, ConcurrencyLimit
from .dispatch import RETRY_BACKOFF, Dispatcher, Outcome, is_success, log_failure, may_retry, own_body
from .ingress import accepted_request, auth_from_json, handling_size
from .runs import RunRegistry
from .settings import DEFAULT_MAX_MEMORY

logger: logging.Logger = logger_named(__name__)


class Consumer(Protocol):
    """Handles the deliveries of one name by itself, in its own order and number."""

    @property
    def key(self) -> str:
        """The name."""
        ...

    @property
    def name(self) -> str:
        """The source in the tracker."""
        ...

    def begin(self) -> None:
        """The bus is open, and hands out from now on."""
        ...

    async def take(self, delivery: Delivery) -> None:
        """Take a delivery over, without waiting for its end."""
        ...


class Workers:
    """Handle deliveries, so many at once.

    Args:
        bus: Where deliveries come from.
        triggers: By what a delivery may be named; several names may be one trigger's.
        dispatcher: Handles the event.
        registry: Knows the runs that were promised.
        tracker: Counts what was begun.
        emitter: Knows which workers wait for room.
        count: How many deliveries are handled at once.
        max_active_bytes: What the bodies of webhooks and runs that are handled may hold; others wait.
        max_queued: How many deliveries may wait behind one trigger's own limit; beyond it a worker waits with the next,
            so that the bus fills up and says so.
        consumers: Who handles what is no trigger's.
    """

    def __init__(
        self,
        bus: EventBus,
        triggers: Mapping[str, BaseTrigger],
        dispatcher: Dispatcher,
        registry: RunRegistry,
        tracker: WorkTracker,
        emitter: Emitter,
        *,
        count: int,
        max_active_bytes: int = DEFAULT_MAX_MEMORY,
        max_queued: int,
        consumers: Sequence[Consumer] = (),
    ) -> None:
        self._bus = bus
        self._claims = bus if isinstance(bus, ClaimsByName) and bus.durable else None
        """Where what cannot be begun stays in the bus, rather than in a lane."""
        self._dispatcher = dispatcher
        self._registry = registry
        self._tracker = tracker
        self._emitter = emitter
        self._count = count
        self._memory = ByteLimit(max_active_bytes, one_may_exceed=True)
        self._by_trigger = {trigger: ConcurrencyLimit.of(trigger, max_queued) for trigger in triggers.values()}
        self._limits = {key: self._by_trigger[trigger] for key, trigger in triggers.items()}
        self._consumers = {consumer.key: consumer for consumer in consumers}
        self._sources = {key: source_kind(trigger) for key, trigger in triggers.items()}
        self._sources |= {consumer.key: consumer.name for consumer in consumers}
        self.skipped: int = 0
        """Cron firings that were not handled since the last one still was (`overlap="skip"`)."""
        self.lost: int = 0
        """Deliveries that were cut off since another process has them by now."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Work until cancelled."""
        self._claim_what_can_be_begun()
        async with self._bus.consume() as deliveries, anyio.create_task_group() as workers:
            for consumer in self._consumers.values():
                consumer.begin()
            for _ in range(self._count):
                workers.start_soon(self._work, deliveries)
            task_status.started()

    def _claim_what_can_be_begun(self) -> None:
        if self._claims is None:
            return
        self._claims.only_names([*self._limits, *self._consumers])
        for key, limit in self._limits.items():
            if limit.max_active is None:
                continue
            if isinstance(self._bus, SharesLimits):
                self._bus.limit_name(key, limit.max_active, skip=limit.skip_when_busy)
            if not limit.skip_when_busy:
                self._claims.grant_name(key, limit.max_active)

    @property
    def queued(self) -> Sequence[Delivery]:
        """What was taken from the bus and waits behind a trigger's limit; the first of each trigger first."""
        queues = [limit.queue for limit in self._by_trigger.values() if limit.queue]
        return [*(queue[0] for queue in queues), *(each for queue in queues for each in islice(queue, 1, None))]

    def finalize(self) -> None:
        """Count what is queued behind a limit, after the workers have ended."""
        for delivery in (delivery for limit in self._by_trigger.values() for delivery in limit.queue):
            self._count_unbegun(delivery)

    def count_undone(self, delivery: Delivery) -> None:
        """Count an accepted delivery that will not be finished."""
        source = self._sources.get(delivery.name, "event")
        count: Callable[[str], None] = self._tracker.never_started if delivery.attempt == 1 else self._tracker.cancelled
        count(source)

    def _count_unbegun(self, delivery: Delivery) -> None:
        """Count what was taken from the bus and not begun, unless the bus hands it out again when it is opened next."""
        if not self._bus.durable:
            self.count_undone(delivery)

    async def _work(self, deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            limit, consumer = self._limits.get(delivery.name), self._consumers.get(delivery.name)
            if consumer is not None:
                await consumer.take(delivery)
            elif limit is None:
                await self._dead_letter_unknown(delivery)
            elif await self._admitted(limit, delivery):
                await self._handle_in_turn(limit, delivery)

    async def _dead_letter_unknown(self, delivery: Delivery) -> None:
        with self._tracker.work("event") as work:
            work.failed = True
            logger.error("no handler is registered for %r: delivery %s is a dead letter", delivery.name, delivery.id)
            await settle_safely(delivery, delivery.dead(f"no handler is registered for {delivery.name!r}"))

    async def _admitted(self, limit: ConcurrencyLimit, delivery: Delivery) -> bool:
        """Whether the delivery is to be handled now."""
        if getattr(delivery, "is_surplus", False):  # of `Limited`: to ask for the protocol costs as much as the rest
            await self._skip(limit, delivery)
            return False
        admission = limit.admit(delivery)
        while admission is Admission.FULL:
            with self._emitter.blocked_worker() as last:
                if not last:
                    await self._wait_for_capacity(limit, delivery)
            admission = limit.admit(delivery, over_limit=last)
        if admission is Admission.SKIPPED:
            await self._skip(limit, delivery)
        elif admission is not Admission.ADMITTED and isinstance(delivery, Parkable):
            delivery.park()
        return admission is Admission.ADMITTED

    async def _skip(self, limit: ConcurrencyLimit, delivery: Delivery) -> None:
        with self._tracker.work(source_kind(limit.trigger)) as work:
            work.skipped = True
            self.skipped += 1
            logger.warning("%s skipped: the last one still runs", limit.trigger.source)
            await settle_safely(delivery, delivery.ack())

    async def _wait_for_capacity(self, limit: ConcurrencyLimit, delivery: Delivery) -> None:
        try:
            await limit.capacity()
        except BaseException:  # the stop cut the wait off, and nobody else holds the delivery
            self._count_unbegun(delivery)
            raise

    async def _handle_in_turn(self, limit: ConcurrencyLimit, delivery: Delivery) -> None:
        """Handle the delivery, then those that were queued behind it."""
        following: Delivery | None = delivery
        while following is not None:
            await self._handle(limit.trigger, following)
            if self._claims is not None and limit.max_active is not None and not limit.skip_when_busy:
                self._claims.grant_name(delivery.name, 1)
            following = limit.release()
            if following is not None and isinstance(following, Parkable):
                following.begin()

    async def _handle(self, trigger: BaseTrigger, delivery: Delivery) -> None:
        with self._tracker.work(source_kind(trigger), occupies_worker=True) as work:
            if delivery.lease is None:
                await self._attempt(work, trigger, delivery)
                return
            with delivery.lease as lease:
                await checkpoint_if_cancelled()  # it may have been lost in line
                await self._attempt(work, trigger, delivery)
            if lease.cancelled_caught:
                self._let_go(work, trigger, delivery)

    def _let_go(self, work: Work, trigger: BaseTrigger, delivery: Delivery) -> None:
        """Somebody else has it by now, and counts it."""
        work.will_retry = True
        self.lost += 1
        if (run_id := delivery.data.get("run_id")) is not None:
            self._registry.lose(run_id)
        logger.warning("%s was cut off: the lease of delivery %s is lost", trigger.source, delivery.id)

    async def _attempt(self, work: Work, trigger: BaseTrigger, delivery: Delivery) -> None:
        try:
            outcome = await self._handled_within_memory(trigger, delivery)
        except RunCancelled as cancelled:  # somebody asked for it by the run's id
            work.withdrawn = True
            logger.info("%s: %s", trigger.source, error_message(cancelled))
            await settle_safely(delivery, delivery.ack())
        except Exception as error:
            if may_retry(trigger, delivery.attempt, error):
                await self._retry(work, trigger, delivery, error)
            else:
                await self._give_up(work, trigger, delivery, error)
        else:
            self._end_promise(delivery)
            if not is_success(outcome):
                await self._release_key(delivery)
            work.will_retry = delivery.name == LATER_KEY  # the event that has come due is counted, under its triggers
            await settle_safely(delivery, delivery.ack())

    async def _handled_within_memory(self, trigger: BaseTrigger, delivery: Delivery) -> Outcome:
        data = delivery.data
        size = handling_size(data) if "request" in data or "body_text" in data else 0
        if not size:
            return await contained(trigger.source, self._dispatch, trigger, delivery)
        async with AsyncExitStack() as memory:
            with self._emitter.blocked_worker() as last:
                if not last:  # else all others wait, and what they wait for may be this one
                    await memory.enter_async_context(self._memory.acquired(size))
            return await contained(trigger.source, self._dispatch, trigger, delivery)

    async def _dispatch(self, trigger: BaseTrigger, delivery: Delivery) -> Outcome:
        return await self._dispatcher.dispatch(
            trigger,
            event_of(trigger, delivery),
            user_id=delivery.data.get("user_id"),
            run_id=delivery.data.get("run_id"),
            auth=None if (auth := delivery.data.get("auth")) is None else auth_from_json(auth),
            wait_for_place=True,
        )

    async def _retry(self, work: Work, trigger: BaseTrigger, delivery: Delivery, error: Exception) -> None:
        delay, attempt = RETRY_BACKOFF.delay(delivery.attempt), delivery.attempt
        what = "%s failed, attempt %d; again in %.1f s"
        log_failure(logger, logging.WARNING, error, what, trigger.source, attempt, delay)
        work.failed = True
        work.will_retry = await settle_safely(delivery, delivery.nack(delay))

    async def _give_up(self, work: Work, trigger: BaseTrigger, delivery: Delivery, error: Exception) -> None:
        what = "%s failed (id %s, attempt %d)"
        log_failure(logger, logging.ERROR, error, what, trigger.source, delivery.id, delivery.attempt)
        work.failed = True
        self._end_promise(delivery, error)
        await self._release_key(delivery)
        await settle_safely(delivery, delivery.dead(error_text(error)))

    async def _release_key(self, delivery: Delivery) -> None:
        """What has failed may be delivered again."""
        dedupe_key = delivery.data.get("dedupe_key")
        if dedupe_key is not None:
            await settle_safely(delivery, self._bus.release(dedupe_key))

    def _end_promise(self, delivery: Delivery, failure: Exception | None = None) -> None:
        """Somebody was told a run's id: say that it has ended, also when the handler asked for no run."""
        run_id = delivery.data.get("run_id")
        if run_id is not None:
            self._registry.end_queued(run_id, failure)


async def settle_safely(delivery: Delivery, settling: Awaitable[None]) -> bool:
    """Whether the bus took the word; a broker that is away must not take the worker along."""
    try:
        await settling
    except Exception:
        logger.exception("delivery %s could not be settled: the bus may hand it out again", delivery.id)
        return False
    return True


def source_kind(trigger: BaseTrigger) -> str:
    """The source in the tracker for what comes from the bus."""
    return "cron" if isinstance(trigger, TimeTrigger) else "event"


def event_of(trigger: BaseTrigger, delivery: Delivery) -> TriggerEvent:
    """The event that a delivery carries."""
    data: Mapping[str, Any] = delivery.data
    timestamp, headers, raw = data.get("timestamp"), None, None
    if "request" in data:
        body, raw = accepted_request(data)
        headers = raw.headers
        if isinstance(trigger, Webhook):
            body = trigger.checked_body(body)
    elif "body_text" in data:
        body = json.loads(data["body_text"])
    else:  # a copy: other triggers and later attempts get the same data
        body = own_body(data.get("body"))
    if headers is None and "headers" in data:
        headers = Headers(data["headers"])
    return TriggerEvent(
        body=body,
        headers=headers,
        source=data.get("source") or trigger.source,
        timestamp=current_clock().now() if timestamp is None else timestamp,
        raw=raw,
        id=delivery.id,
        attempt=delivery.attempt,
    )
