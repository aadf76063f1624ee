"""What serves an agent: one task group, its children, and the account at its end."""

from .logging import JSONFormatter, RunContextFilter, TextFormatter
from .report import ShutdownReport, WorkCount
from .runtime import AgentRuntime

__all__ = ["AgentRuntime", "ShutdownReport", "WorkCount", "RunContextFilter", "TextFormatter", "JSONFormatter"]
