"""What came of a tool call: the function's value, and the text that the model sees of it.

`tool.py` makes them; the run loop puts `content` into the conversation, also for calls of tools that do not exist. Bad
arguments are answered with pydantic's errors in words that a model can act on: which field, what was expected, and
what came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails, ValidationError, to_json

from definable.concurrency.isolation import error_text, sole_member
from definable.json_text import json_bytes, well_formed

MAX_PROBLEMS = 10
"""Further ones are counted, not told."""

MAX_INPUT_LENGTH = 60
"""Characters of the offending value that are shown."""


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong, field by field.

    Returns:
        Such as `city: required, but missing; days: input should be a valid integer, got "many"`.
    """
    problems = error.errors(include_url=False, include_context=False)
    told = "; ".join(_problem(problem) for problem in problems[:MAX_PROBLEMS])
    more = len(problems) - MAX_PROBLEMS
    return f"{told}; and {more} more" if more > 0 else told


def _problem(problem: ErrorDetails) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {_complaint(problem)}" if field else _complaint(problem)


def _complaint(problem: ErrorDetails) -> str:
    message = problem["msg"]
    match problem["type"]:
        case "missing":
            return "required, but missing"
        case "extra_forbidden":
            return "unknown, must not be given"
        case "json_invalid":
            return f"not valid JSON: {message.removeprefix('Invalid JSON: ')}"
        case "value_error" | "assertion_error":  # a user's own validator: after the comma come its words
            return f"{message.partition(', ')[2]}, got {_shown(problem['input'])}"
        case _:
            return f"{message[:1].lower()}{message[1:]}, got {_shown(problem['input'])}"


def _shown(value: Any) -> str:
    text = to_json(value, fallback=repr, bytes_mode="base64").decode()
    return text if len(text) <= MAX_INPUT_LENGTH else f"{text[:MAX_INPUT_LENGTH]}..."


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
