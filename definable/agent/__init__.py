"""The agent and what a run of it is. Its rooms: `trigger`, `auth`, `bus`, `session`, `interface`, `runtime`."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .agent import Agent
    from .run_context import RunContext
    from .run_event import RunEnded, RunStarted, TextDelta, ToolCallEnded, ToolCallStarted
    from .run_output import RunOutput, RunStatus
    from .run_stream import RunStream
    from .tools import Tool, tool

__all__ = [
    "Agent",
    "RunContext",
    "RunOutput",
    "RunStatus",
    "tool",
    "Tool",
    "RunStream",
    "RunStarted",
    "TextDelta",
    "ToolCallStarted",
    "ToolCallEnded",
    "RunEnded",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "Agent": ".agent",
        "RunContext": ".run_context",
        "RunOutput": ".run_output",
        "RunStatus": ".run_output",
        "tool": ".tools",
        "Tool": ".tools",
        "RunStream": ".run_stream",
        "RunStarted": ".run_event",
        "TextDelta": ".run_event",
        "ToolCallStarted": ".run_event",
        "ToolCallEnded": ".run_event",
        "RunEnded": ".run_event",
    },
)
