"""Log calls of ours raise nothing of what the user's handlers, filters and record factories raise."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from definable.concurrency.logs import logger_named


class Panic(BaseException):
    """No `Exception`."""


def failing(error: BaseException) -> Callable[..., bool]:
    def fail(*arguments: object, **named: object) -> bool:
        raise error

    return fail


def with_handler(logger: logging.Logger, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    handler = logging.Handler()
    patch.setattr(handler, "emit", failing(error))
    patch.setattr(logger, "handlers", [handler])


def with_filter(logger: logging.Logger, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logger, "filters", [failing(error)])


def with_factory(logger: logging.Logger, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logging, "_logRecordFactory", failing(error))  # what setting one does


@pytest.mark.parametrize("error", [RuntimeError("the log server is away"), Panic("no words"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("place", [with_handler, with_filter, with_factory])
@pytest.mark.parametrize("is_reported", [True, False])
def test_no_call_raises_what_a_handler_raises(
    place: Callable[[logging.Logger, BaseException, pytest.MonkeyPatch], None],
    error: BaseException,
    is_reported: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logger_named("definable.tests.logs")
    place(logger, error, monkeypatch)
    monkeypatch.setattr(logging, "raiseExceptions", is_reported)
    logger.error("a failure")
    try:
        raise ValueError
    except ValueError:
        logger.exception("a failure")
    logging.LoggerAdapter(logger, {}).warning("a failure")
    assert capsys.readouterr().err.count("a line is lost") == (3 if is_reported else 0)


def test_standard_error_may_be_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logger_named("definable.tests.logs")
    with_handler(logger, RuntimeError(), monkeypatch)
    monkeypatch.setattr("sys.stderr", None)
    logger.error("a failure")


def test_an_interrupt_in_a_handler_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logger_named("definable.tests.logs")
    with_handler(logger, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        logger.error("a failure")


def test_a_record_names_the_line_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    logger = logger_named("definable.tests.logs")
    logger.error("a failure")
    logger.error("a failure", stacklevel=2)
    with_itself, with_caller = caplog.records
    assert with_itself.funcName == "test_a_record_names_the_line_of_the_call"
    assert with_caller.funcName != with_itself.funcName


def test_the_class_that_the_program_has_chosen_is_kept() -> None:
    class Chosen(logging.Logger):
        def notice(self) -> str:
            return "kept"

    logging.setLoggerClass(Chosen)
    try:
        chosen = logger_named("definable.tests.chosen")
    finally:
        logging.setLoggerClass(logging.Logger)
    assert isinstance(chosen, Chosen) and chosen.notice() == "kept"
    assert logger_named("definable.tests.chosen") is chosen is logging.getLogger("definable.tests.chosen")
