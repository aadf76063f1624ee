"""An event loop that is stuck is noticed by another thread, which says where."""

from __future__ import annotations

import logging
import threading
import time

import anyio
import pytest

from definable.agent import Agent
from definable.agent.runtime.signals import Watchdog
from definable.concurrency.event_loop import EventLoopHandle

pytestmark = pytest.mark.anyio


def block_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_stuck_loop_is_reported_once_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Watchdog(EventLoopHandle(), interval=0.01, patience=0.05):
        await anyio.sleep(0.05)
        block_the_loop(0.5)
        with anyio.fail_after(5):
            while "goes on" not in caplog.text:
                await anyio.sleep(0.01)
    assert caplog.text.count("stuck for 0.05 s") == 1
    assert "in block_the_loop\n    time.sleep(seconds)" in caplog.text


async def test_a_loop_that_runs_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with Watchdog(EventLoopHandle(), interval=0.01, patience=5):
        await anyio.sleep(0.2)
    assert caplog.text == ""


@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_it_ends_with_the_context_at_once(pause: float) -> None:
    for _ in range(50):
        before, began = threading.active_count(), time.perf_counter()
        with Watchdog(EventLoopHandle(), interval=pause / 2, patience=60):
            block_the_loop(pause)  # so that a question is open when the context is left
        assert threading.active_count() <= before
        assert time.perf_counter() - began < 5


async def test_a_served_agent_has_one() -> None:
    def watchdogs() -> int:
        return sum(thread.name == "definable watchdog" for thread in threading.enumerate())

    async with Agent("offline").running(enable_server=False):
        assert watchdogs() == 1
    assert watchdogs() == 0
