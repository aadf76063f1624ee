"""`definable demo`: a ready agent, answered and stopped as a newcomer would."""

import re
import signal
import socket
import subprocess
import sys

import httpx2
import pytest
from click.testing import CliRunner

from definable import __version__
from definable.cli import main


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_demo_answers_and_stops_cleanly(backend: str) -> None:
    command = [sys.executable, "-m", "definable", "demo", "--port", "0", "--backend", backend]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first, url = process.stderr.readline(), re.search(r"http://\S+", process.stderr.readline())
        assert f"demo on offline ({backend})" in first
        assert url is not None
        assert httpx2.post(f"{url[0]}/run", json={"input": "hi"}).json()["content"] == "hi"
        assert httpx2.post(f"{url[0]}/github", json={"action": "opened"}).status_code == 200
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "event(github): {'action': 'opened'}" in rest
    assert "http: 2 completed; event: 1 completed" in rest


def test_the_command_says_its_version() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["sevre"])
    assert result.exit_code == 2
    assert "sevre" in result.output


def test_a_demo_that_cannot_begin_says_why_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["demo", "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in result.output
    assert result.output.count("\n") == 1
    result = CliRunner().invoke(main, ["demo", "--port", "70000"])
    assert result.exit_code == 2
    assert "70000 is not in the range" in result.output
