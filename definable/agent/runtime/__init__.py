"""What serves an agent: one task group, its children, and the account at its end."""

from definable.agent.report import ShutdownReport, WorkCount

from .logging import JSONFormatter, RunContextFilter, TextFormatter
from .runtime import AgentRuntime

__all__ = ["AgentRuntime", "ShutdownReport", "WorkCount", "RunContextFilter", "TextFormatter", "JSONFormatter"]
