"""The pytest plugin as a user has it: installed, in a project of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = """
import anyio
import pytest

from definable.agent import Agent
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import Cron

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend):
    return virtual_backend


@pytest.mark.virtual_start("2026-03-29T00:00:00+01:00")
async def test_a_night_without_half_past_two(serve_agent, offline_model, virtual_clock):
    agent = Agent(offline_model)
    agent.on(Cron("30 2 * * *", timezone="Europe/Oslo"))(lambda event: "report")
    runtime = await serve_agent(agent, enable_server=False)
    await anyio.sleep(24 * 3600)
    assert [request.messages[-1].content for request in offline_model.requests] == ["report"]
    virtual_clock.step(-3600)


async def test_an_agent_over_http(serve_agent):
    runtime = await serve_agent(Agent("offline"), enable_server=True)
    assert runtime.url.startswith("http://127.0.0.1:")


async def test_a_cut_off_run_fails_the_test(serve_agent):
    agent = Agent("offline")

    @agent.on(Cron("* * * * * *", overlap="allow"))
    async def slow(event):
        await anyio.sleep_forever()

    await serve_agent(agent, shutdown_timeout=0.1)
    await anyio.sleep(1.5)
"""


def pytest_run(directory: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_project.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *options, "test_project.py"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=50, check=False)


def test_its_fixtures_serve_agents_in_virtual_time(tmp_path: Path) -> None:
    result = pytest_run(tmp_path, PROJECT, "--strict-markers")
    assert "6 passed, 2 errors" in result.stdout, result.stdout
    assert "AssertionError: agent stopped with work cut off" in result.stdout


def test_a_session_that_asks_for_nothing_loads_nothing(tmp_path: Path) -> None:
    code = "import sys\n\n\ndef test_nothing():\n    assert not {'openai', 'hypercorn', 'pydantic'} & {*sys.modules}\n"
    result = pytest_run(tmp_path, code, "-p", "no:schemathesis")
    assert "1 passed" in result.stdout, result.stdout
