"""What an exception says, also one of the user's that cannot say it: the one way from an exception to text.

Log messages, dead-letter reasons, `/health`, spans and what a model is told of a failed tool come through here. An
exception's `__str__` is code of the user's like any other: it may raise, or return what is no string.
"""

from __future__ import annotations

from typing import cast

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


def sole_member(error: BaseException) -> BaseException:
    """The one exception within nested groups of one; another group, or an exception that is none, as it is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return sole_member(group.exceptions[0]) if len(group.exceptions) == 1 else group
