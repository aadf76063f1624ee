"""What came of a tool call: the function's value, and the text that the model sees of it.

`tool.py` makes them; `run_loop` puts `content` into the conversation, also for calls of tools that do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from definable.json_text import json_bytes, well_formed

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
    cause = _single_cause(exception)
    try:
        message = str(cause)
    except Exception:  # the user's own __str__
        message = ""
    if len(message) > MAX_ERROR_LENGTH:
        message = f"{message[:MAX_ERROR_LENGTH]}..."
    name = type(cause).__name__
    return f"{name}: {message}" if message else name


def _single_cause(exception: BaseException) -> BaseException:
    if not isinstance(exception, BaseExceptionGroup):
        return exception
    group = cast("BaseExceptionGroup[BaseException]", exception)
    return _single_cause(group.exceptions[0]) if len(group.exceptions) == 1 else group
