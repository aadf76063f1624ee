"""What the README shows is run: its snippets, its quick start with a request, an event and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parent.parent

README = (ROOT / "README.md").read_text()

SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: re.sub(r"\W+", "-", snippet[:40]))
def test_a_snippet_runs(snippet: str, tmp_path: Path) -> None:
    serves = "agent.serve()" in snippet
    code = snippet.replace("agent.serve()", "agent.serve(host='127.0.0.1', port=0)")
    environment = {**os.environ, "OPENAI_API_KEY": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    with process:
        assert process.stderr is not None
        if serves:
            read_until(process, "auth ")
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert not serves or "stopped cleanly" in errors


def test_the_quick_start_answers_a_webhook_and_stops_cleanly() -> None:
    environment = {**os.environ, "OPENAI_API_KEY": "", "PYTHONUNBUFFERED": "1", "PORT": "0"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "quickstart.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        lines = read_until(process, "http://")
        url = re.search(r"http://\S+", lines)
        assert url is not None
        response = httpx2.post(f"{url[0]}/github", json={"action": "opened"})
        assert response.json()["content"] == "Summarize this GitHub event: {'action': 'opened'}"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "the agent runs on the offline model" in output
    assert "event(github.push): {'action': 'opened'}" in output
    assert "stopped cleanly" in errors
    assert "http: 1 completed; event: 1 completed" in errors


def test_the_readme_shows_the_quick_start_that_is_shipped() -> None:
    shipped = (ROOT / "examples" / "quickstart.py").read_text()
    shown = next(snippet for snippet in SNIPPETS if "agent.serve()" in snippet)
    for function in re.findall(r"async def on_\w+\(.*?\n\n", shown, re.DOTALL):
        assert function in shipped


def read_until(process: "subprocess.Popen[str]", marker: str) -> str:
    """The lines of standard error up to one that holds the marker."""
    assert process.stderr is not None
    lines: list[str] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines.append(process.stderr.readline())
        if marker in lines[-1] or not lines[-1]:
            break
    return "".join(lines)
