"""`Agent.override`: other parts for an agent while a context is open, for tests of an agent that a module defines."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict, TypeVar

from definable.errors import ServeError
from definable.original_library import unknown_arguments

from .arguments import check_interface
from .bus.emitter import Emitter

if TYPE_CHECKING:
    from definable.model.base import Model

    from .bus.base import EventBus
    from .interface.base import BaseInterface
    from .parts import AgentParts
    from .session.base import SessionStore

AnyAgent = TypeVar("AnyAgent", bound="AgentParts")


class Overrides(TypedDict, total=False):
    """The parts of an agent that can be overridden."""

    model: Model | str
    bus: EventBus | None
    """None: a `MemoryBus`, as of an agent that was given none."""
    sessions: SessionStore
    interfaces: Sequence[BaseInterface]
    """In place of those that `add_interface` was given; those of a `serve(...)` are not overridden."""


@contextmanager
def overridden(agent: AnyAgent, parts: Overrides) -> Generator[AnyAgent, None, None]:
    """Let the agent have other parts while the context is open.

    Raises:
        ServeError: The agent is being served, or still is at the end.
    """
    if unknown := parts.keys() - Overrides.__annotations__.keys():
        unknown_arguments("override()", unknown, Overrides.__annotations__, {})
    if agent.runtime is not None:
        raise ServeError("an agent cannot be overridden while it is served: enter override() first, serve within")
    before = agent.parts
    try:
        _exchange(agent, parts)
        yield agent
        if agent.runtime is not None:
            raise ServeError("the agent is still served at the end of override(): stop it within")
    finally:
        agent.restore(before)


def _exchange(agent: AgentParts, parts: Overrides) -> None:
    if "model" in parts:
        agent.model = parts["model"]
    if "sessions" in parts:
        agent.sessions = parts["sessions"]
    if "interfaces" in parts:
        for interface in parts["interfaces"]:
            check_interface(interface)
        agent.interfaces = list(parts["interfaces"])
    bus = parts.get("bus", agent.bus)
    agent.emitter = Emitter(bus)  # what one test emits is no other's, and an emitter ends with its serving
    agent.bus = bus
