"""A directory of programs, and the command line in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import APP, Done, Run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with one program."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def definable(project: Path) -> Run:
    """Runs `definable` in the project, as a process of its own."""

    def run(*arguments: str, stdin: str | None = None, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "definable", *arguments],
            cwd=project,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env={**os.environ, **env},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
