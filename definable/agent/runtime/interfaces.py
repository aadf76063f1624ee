"""The interfaces that a runtime serves: each under a supervisor, each answered by its agent."""

from __future__ import annotations

from collections.abc import Sequence

from definable.agent.agent import Agent
from definable.agent.interface.base import BaseInterface, StartRun
from definable.agent.run_output import RunOutput
from definable.agent.runner import RunRequest

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
    return [Supervisor(interface, starter(interface, agent, registry), ledger) for interface in interfaces]


def starter(interface: BaseInterface, agent: Agent, registry: RunRegistry) -> StartRun:
    """What makes the runs that an interface asks for; they wait for a place, since nobody hangs up on a chat."""
    runner = (interface.agent or agent).runner

    async def start_run(request: RunRequest) -> RunOutput:
        return await registry.run(request, interface.name, runner=runner, wait=True)

    return start_run
