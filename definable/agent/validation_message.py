"""pydantic's validation errors in words that a model can act on: which field, what was expected, what came.

`tool.py` answers a call's bad arguments with it; `run_loop` may ask again for a reply that does not fit `output_type`.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails, ValidationError, to_json

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
