"""What serves an agent: one task group, its children, and the account at its end."""

from definable.agent.work import WorkCount

from .logging import JSONFormatter, RunContextFilter, TextFormatter
from .runtime import AgentRuntime
from .shutdown import FiringCount, ShutdownReport

__all__ = [
    "AgentRuntime",
    "ShutdownReport",
    "WorkCount",
    "FiringCount",
    "RunContextFilter",
    "TextFormatter",
    "JSONFormatter",
]
