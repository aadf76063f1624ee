"""What user code raises: kept from taking down what runs it, and turned into text.

What leaves a tool, hook, handler or interface is one of three: a failure of that code alone, which is logged and
counted; a cancellation of ours; or `KeyboardInterrupt`, which ends the service. Log messages, dead-letter reasons,
`/health`, spans and what a model is told of a failed tool come from `error_text`: an exception's `__str__` is user code
too, and may raise, or return what is no string.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import cast

import anyio

from definable.concurrency.logs import logger_named

from .event_loop import is_cancelled

logger: logging.Logger = logger_named(__name__)

UNREADABLE = "<its message cannot be shown: its __str__ failed>"


def error_message(error: BaseException) -> str:
    """The exception's message; a placeholder where its `__str__` fails."""
    try:
        return str.__str__(str(error))  # a plain `str`, where `__str__` returns a subclass with methods of its own
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever the user's own `__str__` raises
        return UNREADABLE


def error_text(error: BaseException) -> str:
    """`ExceptionType: message`; the type alone where there is no message. A group of one is that one."""
    cause = sole_member(error)
    name, message = type(cause).__name__, error_message(cause)
    return f"{name}: {message}" if message else name


def can_be_shown(error: BaseException) -> bool:
    """Whether its `__repr__` works, by which logs, tracebacks and trio show it."""
    try:
        repr(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever the user's own `__repr__` raises
        return False
    return True


def is_plain(error: BaseException) -> bool:
    """Whether `except Exception` catches it, whatever its `__class__` says."""
    return issubclass(type(error), Exception)


def sole_member(error: BaseException) -> BaseException:
    """The one exception within nested groups of one; another group, or an exception that is none, as it is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return sole_member(group.exceptions[0]) if len(group.exceptions) == 1 else group


def is_failure(error: BaseException) -> bool:
    """Whether what user code raised is a failure of it alone, in a task that anybody may cancel: the caller's.

    So is every exception that is no `Exception`, also out of a task group: `SystemExit`, the panic of an extension
    written in Rust, and on asyncio the cancellation of another task that the code awaits. `KeyboardInterrupt` and a
    cancellation of the task are not.
    """
    if is_plain(error):
        return True
    if _has(error, KeyboardInterrupt) or _is_closing(error):
        return False
    return not (_has(error, anyio.get_cancelled_exc_class()) and is_cancelled())


def contained_error(error: BaseException, whose: str) -> BaseException:
    """What user code raised in a task of ours, as what runs it may see it: plain errors only.

    An exception that is no `Exception` becomes a `RuntimeError`, also out of a task group: `sys.exit()`, a Rust
    extension's panic, and the cancellation of another task that the code awaits, which asyncio lets through. So does
    one whose `__repr__` fails, which trio's nurseries would ask for. Cancel scopes alone cancel our tasks: one that the
    code has cancelled itself is a failure as well. `KeyboardInterrupt` goes on, and so does a cancellation by a scope,
    without the failures that a group has beside it, which are logged; and every cancellation of a task that is a
    foreign ASGI server's. (In a task that the code itself starts, asyncio ends the event loop at a `SystemExit`, and
    nothing can keep it from that.)

    Args:
        error: What it raised.
        whose: Whose code it is, for the error.

    Returns:
        The same, or another that it is the cause of.
    """
    if is_plain(error):
        return error if can_be_shown(error) else failure_of(error, whose)
    if _has(error, KeyboardInterrupt) or _is_closing(error):
        return error
    cancelled = anyio.get_cancelled_exc_class()
    if _has(error, cancelled) and _is_cancelled_from_outside():
        return _cancellation_alone(error, cancelled, whose)
    return failure_of(error, whose)


def failure_of(error: BaseException, whose: str) -> RuntimeError:
    """An `Exception` in place of one that is none."""
    failure = RuntimeError(f"{whose} raised {error_text(error)}")
    failure.__cause__ = error
    return failure


class contain_errors:
    """A context in which user code raises plain errors only (see `contained_error`). It has no state: one will do.

    Args:
        whose: Whose code it is, for the error.
    """

    def __init__(self, whose: str) -> None:
        self._whose = whose

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (failure := contained_error(error, self._whose)) is not error:
            raise failure


def is_cut_off(error: BaseException) -> bool:
    """Whether what leaves a piece of work is no failure of it: the work was cut off.

    To be asked where `contained_error` has seen to what user code raises.
    """
    if is_plain(error):
        return False
    if _has(error, KeyboardInterrupt) or isinstance(error, GeneratorExit):
        return True
    return _has(error, anyio.get_cancelled_exc_class())


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether an exception is of a kind, or a group that has one of it."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).subgroup(kind) is not None
    return isinstance(error, kind)


def _is_closing(error: BaseException) -> bool:
    """Whether a coroutine is being closed, since its event loop has ended: no code of it may run on."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        anyio.get_current_task()
    except anyio.NoEventLoopError:
        return True
    return False


def _cancellation_alone(error: BaseException, cancelled: type[BaseException], whose: str) -> BaseException:
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    cancellations, failures = group.split(cancelled)
    if failures is not None:
        logger.error("%s failed while it was cancelled: %s", whose, error_text(failures), exc_info=failures)
    return group if cancellations is None else cancellations


def _is_cancelled_from_outside() -> bool:
    task = anyio.get_current_task()
    is_ours = task.parent_id is not None  # else no task group of anyio's has started it
    return task.has_pending_cancellation() or (not is_ours and is_cancelled())
