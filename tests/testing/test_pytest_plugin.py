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




async def test_a_block_within_a_deadline(serve_agent):
    with anyio.fail_after(3600):
        async with serve_agent(Agent("offline"), enable_server=True) as runtime:
            assert not runtime.draining
    assert runtime.report.clean
    await anyio.sleep(1)


async def test_an_agent_is_awaited_within_a_deadline_and_a_task_group(serve_agent):
    with anyio.fail_after(3600):
        first = await serve_agent(Agent("offline"), enable_server=True)
    with anyio.move_on_after(1) as scope:
        second = await serve_agent(Agent("offline"), enable_server=True)
        await anyio.sleep_forever()
    assert scope.cancelled_caught and not (first.draining or second.draining)
    async with anyio.create_task_group() as group:
        third = await serve_agent(Agent("offline"), enable_server=False)
        group.start_soon(anyio.sleep, 1)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()
    assert first.url != second.url and third.report is None


async def test_a_start_that_fails_is_raised_where_the_agent_is_served(serve_agent):
    runtime = await serve_agent(Agent("offline"), enable_server=True)
    port = int(runtime.url.rpartition(":")[2])
    with pytest.raises(OSError), anyio.fail_after(60):
        await serve_agent(Agent("offline"), port=port, enable_server=True)
    with pytest.raises(OSError):
        async with serve_agent(Agent("offline"), port=port, enable_server=True):
            raise AssertionError
    await anyio.sleep(1)


async def test_a_block_s_own_failure_is_what_comes_out(serve_agent):
    with pytest.raises(KeyError):
        async with serve_agent(Agent("offline"), enable_server=False):
            raise KeyError
"""


def pytest_run(directory: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_project.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *options, "test_project.py"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=50, check=False)


def test_its_fixtures_serve_agents_in_virtual_time(tmp_path: Path) -> None:
    result = pytest_run(tmp_path, PROJECT, "--strict-markers")
    assert "14 passed, 2 errors" in result.stdout, result.stdout
    assert "AssertionError: agent stopped with work cut off" in result.stdout


def test_a_session_that_asks_for_nothing_loads_nothing(tmp_path: Path) -> None:
    code = "import sys\n\n\ndef test_nothing():\n    assert not {'openai', 'hypercorn', 'pydantic'} & {*sys.modules}\n"
    result = pytest_run(tmp_path, code, "-p", "no:schemathesis")
    assert "1 passed" in result.stdout, result.stdout
