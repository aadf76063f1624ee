"""Which handlers and levels a process gets whose logs we show, and what a program's own set-up keeps."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from definable.agent.runtime import JSONFormatter, RunContextFilter, TextFormatter
from definable.agent.runtime.logging import ensure_visible, is_colourful, is_configured, show_logs

NAMES = ("", "definable", "__main__", "shop")


@contextmanager
def a_new_process() -> Generator[logging.Logger]:
    """The root logger, as bare as in a new process; put back afterwards. No fixture: pytest's handlers come later."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET if logger.name != "root" else logging.WARNING)
    try:
        yield logging.getLogger()
    finally:
        for logger, level, handlers in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)


def levels() -> dict[str, str]:
    return {name: logging.getLevelName(logging.getLogger(name).level) for name in NAMES}


def test_without_a_set_up_there_are_lines_for_people_on_standard_error() -> None:
    with a_new_process() as root:
        assert not is_configured()
        ensure_visible()
        assert is_configured()
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        assert handler.stream is sys.stderr
        assert isinstance(handler.formatter, TextFormatter)
        assert [type(each) for each in handler.filters] == [RunContextFilter]
        assert levels() == {"": "WARNING", "definable": "INFO", "__main__": "INFO", "shop": "NOTSET"}


def test_a_programs_own_set_up_stays() -> None:
    with a_new_process() as root:
        mine = logging.StreamHandler(io.StringIO())
        root.addHandler(mine)
        logging.getLogger("definable").setLevel(logging.ERROR)
        ensure_visible()
        assert root.handlers == [mine]
        show_logs()
        assert root.handlers == [mine]
        assert levels()["definable"] == "ERROR"


def test_a_format_replaces_what_shows_on_the_console_and_leaves_files_alone(tmp_path: Path) -> None:
    with a_new_process() as root, closing(logging.FileHandler(tmp_path / "log")) as file:
        for handler in (logging.StreamHandler(), logging.StreamHandler(), file):
            root.addHandler(handler)
        show_logs("json")
        assert root.handlers[0] is file
        assert [type(handler.formatter) for handler in root.handlers[1:]] == [JSONFormatter]
        show_logs("text")
        assert root.handlers[0] is file
        assert [type(handler.formatter) for handler in root.handlers[1:]] == [TextFormatter]


def test_a_level_is_that_of_definable_and_of_the_programs_own_loggers() -> None:
    with a_new_process() as root:
        logging.getLogger("shop").setLevel(logging.ERROR)
        show_logs(None, None, "shop")
        assert levels() == {"": "WARNING", "definable": "INFO", "__main__": "INFO", "shop": "ERROR"}
        show_logs(None, "debug", "shop")
        assert levels() == {"": "WARNING", "definable": "DEBUG", "__main__": "DEBUG", "shop": "DEBUG"}
        assert len(root.handlers) == 1


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "environment", "colourful"),
    [
        (True, {}, True),
        (True, {"TERM": "xterm"}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, environment: dict[str, str], colourful: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_colourful(Stream(is_terminal)) is colourful


def test_a_record_that_cannot_be_shown_takes_nothing_along(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    with a_new_process():
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        show_logs()
        [handler] = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        monkeypatch.setattr(sys, "stderr", closed)
        handler.stream = closed
        logging.getLogger("definable").error("lost")
        show_logs("json")  # which replaces it
        assert len(logging.getLogger().handlers) == 1
