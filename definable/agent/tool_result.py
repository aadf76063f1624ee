"""What came of a tool call: the function's value, and the text that the model sees of it.

`tool.py` makes them; `run_loop` puts `content` into the conversation, also for calls of tools that do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from definable.json_text import json_bytes, well_formed

from .error_text import error_text, sole_member

MAX_ERROR_LENGTH = 2_000
"""Characters of an exception's message that the model is shown."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of one tool call."""

    content: str
    """What the model sees."""
    value: Any = None
    """What the function returned; None after a failure."""
    error: str | None = None
    """What went wrong, in the words of `content`; None after success."""

    @classmethod
    def of(cls, value: Any) -> ToolResult:
        """The result of a call that returned `value`.

        A string is shown as it is, anything else as JSON, as pydantic writes it: models, dataclasses, dates, sets and
        so on; what JSON has no form for, as `json_bytes` says. None is `null`: some providers refuse an empty content.

        Raises:
            ValueError: `value` contains itself.
        """
        if isinstance(value, str):
            return cls(well_formed(str.__str__(value)), value)
        return cls(json_bytes(value).decode(), value)

    @classmethod
    def failed(cls, error: str) -> ToolResult:
        """The result of a call that failed; the model is told why and may do better."""
        return cls(well_formed(error), None, error)


def describe_exception(exception: BaseException) -> str:
    """`ExceptionType: message`, on the cause itself where exception groups hold a single one."""
    text = error_text(exception)
    name = type(sole_member(exception)).__name__
    limit = len(name) + len(": ") + MAX_ERROR_LENGTH
    return text if len(text) <= limit else f"{text[:limit]}..."
