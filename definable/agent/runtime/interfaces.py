"""The interfaces that a runtime serves: each under a supervisor, each answered by its agent."""

from __future__ import annotations

from collections.abc import Sequence

from definable.agent.agent import Agent
from definable.agent.interface.base import BaseInterface
from definable.agent.interface.host import InterfaceHost, StartRun
from definable.agent.run_output import RunOutput
from definable.agent.runner import RunRequest
from definable.agent.trigger.registry import TriggerRegistry

from .ledger import WorkLedger
from .run_registry import RunRegistry
from .supervisor import Supervisor


def supervised(
    interfaces: Sequence[BaseInterface], agent: Agent, registry: RunRegistry, ledger: WorkLedger
) -> list[Supervisor]:
    """A supervisor for each interface.

    Args:
        interfaces: What is served.
        agent: Answers where an interface has no agent of its own.
        registry: Makes the runs.
        ledger: Counts the messages.
    """
    return [Supervisor(interface, host_of(interface, agent, registry), ledger) for interface in interfaces]


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


def host_of(interface: BaseInterface, agent: Agent, registry: RunRegistry) -> InterfaceHost:
    """What an interface is handed: its own agent, or the one that is served."""
    answering = interface.agent or agent
    return InterfaceHost(starter(interface, agent, registry), sessions=answering.sessions, auth=lambda: answering.auth)


def starter(interface: BaseInterface, agent: Agent, registry: RunRegistry) -> StartRun:
    """What makes the runs that an interface asks for; they wait for a place, since nobody hangs up on a chat."""
    runner = (interface.agent or agent).runner

    async def start_run(request: RunRequest) -> RunOutput:
        return await registry.run(request, interface.name, runner=runner, wait=True)

    return start_run
