"""The agent and what a run of it is. Its rooms: `trigger`, `auth`, `bus`, `session`, `interface`, `runtime`."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .agent import Agent
    from .run_context import RunContext
    from .run_output import RunOutput, RunStatus
    from .tools import tool

__all__ = ["Agent", "RunContext", "RunOutput", "RunStatus", "tool"]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "Agent": ".agent",
        "RunContext": ".run_context",
        "RunOutput": ".run_output",
        "RunStatus": ".run_output",
        "tool": ".tools",
    },
)
