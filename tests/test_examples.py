"""Every example runs, as a user would run it, and does what it says."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from definable.agent import Agent
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import Webhook

ROOT = Path(__file__).parent.parent

EXAMPLES = ROOT / "examples"

WITHIN = 20.0
"""Seconds in which a line must come."""

TESTED_ELSEWHERE = {
    "quickstart": "test_readme",
    "custom_interface": "test_custom_interface_example",
    "replicas": "test_replicas_example",
    "slack_app": "test_slack_example",
}


class Example:
    """An example that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.output = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Read what it prints until it matches."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + WITHIN
        while (found := re.search(pattern, self.output)) is None:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"{pattern!r} did not come: {self.output}"
            self.output += data.decode()
        return found

    def ends(self) -> None:
        """Read until its end, which must be a success."""
        out, _ = self.process.communicate(timeout=WITHIN)
        self.output += out.decode()
        assert self.process.returncode == 0, self.output

    def stops(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.ends()
        assert "stopped cleanly" in self.output


@contextmanager
def running(*command: str, **environment: str) -> Generator[Example]:
    variables = {**os.environ, "OPENAI_API_KEY": "", "PYTHONUNBUFFERED": "1", "PORT": "0", **environment}
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables
    )
    with process:
        try:
            yield Example(process)
        finally:
            process.kill()


def script(name: str) -> str:
    return str(EXAMPLES / f"{name}.py")


def test_every_example_is_tested() -> None:
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        elsewhere = TESTED_ELSEWHERE.get(path.stem)
        assert (
            f"def test_{path.stem}" in tests if elsewhere is None else [*Path(__file__).parent.rglob(f"{elsewhere}.py")]
        )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_closed_or_bound_to_this_machine_or_says_why_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    source = path.read_text()
    module = runpy.run_path(str(path), run_name="example")
    for agent in [value for value in module.values() if isinstance(value, Agent)]:
        webhooks = [trigger for trigger in agent.triggers if isinstance(trigger, Webhook)]
        if any(webhook.auth for webhook in webhooks):
            assert agent.auth is not None, "what reaches the webhook reaches /run"
        has_server = "enable_server=False" not in source and (AgentRuntime(agent).serves_http or "asgi()" in source)
        is_closed = agent.auth is not None and not any(webhook.auth is False for webhook in webhooks)
        if has_server and not is_closed:
            assert 'host="127.0.0.1"' in source or "It is open to" in (module["__doc__"] or "")


def test_github_webhook() -> None:
    body = b'{"action": "opened"}'
    signature = hmac.new(b"x", body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-GitHub-Event": "issues", "X-GitHub-Delivery": "1"}
    with running(script("github_webhook"), GITHUB_WEBHOOK_SECRET="x") as example:
        url = f"{example.until('http://127.0.0.1:(?!8000)[0-9]+')[0]}/github/definable"
        assert httpx2.post(url, content=body, headers=headers).status_code == 401
        headers["X-Hub-Signature-256"] = f"sha256={signature}"
        assert httpx2.post(url, content=body, headers=headers).status_code == 202
        assert httpx2.post(url, content=body, headers=headers).json() == {"status": "duplicate"}
        assert httpx2.post(url.replace("/github/definable", "/run"), json={"input": "hi"}).status_code == 401
        example.until(r"Summarize what happened in definable: \{'action': 'opened'\}")
        example.stops()
    assert f"sha256={signature}" in example.output, "the curl that it shows would be accepted"


def test_cron_time_zone() -> None:
    with running(script("cron_time_zone")) as example:
        example.until(r"30 2 \* \* \*  next .* CES?T")
        example.until(r"\* \*/2\) fired")
        example.stops()


def test_events(tmp_path: Path) -> None:
    with running("-W", "error", script("events"), str(tmp_path / "events.db")) as example:
        example.ends()
    for line in (r"event\(order.placed\): Thank for order 1", r"event\(order.paid\): Thank for order 3"):
        assert re.search(line, example.output)
    assert "dead letter {'id': 3, 'customer': 'Ann'}: ConnectionError: the printer is on fire" in example.output


def test_everything() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    headers = {"X-API-Key": "k"}
    with running(script("everything"), API_KEY="k", CHAT_PORT=str(port)) as example:
        url = example.until(r"http://127.0.0.1:\d+")[0]
        example.until("auth ")
        assert httpx2.post(f"{url}/run", json={"input": "hello"}).status_code == 401
        response = httpx2.post(f"{url}/run", json={"input": "hello"}, headers=headers)
        assert response.json()["content"] == "hello"
        response = httpx2.post(f"{url}/signup", json={"name": "Ann"}, headers=headers)
        assert response.json()["content"] == "Welcome Ann"
        example.until(r"event\(user.signup\): \{'name': 'Ann'\}")
        with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as chat:
            chat.sendall(b"hi\n")
            assert chat.recv(100) == b"hi\n"
        example.stops()


def test_trio_service() -> None:
    with running("-W", "error", script("trio_service")) as example:
        example.ends()
    assert example.output.startswith("ready at http://127.0.0.1:")
    assert "tick 0\ntick 1\ntick 2" in example.output


def test_mounted() -> None:
    with running("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", "mounted:app") as example:
        url = example.until(r"http://127.0.0.1:\d+")[0]
        assert httpx2.get(url).text == "The agent is at /agent/run."
        response = httpx2.post(f"{url}/agent/run", json={"input": "hello"})
        assert (response.status_code, response.json()["content"]) == (200, "hello")
        assert httpx2.get(f"{url}/agent/health").json()["status"] == "ok"
        example.until(r"cron\(\* \* \* \* \* \*\) fired")
        example.process.send_signal(signal.SIGINT)
        example.until("Application shutdown complete")


def test_custom_auth() -> None:
    with running(script("custom_auth")) as example:
        url = example.until(r"http://127.0.0.1:\d+")[0]
        for token, status in (("ann-token", 200), ("eve-token", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx2.post(f"{url}/run", json={"input": "hello"}, headers=headers).status_code == status
        example.stops()


def test_tools_and_output() -> None:
    with running("-W", "error", script("tools_and_output")) as example:
        example.ends()
    assert "ToolCallEnded\nToolCallEnded\nTextDelta" in example.output
    assert "Weather(city='Oslo', degrees=21.5, advice='A T-shirt.')" in example.output


def test_web_chat() -> None:
    with running("-W", "error", script("web_chat")) as example:
        url = example.until(r"http://127.0.0.1:(?!8000)\d+")[0]
        example.until("auth ")
        with httpx2.Client(base_url=url, trust_env=False) as client:
            assert 'src="chat/widget.js"' in client.get("/shop").text
            assert "Our shop" in client.get("/chat").text
            assert client.get("/chat/events").status_code == 401
            assert client.post("/chat/session", json={}).status_code == 200
            message = {"id": "message-1", "text": "menu"}
            assert client.post("/chat/messages", json=message).status_code == 202
            with client.stream("GET", "/chat/events") as events:
                lines = events.iter_lines()
                assert any("What is it about?" in line and "An order" in line for line in lines)
                lines.close()
        example.stops()
