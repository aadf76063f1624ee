"""How the failure of a piece of work is logged: by its words where they say it all, else with its traceback."""

from __future__ import annotations

import logging

from definable.agent.error_text import error_text
from definable.agent.run_context import ids_of
from definable.errors import ModelError


def log_failure(logger: logging.Logger, level: int, error: Exception, what: str, *args: object) -> None:
    """Log a failure.

    Args:
        logger: Whose it is.
        level: Of the record.
        error: Why it failed.
        what: What failed, a format for `args`, without the reason.
        args: Of the format.
    """
    if not says_it_all(error):
        logger.log(level, what, *args, exc_info=error)
        return
    ids = ids_of(error)
    logger.log(level, f"{what}: %s", *args, error_text(error), extra=None if ids is None else ids._asdict())  # noqa: G004 - the format is the caller's


def says_it_all(error: Exception) -> bool:
    """Whether a failure's message names what failed and what to do: of a model provider, whose calls are all ours."""
    return isinstance(error, ModelError)
