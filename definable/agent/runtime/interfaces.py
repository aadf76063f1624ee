"""The interfaces that a runtime serves: each under a supervisor, each answered by its agent."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence

from definable.agent.agent import DEFAULT_NAME, Agent
from definable.agent.arguments import check_interface
from definable.agent.auth.base import RefusalLog
from definable.agent.bus.base import EventBus
from definable.agent.interface.base import BaseInterface
from definable.agent.interface.pipeline import AgentHandle
from definable.agent.run.output import Listener, RunOutput
from definable.agent.run.runner import RunRequest
from definable.agent.trigger.registry import TriggerRegistry

from .runs import RunRegistry
from .shutdown import WorkTracker
from .supervisor import Supervisor

OTHER_CHILDREN = frozenset({"http", "event", "events", "cron"})
"""What else is in reports and in `/health`."""


def all_interfaces(agent: Agent, others: Sequence[BaseInterface]) -> tuple[BaseInterface, ...]:
    """The agent's own interfaces and those that it is served with, each once.

    Raises:
        ConfigurationError: One of the others is no interface.
    """
    for other in others:
        check_interface(other)
    return tuple({id(interface): interface for interface in (*agent.interfaces, *others)}.values())


def supervised(
    interfaces: Sequence[BaseInterface],
    agent: Agent,
    registry: RunRegistry,
    bus: EventBus,
    tracker: WorkTracker,
    max_waiting: int,
    refusals: RefusalLog | None = None,
) -> list[Supervisor]:
    """A supervisor for each interface; those that have one name are numbered in their order.

    Args:
        interfaces: What is served.
        agent: Answers where an interface has no agent of its own.
        registry: Makes the runs.
        bus: Where accepted messages wait.
        tracker: Counts the messages.
        max_waiting: How many messages of one interface may wait.
        refusals: Where it is noted who is not let in.
    """
    supervisors: dict[str, Supervisor] = {}
    for interface in interfaces:
        name = unused(interface.name, {*OTHER_CHILDREN, *supervisors})
        handle = handle_for(interface, agent, registry, None if name == interface.name else name, refusals)
        supervisors[name] = Supervisor(interface, handle, bus, tracker, name=name, max_waiting=max_waiting)
    return list(supervisors.values())


def unused(name: str, taken: Container[str]) -> str:
    """The name, with a number when it is taken: two bots of one platform are two children."""
    candidates = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


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


def handle_for(
    interface: BaseInterface,
    agent: Agent,
    registry: RunRegistry,
    name: str | None = None,
    refusals: RefusalLog | None = None,
) -> AgentHandle:
    """The agent that answers an interface: its own, or the one that is served."""
    answering = interface.agent or agent
    runner = answering.runner

    async def run(request: RunRequest, listener: Listener | None = None) -> RunOutput:
        # A chat waits for a place; a message that holds its session's turn holds one already.
        has_place = request.turn is not None
        return await registry.run(request, interface.name, listener, runner=runner, wait=True, has_place=has_place)

    return AgentHandle(
        run,
        can_stream=runner.output_type is None,
        sessions=runner.sessions,
        place=registry.place,
        auth=lambda: answering.auth,
        refusals=RefusalLog() if refusals is None else refusals,
        name=name if answering.name == DEFAULT_NAME else f"{answering.name}/{name or ''}",
    )
