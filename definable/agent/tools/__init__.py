"""Tools: functions that a model may call, with their JSON schema, and what becomes of their results.

It knows models' messages and nothing of runs but their context; the run loop calls it.
"""

from .tool import Tool, tool

__all__ = ["Tool", "tool"]
