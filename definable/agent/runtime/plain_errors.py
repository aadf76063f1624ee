"""Errors reach the user once, as what they are: no `ExceptionGroup` around a single cause."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast


@contextmanager
def plain_errors() -> Generator[None, None, None]:
    """Unwrap a group of one exception that leaves the context; a group of several stays what it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = sole_cause(group)
        if error is None:
            raise
        raise error from error.__cause__


def sole_cause(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one exception within nested groups; None when there are several."""
    if len(group.exceptions) != 1:
        return None
    error = group.exceptions[0]
    return (
        sole_cause(cast("BaseExceptionGroup[BaseException]", error)) if isinstance(error, BaseExceptionGroup) else error
    )
