"""What development mode starts again, and how it tells with what status that has ended."""

from __future__ import annotations

import sys

import pytest

from definable.agent.runtime.dev.process import status_of
from definable.agent.runtime.dev.reload import own_command
from definable.errors import ServeError


def test_the_command_that_started_this_process_is_the_one_to_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "app.py", "--option"])
    assert own_command() == [sys.executable, "-W", "error", "app.py", "--option"]
    monkeypatch.setattr(sys, "orig_argv", ["python", "app.py"])
    assert own_command() == [sys.executable, "app.py"]


@pytest.mark.parametrize(("command", "executable"), [(["python"], "python"), ([], "python"), (["app", "-x"], "")])
def test_an_interactive_or_embedded_python_has_none(
    monkeypatch: pytest.MonkeyPatch, command: list[str], executable: str
) -> None:
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(ServeError, match="use dev=False"):
        own_command()


@pytest.mark.parametrize(("return_code", "status"), [(0, 0), (1, 1), (3, 3), (-1, 129), (-9, 137), (-15, 143)])
def test_a_process_that_was_killed_has_the_status_that_a_shell_gives_it(return_code: int, status: int) -> None:
    assert status_of(return_code) == status
