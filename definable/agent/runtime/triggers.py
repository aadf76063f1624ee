"""The triggers and interfaces of a served agent, by what the runtime asks of them: pure."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from definable.agent.agent import Agent
from definable.agent.arguments import check_interface
from definable.agent.bus.base import Submission
from definable.agent.bus.emitter import LATER_KEY, Publication
from definable.agent.interface.base import BaseInterface
from definable.agent.trigger.base import BaseTrigger, Handler, TriggerEvent
from definable.agent.trigger.cron import TimeTrigger
from definable.agent.trigger.event import EventIndex, EventTrigger
from definable.agent.trigger.identity import keys_of
from definable.agent.trigger.registry import TriggerRegistry
from definable.agent.trigger.webhook import Webhook
from definable.concurrency.clock import current_clock
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError

logger: logging.Logger = logger_named(__name__)

Kind = TypeVar("Kind", bound=BaseTrigger)


RUNS_KEY = "POST /run"

LATER_RETRIES = 8
"""Of an event that waited for its time, when the bus does not take it then."""


class AcceptedRuns(BaseTrigger):
    """The built-in trigger of runs that were asked for over HTTP and accepted for later."""

    def __init__(self) -> None:
        super().__init__()
        self.handler: Handler | None = run_as_asked

    @property
    def source(self) -> str:
        return RUNS_KEY


async def run_as_asked(event: TriggerEvent) -> dict[str, Any]:
    """The arguments of the run, as its caller gave them."""
    return event.body


class LaterEvents(BaseTrigger):
    """The built-in trigger of events that waited for their time: emits them again, to whatever matches then.

    Args:
        emit: Emits an event under an id, as `Emitter.aemit_once`.
    """

    def __init__(self, emit: Callable[[str, Any, str], Awaitable[None]]) -> None:
        super().__init__(retries=LATER_RETRIES)
        self._emit = emit
        self.handler: Handler | None = self._emit_now

    @property
    def source(self) -> str:
        return LATER_KEY

    async def _emit_now(self, event: TriggerEvent) -> None:
        await self._emit(event.body["event"], event.body["data"], event.id)


class TriggerTable:
    """Triggers by key and by kind.

    Args:
        registry: The agent's triggers.
        emit: Emits events that waited for their time; None where nothing is served.
    """

    def __init__(
        self, registry: TriggerRegistry, emit: Callable[[str, Any, str], Awaitable[None]] | None = None
    ) -> None:
        built_in: dict[str, BaseTrigger] = {RUNS_KEY: AcceptedRuns()}
        if emit is not None:
            built_in[LATER_KEY] = LaterEvents(emit)
        keys = keys_of([*registry])
        self.by_key: Mapping[str, BaseTrigger] = built_in | dict(keys.by_key)
        self.by_any_key: Mapping[str, BaseTrigger] = {**keys.former, **self.by_key}
        """Also by what a delivery may be named that an earlier version of the service published."""
        self.alike: Sequence[Sequence[BaseTrigger]] = keys.alike
        """Triggers that nothing tells apart but the order of their registration."""
        self._keys = {id(trigger): key for key, trigger in self.by_key.items()}
        self.webhooks: Sequence[Webhook] = self._of(Webhook)
        self.crons: Sequence[TimeTrigger] = self._of(TimeTrigger)
        self.events: Sequence[EventTrigger] = self._of(EventTrigger)
        self._index = EventIndex(self.events)

    @property
    def promising(self) -> Sequence[str]:
        """The keys of triggers whose callers are promised a run by its id: accepted runs and webhooks."""
        return (RUNS_KEY, *[self.key_of(webhook) for webhook in self.webhooks if webhook.respond == "accept"])

    def key_of(self, trigger: BaseTrigger) -> str:
        """The key of a trigger.

        Raises:
            ConfigurationError: It is not one of this agent's, or was registered after serving began.
        """
        key = self._keys.get(id(trigger))
        if key is None:
            raise ConfigurationError(f"{trigger!r} is not one of the triggers that this agent serves")
        return key

    def route(self, name: str, body: Any) -> Sequence[Publication]:
        """What is published for an emitted event: one delivery for every trigger that matches.

        Raises:
            ConfigurationError: The event's key cannot be told.
        """
        triggers = self._index.matching(name)
        if not triggers:
            logger.debug("the event %r matches no trigger", name)
            return ()
        data = {"body": body, "source": f"event({name})", "timestamp": current_clock().now()}
        return [self._publication(trigger, data) for trigger in triggers]

    def _publication(self, trigger: EventTrigger, data: Mapping[str, Any]) -> Publication:
        name = self._keys[id(trigger)]
        if trigger.event_key is None:
            return name, data
        group = trigger.key_of(TriggerEvent(data["body"], source=data["source"], timestamp=data["timestamp"]))
        return (name, data) if group is None else Submission(name, data, group=group)

    def _of(self, kind: type[Kind]) -> Sequence[Kind]:
        return tuple(trigger for trigger in self.by_key.values() if isinstance(trigger, kind))


def all_interfaces(agent: Agent, others: Sequence[BaseInterface]) -> tuple[BaseInterface, ...]:
    """The agent's own interfaces and those that it is served with, each once.

    Raises:
        ConfigurationError: One of the others is no interface.
    """
    for other in others:
        check_interface(other)
    return tuple({id(interface): interface for interface in (*agent.interfaces, *others)}.values())


def with_webhooks(triggers: TriggerRegistry, interfaces: Sequence[BaseInterface]) -> TriggerRegistry:
    """The agent's triggers and the interfaces' webhooks: a copy, since the webhooks are this serving's alone.

    Raises:
        RouteConflict: A webhook of an interface has the path of another endpoint.
    """
    registry = TriggerRegistry(triggers)
    for interface in interfaces:
        for webhook, handler in interface.webhooks():
            registry.add(webhook, handler)
    return registry
