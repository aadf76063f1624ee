"""From an exception to the problem that its HTTP caller may see."""

from __future__ import annotations

from definable.agent.runtime.run_registry import TooManyRuns
from definable.errors import (
    EventBusError,
    ModelError,
    ModelTimeoutError,
    RunCancelled,
    RunTimeout,
    SessionNotFound,
    StorageError,
    TooManyOpenFiles,
)

from .problem import Problem

RETRY_AFTER = (b"retry-after", b"1")


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is, without internals.

    A time-out is 504, a failing model provider 502, a foreign or unknown session 404, a saturated service or one out of
    file descriptors 503, and all that nobody foresaw 500.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, RunTimeout):
        return Problem(504, str(error))
    if isinstance(error, ModelTimeoutError):
        return Problem(504, "the model provider did not answer in time")
    if isinstance(error, TimeoutError):
        return Problem(504, "the request was not handled in time")
    if (lack := _what_lacks(error)) is not None:
        return Problem(503, f"{lack}: try again later", headers=[RETRY_AFTER])
    if isinstance(error, ModelError):
        return Problem(502, "the model provider failed")
    if isinstance(error, SessionNotFound):
        return Problem(404, "there is no such session")
    if isinstance(error, RunCancelled):
        return Problem(409, "the run was cancelled")
    return Problem(500, "the service failed to handle this request")


def _what_lacks(error: Exception) -> str | None:
    """What the service has too little of for now; None when that is not why it failed."""
    if isinstance(error, TooManyOpenFiles):
        return "the service has too many open files"
    if isinstance(error, StorageError):
        return "the service cannot reach its storage"
    return "the service is saturated" if isinstance(error, TooManyRuns | EventBusError) else None


def is_worth_a_traceback(error: Exception, problem: Problem) -> bool:
    """Whether an operator should see the exception: it is nobody's mistake out there, and no mere lack of room."""
    if isinstance(error, StorageError | TooManyOpenFiles):
        return True
    return error is not problem and problem.status >= 500 and problem.status != 503
