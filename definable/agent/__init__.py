"""The agent and what a run of it is. Its rooms: `trigger`, `auth`, `bus`, `session`, `interface`, `runtime`."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .agent import Agent
    from .run.context import RunContext
    from .run.limits import UsageLimits
    from .run.output import RunEnded, RunOutput, RunStarted, RunStatus, TextDelta, ToolCallEnded, ToolCallStarted
    from .run.stream import RunStream
    from .tools.mcp import MCPServer
    from .tools.result import ToolResult
    from .tools.tool import Tool, tool

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
    "ToolResult",
    "MCPServer",
    "UsageLimits",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "Agent": ".agent",
        "RunContext": ".run.context",
        "RunOutput": ".run.output",
        "RunStatus": ".run.output",
        "tool": ".tools.tool",
        "Tool": ".tools.tool",
        "RunStream": ".run.stream",
        "RunStarted": ".run.output",
        "TextDelta": ".run.output",
        "ToolCallStarted": ".run.output",
        "ToolCallEnded": ".run.output",
        "RunEnded": ".run.output",
        "ToolResult": ".tools.result",
        "MCPServer": ".tools.mcp",
        "UsageLimits": ".run.limits",
    },
)
