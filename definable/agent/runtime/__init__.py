"""What serves an agent: one task group, its children, and the account at its end."""

from .log_context import RunContextFilter
from .log_json import JSONFormatter
from .log_text import TextFormatter
from .report import ShutdownReport, WorkCount
from .runtime import AgentRuntime

__all__ = ["AgentRuntime", "ShutdownReport", "WorkCount", "RunContextFilter", "TextFormatter", "JSONFormatter"]
