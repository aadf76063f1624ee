"""Where work comes in over HTTP: done while its sender waits, or accepted for later through the event bus; once each.

The run and webhook endpoints call it. What is accepted for later comes back out of the bus to the workers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from definable.agent.bus.base import EventBus
from definable.agent.bus.dedupe import digest
from definable.agent.calling import call_user
from definable.agent.runner import RunRequest
from definable.agent.telemetry import trace_headers
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.webhook import Webhook
from definable.errors import EventBufferFull, EventBusError, StorageError

from .accepted_request import auth_to_json, data_size, request_data, run_data
from .clock import current_clock
from .dispatch import Dispatcher, Outcome, is_success, namespace_of
from .run_registry import RunRecord, RunRegistry
from .triggers import RUNS_KEY, TriggerTable

logger: logging.Logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

DEDUPE_TTL = 24 * 3600.0
"""Seconds for which a delivery's name is remembered: senders give up retrying sooner."""

RELEASE_TIMEOUT = 5.0
"""Seconds that the bus may take to forget the name of a delivery that failed."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The delivery was accepted before; it is not handled again."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """The delivery is being handled already; whether that ends well is not known yet."""


class Intake:
    """Takes in runs and webhooks.

    Args:
        bus: Carries what is accepted for later, and knows which deliveries were seen.
        triggers: The agent's triggers with their keys.
        registry: Knows the runs that were promised.
        dispatcher: Handles what a sender waits for.
    """

    def __init__(self, bus: EventBus, triggers: TriggerTable, registry: RunRegistry, dispatcher: Dispatcher) -> None:
        self._bus = bus
        self._triggers = triggers
        self._registry = registry
        self._dispatcher = dispatcher

    async def accept_run(self, run: RunRequest, source: str) -> RunRecord:
        """Accept a run for later.

        Raises:
            EventBufferFull: There is no room; nothing was accepted.
        """
        asked, size = run_data(run)
        data = self._data(source, run.run_id, run.user_id) | asked | {"auth": auth_to_json(run.auth)}
        if trace := trace_headers(run.headers):
            data["headers"] = trace
        self._check_room()
        record = self._registry.queue(run, source, size)
        try:
            await self._bus.publish(RUNS_KEY, data)
        except BaseException:
            self._registry.forget(record)
            raise
        if self._bus.durable:
            self._registry.release_memory(record)
        return record

    async def accept(self, webhook: Webhook, event: TriggerEvent, user_id: str | None) -> str | Duplicate:
        """Accept a webhook's delivery for later.

        Returns:
            The id that a run which comes of it will have.

        Raises:
            EventBufferFull: There is no room; nothing was accepted.
        """
        run = RunRequest("", user_id=user_id, namespace=namespace_of(event))
        key = await self._dedupe_key(webhook, event, user_id)
        data = self._data(event.source, run.run_id, user_id) | request_data(event) | {"dedupe_key": key}
        self._check_room()
        record = self._registry.queue(run, event.source, data_size(data))
        accepted = False
        try:
            accepted = await self._bus.publish(
                self._triggers.key_of(webhook), data, dedupe_key=key, dedupe_ttl=DEDUPE_TTL
            )
        finally:
            if not accepted:
                self._registry.forget(record)
            elif self._bus.durable:
                self._registry.release_memory(record)
        return run.run_id if accepted else Duplicate()

    def handle(self, webhook: Webhook, event: TriggerEvent, user_id: str | None) -> Awaitable[Outcome]:
        """Handle a webhook's delivery now, while its sender waits."""
        return self._dispatcher.dispatch_with_retries(webhook, event, user_id=user_id)

    async def handle_once(
        self,
        webhook: Webhook,
        event: TriggerEvent,
        user_id: str | None,
        answer_of: Callable[[Outcome | Duplicate | InFlight], Answer],
    ) -> Answer:
        """Handle a delivery that may be a repeat, and make the answer of what came of it.

        One that is not answered 2xx may come again, also one that failed in its answer: its sender hears of no success.
        """
        key = await self._dedupe_key(webhook, event, user_id)
        if key is None:
            return answer_of(await self.handle(webhook, event, user_id))
        handling = f"{key}:in flight"
        if not await self._bus.claim(handling, DEDUPE_TTL):
            return answer_of(InFlight())
        taken = [handling]
        try:
            if not await self._bus.claim(key, DEDUPE_TTL):
                return answer_of(Duplicate())
            taken.insert(0, key)  # released first: in between, a repeat must not be taken for one of what is done
            outcome = await self.handle(webhook, event, user_id)
            answer = answer_of(outcome)
            if is_success(outcome):
                taken.remove(key)
            return answer
        finally:
            await self._release(taken, webhook)

    async def _release(self, keys: Sequence[str], webhook: Webhook) -> None:
        """Forget keys. A bus that fails must not change the answer: what was done is done."""
        try:
            # Shielded: also a delivery that a stop cut off may come again. Bounded, for a broker that is away.
            with anyio.move_on_after(RELEASE_TIMEOUT, shield=True):
                for key in keys:
                    await self._bus.release(key)
        except (StorageError, EventBusError):
            logger.warning("%s: the event bus failed to release a delivery; a repeat may get 409", webhook.source)

    async def _dedupe_key(self, webhook: Webhook, event: TriggerEvent, user_id: str | None) -> str | None:
        dedupe = webhook.dedupe
        if dedupe is None:
            return None
        if isinstance(dedupe, str):
            name = None if event.headers is None else event.headers.get(dedupe)
        else:
            name = await call_user(dedupe, event)
        if name is None or name == "":
            return None
        # One caller's names are not another's. Of any length: what the bus carries must not be.
        return digest(f"{self._triggers.key_of(webhook)}:{user_id!r}:{name}")

    def _check_room(self) -> None:
        if self._bus.room < 1:
            raise EventBufferFull("the event buffer is full: nothing was accepted")

    def _data(self, source: str, run_id: str, user_id: str | None) -> dict[str, Any]:
        return {"source": source, "timestamp": current_clock().now(), "run_id": run_id, "user_id": user_id}
