"""One cause arrives as itself, several as a group."""

from __future__ import annotations

import pytest

from definable.concurrency.event_loop import plain_errors

ERROR = ZeroDivisionError("oops")


@pytest.mark.parametrize(
    "group",
    [
        ExceptionGroup("one", [ERROR]),
        ExceptionGroup("outer", [ExceptionGroup("inner", [ERROR])]),
        BaseExceptionGroup("outer", [ExceptionGroup("inner", [ERROR])]),
    ],
)
def test_a_sole_cause_is_raised_as_what_it_is(group: BaseExceptionGroup[BaseException]) -> None:
    with pytest.raises(ZeroDivisionError) as caught, plain_errors():
        raise group
    assert caught.value is ERROR


def test_a_sole_cause_keeps_its_own_cause() -> None:
    error, cause = ValueError("what"), KeyError("why")
    error.__cause__ = cause
    with pytest.raises(ValueError) as caught, plain_errors():
        raise ExceptionGroup("one", [error])
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    "group",
    [
        ExceptionGroup("two", [ERROR, KeyError()]),
        ExceptionGroup("outer", [ExceptionGroup("inner", [ERROR, KeyError()])]),
    ],
)
def test_several_stay_a_group(group: ExceptionGroup[Exception]) -> None:
    with pytest.raises(ExceptionGroup) as caught, plain_errors():
        raise group
    assert caught.value is group


def test_others_pass() -> None:
    with pytest.raises(KeyError), plain_errors():
        raise KeyError
    with plain_errors():
        pass
